"""Endorsements for SEV-SNP: the signing key's certificate chain, and the root's revocation list."""

from pathlib import Path
from typing import Protocol

from typing_extensions import override

from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.evidence.snp_report import SnpReport
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

    def crl(self, root_der: bytes, *, signing_key: EndorsementKey = "VCEK") -> bytes:
        """Return the revocation list of a root, DER.

        Args:
            root_der: The ARK's certificate.
            signing_key: Whose chain is checked with it; AMD publishes a list for each.

        Raises:
            NotFoundError: There is none.
            UnavailableError: There is none that is new enough.
        """


class SnpEndorsementSource(RevocationSource, Protocol):
    """Where a verifier gets whole endorsements, for reports that arrive without certificates."""

    def for_report(self, report: SnpReport) -> SnpEndorsements:
        """Return the endorsements that a report needs.

        Args:
            report: The report, not verified: good for a look-up, nothing else.

        Raises:
            NotFoundError: There are none.
            UnavailableError: There are none that are new enough.
        """


class DirectoryRevocations(SnpEndorsementSource):
    """Revocation lists in a folder: `<SHA-256 of the root's key>.crl`, DER; read anew each time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @override
    def crl(self, root_der: bytes, *, signing_key: EndorsementKey = "VCEK") -> bytes:
        """Return the revocation list of a root (see `RevocationSource`); one serves both kinds of signing keys."""
        del signing_key
        try:
            return (self._path / f"{spki_sha256(root_der)}.crl").read_bytes()
        except OSError as error:
            raise NotFoundError(
                "there is no revocation list of the report's root",
                action="Put the vendor's list into the endorsements folder, named by the SHA-256 of the root's key.",
            ) from error

    @override
    def for_report(self, report: SnpReport) -> SnpEndorsements:
        """Refuse: a folder has no chips' certificates."""
        del report
        raise NotFoundError(
            "the report came without its certificates, and none are kept here",
            action="Send the certificate chain with the report, or configure AMD's key distribution service.",
        )
