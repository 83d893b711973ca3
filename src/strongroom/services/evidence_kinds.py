"""The kinds of evidence that the attestation service takes: how each arrives, is verified, and what it claims.

Of SEV-SNP and TDX, initTimeData may be a pod's initdata: then its dataType is `TOML`, which is ours. Azure's own are
compared with HOST_DATA alone.

Source: Azure Attestation REST API 2025-06-01, `POST /attest/{SgxEnclave,TdxVm,SevSnpVm}`.
"""

import hashlib
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias

from strongroom.attestation.claims import RuntimeDataType, initdata_claims, sgx_claims, snp_claims, tdx_claims
from strongroom.attestation.endorsements.dcap import DcapEndorsements, EndorsementSource, Tee
from strongroom.attestation.endorsements.snp import SnpEndorsements, SnpEndorsementSource
from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.evidence.dcap_quote import SgxQuote, TdxQuote, parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.initdata import verify_initdata
from strongroom.attestation.evidence.pck import platform_kind
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoots, verify_sgx, verify_snp, verify_tdx
from strongroom.base.encoding import Json, from_any_b64, parse_json, parse_json_object
from strongroom.base.errors import FormatError, LimitError, Mismatch, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.wire.model import VirtualTeeKind

_TOML: Final = "TOML"
"""The data type of initdata (`attestation.evidence.initdata`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestedData:
    """Data that stands behind a hash in the evidence: what the TEE made, or what was fixed at its launch."""

    data: bytes
    kind: RuntimeDataType | Literal["TOML"]


@dataclass(frozen=True, slots=True, kw_only=True)
class AttestRequest:
    """What a client sends.

    Attributes:
        evidence: The quote; for SEV-SNP the JSON object around the report.
        runtime: The runtime data, or None.
        init_time: The data whose hash was fixed at launch, or None.
        nonce: What the client wants to see in the result, or None.
    """

    evidence: bytes
    runtime: AttestedData | None
    init_time: AttestedData | None
    nonce: str | None

    @property
    def runtime_data(self) -> bytes | None:
        """The runtime data's exact bytes."""
        return None if self.runtime is None else self.runtime.data

    @property
    def runtime_kind(self) -> RuntimeDataType:
        """How the runtime data stand in the claims."""
        return "JSON" if self.runtime is not None and self.runtime.kind == "JSON" else "Binary"


class Turn:
    """A caller's right to a processor, from `begin` until whoever gave it takes it back.

    Args:
        free: Counts the processors that nobody has; None for a caller who is alone.
    """

    def __init__(self, free: threading.Semaphore | None = None) -> None:
        self._free = free
        self._has_begun = False

    def begin(self) -> None:
        """Wait until a processor is free, and take it; nothing happens when the turn has begun."""
        if self._free is not None and not self._has_begun:
            self._has_begun = self._free.acquire()

    def end(self) -> None:
        """Let others have it."""
        if self._free is not None and self._has_begun:
            self._has_begun = False
            self._free.release()


class Turns:
    """Who verifies, appraises and signs has a turn, while others wait: as many as there are processors.

    So each caller's answer is ready soon, instead of all of them late. Nobody waits for the network with a turn.

    Args:
        number: How many there are.
    """

    def __init__(self, number: int) -> None:
        self._free = threading.Semaphore(number)

    @contextmanager
    def one(self) -> Iterator[Turn]:
        """Give a turn, not yet begun, and take it back."""
        turn = Turn(self._free)
        try:
            yield turn
        finally:
            turn.end()


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """What evidence is verified with.

    Attributes:
        roots: The trusted hardware roots.
        endorsements: Where SGX's and TDX's endorsements come from.
        revocations: Where the revocation lists of SEV-SNP's roots come from, and certificates for reports without.
        now: The time.
        turn: Begins before the evidence is verified, when everything is here that had to be asked for elsewhere.
    """

    roots: TrustedRoots
    endorsements: EndorsementSource
    revocations: SnpEndorsementSource
    now: datetime
    turn: Turn = field(default_factory=Turn)


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedClaims:
    """What verified evidence says.

    Attributes:
        claims: The claims, not yet appraised.
        newest_signed: The latest time that one of the documents it was verified with was signed at.
    """

    claims: dict[str, Json]
    newest_signed: datetime


