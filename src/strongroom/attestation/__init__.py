"""Step 4: evidence, who makes it, who vouches for it, who verifies it, and what comes of it (RFC 9334's roles)."""
