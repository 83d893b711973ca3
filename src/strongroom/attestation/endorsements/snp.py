"""Endorsements for SEV-SNP: the signing key's certificate chain, and the root's revocation list."""

from strongroom.wire.model import Message


class SnpEndorsements(Message):
    """What AMD's key distribution service has for one chip at one TCB version.

    Attributes:
        certificate_chain: PEM; VCEK or VLEK, then ASK or ASVK, then ARK.
        crl: DER in hexadecimal; the ARK's revocation list, which covers ASK and ASVK. AMD keeps none for chips: a newer
            TCB version supersedes the key of an older one.

    Source: AMD document 57230 (KDS interface specification), sections 4.1 to 4.3.
    """

    certificate_chain: str
    crl: str


def parse_snp_endorsements(json_bytes: bytes) -> SnpEndorsements:
    """Read endorsements from JSON: an object with exactly the two strings.

    Raises:
        FormatError: Anything else.
    """
    return SnpEndorsements.from_json(json_bytes)
