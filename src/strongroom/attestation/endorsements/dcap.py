"""Endorsements for SGX and TDX: the vendor's nine documents, and where they come from."""

import re
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias

from typing_extensions import override

from strongroom.attestation.evidence.pck import authority_kind
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.crypto import x509
from strongroom.wire.model import Message

Tee: TypeAlias = Literal["SGX", "TDX"]
_FMSPC: Final = re.compile(r"[0-9a-f]{12}")


class DcapEndorsements(Message):
    """The collateral of one platform family, as dcap-qvl's `QuoteCollateralV3` writes it.

    Attributes:
        pck_crl_issuer_chain: PEM; the CA of the PCK certificates, then the root.
        root_ca_crl: DER in hexadecimal; the root's revocation list.
        pck_crl: DER in hexadecimal; the PCK CA's revocation list.
        tcb_info_issuer_chain: PEM; the TCB signing certificate, then the root.
        tcb_info: The exact JSON text that was signed.
        tcb_info_signature: r || s in hexadecimal.
        qe_identity_issuer_chain: PEM; the signer of the QE identity, then the root.
        qe_identity: The exact JSON text that was signed.
        qe_identity_signature: r || s in hexadecimal.

    Source: Intel SGX Provisioning Certification Service API, version 4.
    """

    pck_crl_issuer_chain: str
    root_ca_crl: str
    pck_crl: str
    tcb_info_issuer_chain: str
    tcb_info: str
    tcb_info_signature: str
    qe_identity_issuer_chain: str
    qe_identity: str
    qe_identity_signature: str


def parse_endorsements(json_bytes: bytes) -> DcapEndorsements:
    """Read endorsements from JSON: an object with exactly the nine strings.

    Raises:
        FormatError: Anything else.
    """
    return DcapEndorsements.from_json(json_bytes)


class EndorsementSource(Protocol):
    """Where a verifier gets endorsements. They are signed: the source need not be trusted."""

    def get(self, *, fmspc: str, ca: str, tee: Tee = "SGX") -> DcapEndorsements:
        """Return the endorsements of a platform family.

        Args:
            fmspc: 12 lower-case hexadecimal digits.
            ca: "platform" or "processor".
            tee: TCB levels and quoting enclave of which kind of TEE.

        Raises:
            NotFoundError: There are none.
            FormatError: What is there is malformed.
        """


class DirectoryEndorsements(EndorsementSource):
    """Endorsements in a folder, read anew when a file changes.

    One file a platform family and kind of TEE: `<fmspc>.json` for SGX, `<fmspc>-tdx.json` for TDX.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, tuple[tuple[int, int, int], DcapEndorsements]] = {}

    @override
    def get(self, *, fmspc: str, ca: str, tee: Tee = "SGX") -> DcapEndorsements:
        """Return the endorsements of a platform family (see `EndorsementSource`)."""
        if not _FMSPC.fullmatch(fmspc):
            raise FormatError("a platform family (FMSPC) is 12 lower-case hexadecimal digits")
        found = self._read(fmspc if tee == "SGX" else f"{fmspc}-tdx")
        if authority_kind(x509.parse_pem_chain(found.pck_crl_issuer_chain.encode())[0]) != ca:
            raise _not_found(fmspc, ca)
        return found

    def _read(self, name: str) -> DcapEndorsements:
        file = self._path / f"{name}.json"
        try:
            status = file.stat()
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known.get(name)
            if known is not None and known[0] == version:
                return known[1]
            endorsements = parse_endorsements(file.read_bytes())
        except OSError as error:
            raise _not_found(name, "any") from error
        self._known[name] = (version, endorsements)
        return endorsements


def _not_found(fmspc: str, ca: str) -> NotFoundError:
    return NotFoundError(
        f"there are no endorsements for platform family {fmspc} ({ca} CA)",
        action="Start the simulated platform, or put the vendor's collateral into the endorsements folder.",
    )
