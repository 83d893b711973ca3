"""Cryptography behind a few functions: the only package that imports `cryptography` and `joserfc`."""
