"""Policies as pure functions: what a verifier accepts, what frees a key, what an owner approved, and why not."""