Verify: TypeAlias = Callable[[AttestRequest, Anchors], VerifiedClaims]
"""Verifies evidence and returns its claims; raises what the verifier raises.

They are not yet appraised, and may be of unsafe evidence: a policy must permit them, and `demand_named` must hold.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceKind:
    """One kind of evidence.

    Attributes:
        field: The request's member that holds the evidence.
        verify: Verifies it.
    """

    field: str
    verify: Verify


def read_attest_request(body: Mapping[str, Any], kind: EvidenceKind) -> AttestRequest:
    """Read the body of an attest call.

    Raises:
        FormatError: A member is missing, unknown or malformed.
        LimitError: Evidence or data are too large.
    """
    unknown = sorted(set(body) - {kind.field, "runtimeData", "initTimeData", "nonce"})
    if unknown:
        raise FormatError(f"{unknown[0]} is not supported in this request")
    evidence, nonce = body.get(kind.field), body.get("nonce")
    if not isinstance(evidence, str):
        raise FormatError(f"the request needs {kind.field}")
    if nonce is not None and not isinstance(nonce, str):
        raise FormatError("nonce is text")
    decoded = from_any_b64(evidence)
    if len(decoded) > LIMITS.evidence_bytes:
        raise LimitError("the evidence is too large")
    return AttestRequest(
        evidence=decoded,
        runtime=_data(body, "runtimeData"),
        init_time=_initdata(body) or _data(body, "initTimeData"),
        nonce=nonce,
    )


def _data(body: Mapping[str, Any], name: str) -> AttestedData | None:
    match body.get(name):
        case None:
            return None
        case {"data": str(data), "dataType": str(kind), **more} if not more and kind.upper() in {"JSON", "BINARY"}:
            decoded = from_any_b64(data)
        case _:
            raise FormatError(f"{name} needs data, and a dataType that is JSON or Binary")
    if len(decoded) > LIMITS.runtime_data_bytes:
        raise LimitError(f"{name} is too large")
    return AttestedData(data=decoded, kind="JSON" if kind.upper() == "JSON" else "Binary")


def _initdata(body: Mapping[str, Any]) -> AttestedData | None:
    match body.get("initTimeData"):
        case {"data": str(data), "dataType": "TOML", **more} if not more:
            decoded = from_any_b64(data)
        case _:
            return None
    if len(decoded) > LIMITS.initdata_bytes:
        raise LimitError("initTimeData is too large")
    return AttestedData(data=decoded, kind=_TOML)


def _sgx(request: AttestRequest, anchors: Anchors) -> VerifiedClaims:
    _refuse_init_time(request)
    endorsements = _dcap_endorsements(parse_sgx_quote(request.evidence), anchors, tee="SGX")
    anchors.turn.begin()
    verified = verify_sgx(
        UnverifiedEvidence(kind="sgx", quote=request.evidence, runtime_data=request.runtime_data),
        trusted_roots=anchors.roots,
        endorsements=endorsements,
        now=anchors.now,
        refuse_unsafe=False,
    )
    claims = sgx_claims(verified, runtime_data_type=request.runtime_kind)
    return VerifiedClaims(claims=claims, newest_signed=verified.newest_signed)


def _tdx(request: AttestRequest, anchors: Anchors) -> VerifiedClaims:
    if request.init_time is not None and request.init_time.kind != _TOML:
        _refuse_init_time(request)
    endorsements = _dcap_endorsements(parse_tdx_quote(request.evidence), anchors, tee="TDX")
    anchors.turn.begin()
    verified = verify_tdx(
        UnverifiedEvidence(kind="tdx", quote=request.evidence, runtime_data=request.runtime_data),
        trusted_roots=anchors.roots,
        endorsements=endorsements,
        now=anchors.now,
        refuse_unsafe=False,
    )
    claims = tdx_claims(verified, runtime_data_type=request.runtime_kind)
    claims |= _launch_claims(request, kind="tdx", launched_with=verified.quote.report.mrconfigid)
    return VerifiedClaims(claims=claims, newest_signed=verified.newest_signed)


def _snp(request: AttestRequest, anchors: Anchors) -> VerifiedClaims:
    match parse_json_object(request.evidence):
        case {"SnpReport": str(report), **more} if not set(more) - {"VcekCertChain"}:
            quote, chain = from_any_b64(report), more.get("VcekCertChain")
        case _:
            raise FormatError("the report needs SnpReport, perhaps VcekCertChain, and nothing else")
    endorsements = _snp_endorsements(quote, chain, anchors)
    anchors.turn.begin()
    verified = verify_snp(
        UnverifiedEvidence(kind="snp", quote=quote, runtime_data=request.runtime_data),
        trusted_roots=anchors.roots,
        endorsements=endorsements,
        now=anchors.now,
        refuse_unsafe=False,
    )
    claims = snp_claims(verified, runtime_data_type=request.runtime_kind)
    if request.init_time is not None and request.init_time.kind == _TOML:
        claims |= _launch_claims(request, kind="snp", launched_with=verified.report.host_data)
    elif request.init_time is not None:
        digest = hashlib.sha256(request.init_time.data).hexdigest()
        if digest != verified.report.host_data.hex():
            raise VerificationError(
                "the evidence was not launched with this initTimeData",
                mismatches=(Mismatch(name="host data", expected=digest, actual=verified.report.host_data.hex()),),
            )
        if request.init_time.kind == "JSON":
            claims["x-ms-inittime"] = parse_json(request.init_time.data)
    return VerifiedClaims(claims=claims, newest_signed=verified.newest_signed)


def _launch_claims(request: AttestRequest, *, kind: VirtualTeeKind, launched_with: bytes) -> dict[str, Json]:
    """Return what the initdata says that a TEE was launched with; nothing where none was sent."""
    if request.init_time is None:
        return {}
    document = request.init_time.data
    return initdata_claims(verify_initdata(document, kind=kind, launched_with=launched_with), document)


def _snp_endorsements(quote: bytes, chain: object, anchors: Anchors) -> SnpEndorsements:
    """Return a report's endorsements: the certificates that came with it, or those that are kept for it."""
    report = parse_snp_report(quote)
    if chain is None:
        return anchors.revocations.for_report(report)
    if not isinstance(chain, str):
        raise FormatError("VcekCertChain is text")
    chain_pem = from_any_b64(chain)
    signing_key: EndorsementKey = "VLEK" if report.signing_key == "VLEK" else "VCEK"
    crl = anchors.revocations.crl(parse_pem_chain(chain_pem)[-1], signing_key=signing_key)
    return SnpEndorsements(certificate_chain=chain_pem.decode("ascii", errors="replace"), crl=crl.hex())


