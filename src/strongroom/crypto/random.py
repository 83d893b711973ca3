"""The one source of randomness."""

import os

from strongroom.base.secret import SecretBytes


def random_bytes(size_bytes: int) -> bytes:
    """Return random bytes from the operating system, for values that need not stay secret."""
    return os.urandom(size_bytes)


def random_secret(size_bytes: int = 32) -> SecretBytes:
    """Return a random secret, 256 bits unless told otherwise."""
    return SecretBytes(os.urandom(size_bytes))


def random_id() -> str:
    """Return a random identifier: 16 bytes as 32 lower-case hexadecimal digits."""
    return os.urandom(16).hex()
