"""Endorsements for SEV-SNP: the signing key's certificate chain, and the root's revocation list."""

from pathlib import Path
from typing import Protocol

from typing_extensions import override

from strongroom.base.errors import NotFoundError
from strongroom.crypto.x509 import spki_sha256
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


class RevocationSource(Protocol):
    """Where a verifier gets the revocation lists of AMD's roots. They are signed: the source need not be trusted."""

    def crl(self, root_der: bytes) -> bytes:
        """Return the revocation list of a root, DER.

        Raises:
            NotFoundError: There is none.
        """


class DirectoryRevocations(RevocationSource):
    """Revocation lists in a folder: `<SHA-256 of the root's key>.crl`, DER; read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def crl(self, root_der: bytes) -> bytes:
        """Return the revocation list of a root (see `RevocationSource`)."""
        try:
            return (self._path / f"{spki_sha256(root_der)}.crl").read_bytes()
        except OSError as error:
            raise NotFoundError(
                "there is no revocation list of the report's root",
                action="Put the vendor's list into the endorsements folder, named by the SHA-256 of the root's key.",
            ) from error
