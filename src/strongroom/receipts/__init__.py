"""The proof of a run: built inside the TEE, verified outside, offline."""
