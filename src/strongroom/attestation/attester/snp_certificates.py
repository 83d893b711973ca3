"""The certificates that a host hands to an SEV-SNP guest beside a report.

The host chooses them freely; they prove nothing until a verifier has followed them to a root that it trusts.

Source: AMD, Guest-Hypervisor Communication Block specification (document 56421), "SNP Extended Guest Request";
RFC 4122 for the order of a GUID's bytes.
"""

import struct
import uuid
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

from strongroom.attestation.evidence.snp_report import SigningKeyKind
from strongroom.base.errors import FormatError
from strongroom.crypto.x509 import parse_pem_chain, to_pem

_ENTRY: Final = struct.Struct("<16sII")
_NAMES: Final[Mapping[bytes, str]] = {
    uuid.UUID("63da758d-e664-4564-adc5-f4b93be8accd").bytes: "VCEK",
    uuid.UUID("a8074bc2-a25a-483e-aae6-39c045a0b8a1").bytes: "VLEK",
    uuid.UUID("4ab7b379-bbac-4fe4-a02f-05aef327c782").bytes: "ASK",
    uuid.UUID("c0b406a4-a803-4952-9743-3fb6014cd0ae").bytes: "ARK",
}
_PEM: Final = b"-----BEGIN"


def certificate_chain(table: bytes, *, signing_key: SigningKeyKind) -> str | None:
    """Return the chain of the key that signed a report, as far as the host hands it out.

    Args:
        table: The certificate table; empty or all zero where the host has none.
        signing_key: Which key the report says it is signed with.

    Returns:
        PEM, the key's certificate first; None without that certificate.

    Raises:
        FormatError: The table is malformed, or a certificate in it is.
    """
    entries = read_certificate_table(table)
    if signing_key not in entries:
        return None
    return "".join(_pem(entries[name]) for name in (signing_key, "ASK", "ARK") if name in entries)


def read_certificate_table(table: bytes) -> dict[str, bytes]:
    """Read a certificate table.

    1. Entries follow each other from the start; one of zeros ends them.
    2. Each lies behind the entries, within the table; none overlaps another, and no name stands twice.

    Args:
        table: The bytes; empty for none.

    Returns:
        The bytes of VCEK, VLEK, ASK (for a VLEK: ASVK) and ARK, as far as there are; other entries are left out.

    Raises:
        FormatError: It is none.
    """
    entries: list[tuple[bytes, int, int]] = []
    for start in range(0, len(table), _ENTRY.size):  # 1
        if len(table) - start < _ENTRY.size:
            raise FormatError("the host's certificate table has no end")
        guid, offset, length = _ENTRY.unpack_from(table, start)
        if not any(guid):
            if offset | length:
                raise FormatError("an entry of the host's certificate table has no name")
            break
        entries.append((guid, offset, length))
    else:
        if table:
            raise FormatError("the host's certificate table has no end")
    _demand_apart(entries, first=(len(entries) + 1) * _ENTRY.size, end=len(table))  # 2
    names = [guid for guid, _, _ in entries]
    if len(set(names)) != len(names):
        raise FormatError("the host's certificate table names a certificate twice")
    return {_NAMES[guid]: table[offset : offset + length] for guid, offset, length in entries if guid in _NAMES}


def _demand_apart(entries: list[tuple[bytes, int, int]], *, first: int, end: int) -> None:
    places = sorted((offset, offset + length) for _, offset, length in entries)
    if any(start < first or start == stop or stop > end for start, stop in places):
        raise FormatError("a certificate does not lie within the host's certificate table")
    if any(stop > start for (_, stop), (start, _) in pairwise(places)):
        raise FormatError("certificates in the host's certificate table overlap")


def _pem(certificate: bytes) -> str:
    """Return a certificate's PEM text; hosts store DER, some PEM."""
    return to_pem(parse_pem_chain(certificate)[0] if certificate.startswith(_PEM) else certificate)
