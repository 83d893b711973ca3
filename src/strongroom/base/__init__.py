"""What every layer needs: errors, secrets, encodings, clock, limits and the names of the eight steps."""