def _dcap_endorsements(quote: SgxQuote | TdxQuote, anchors: Anchors, *, tee: Tee) -> DcapEndorsements:
    kind = platform_kind(quote)
    return anchors.endorsements.get(fmspc=kind.fmspc, ca=kind.ca, tee=tee)


def _refuse_init_time(request: AttestRequest) -> None:
    if request.init_time is not None:
        raise FormatError("initTimeData is not supported for this kind of evidence")


def _open_enclave(request: AttestRequest, anchors: Anchors) -> VerifiedClaims:
    """Verify an Open Enclave report: a header of 16 bytes around an SGX quote.

    Source: Open Enclave SDK, `oe_report_header_t`: version u32 = 1, type u32 = 2 (remote), size u64, the quote.
    """
    header, quote = request.evidence[: _OE_HEADER.size], request.evidence[_OE_HEADER.size :]
    if len(header) < _OE_HEADER.size or _OE_HEADER.unpack(header) != (1, 2, len(quote)):
        raise FormatError("not a remote Open Enclave report of version 1 with exactly one quote")
    return _sgx(replace(request, evidence=quote), anchors)


_OE_HEADER: Final = struct.Struct("<IIQ")
EVIDENCE_KINDS: Final[Mapping[str, EvidenceKind]] = {
    "SgxEnclave": EvidenceKind(field="quote", verify=_sgx),
    "TdxVm": EvidenceKind(field="quote", verify=_tdx),
    "SevSnpVm": EvidenceKind(field="report", verify=_snp),
    "OpenEnclave": EvidenceKind(field="report", verify=_open_enclave),
}
"""By the name of Azure Attestation's attestation type."""
