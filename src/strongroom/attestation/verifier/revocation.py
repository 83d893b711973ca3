"""Revocation lists, read once: whoever verifies much evidence looks its certificates up in the same few lists."""

import functools
from typing import Final

from strongroom.base.encoding import from_hex
from strongroom.crypto import x509

_KEPT: Final = 32


@functools.lru_cache(maxsize=_KEPT)
def revocation_lists(*lists_hex: str) -> x509.RevocationLists:
    """Read a hierarchy's revocation lists; the same texts give the same object, for all threads.

    Whether a list holds is checked at each look-up.

    Args:
        lists_hex: The lists' DER, lower-case hexadecimal text.

    Raises:
        FormatError: One is malformed.
    """
    return x509.RevocationLists([from_hex(each) for each in lists_hex])
