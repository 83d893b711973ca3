"""What the hardware's vendor vouches for: certificates, revocation lists, TCB levels."""
