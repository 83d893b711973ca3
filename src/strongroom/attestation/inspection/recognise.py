"""Which format a file has: told by its bytes, never by its name, and unwrapped down to what it holds.

Nothing in a file is trusted here, and nothing is verified.
"""

import re
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_guest import parse_attestation_info
from strongroom.attestation.evidence.azure_vtpm import parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.dcap_quote import (
    TEE_TYPE_SGX,
    TEE_TYPE_TDX,
    parse_sgx_quote,
    parse_tdx_quote,
)
from strongroom.attestation.evidence.snp_report import REPORT_BYTES, parse_snp_report
from strongroom.attestation.inspection.files import (
    AttestedData,
    AzureVmFile,
    CertificatesFile,
    ClaimsFile,
    CollateralFile,
    Content,
    CrlFile,
    PolicyTokenFile,
    QuoteFile,
    SnpFile,
    TokenFile,
    TpmQuoteFile,
)
from strongroom.base.encoding import (
    Json,
    canonical_json,
    from_any_b64,
    from_b64url,
    from_hex,
    parse_json,
    parse_json_object,
)
from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS
from strongroom.crypto import x509
from strongroom.crypto.jose import unverified_header, unverified_payload

MAX_LAYERS: Final = 6
MAX_NESTING: Final = 32
"""How deep objects and arrays may lie in each other."""
_QUOTE_START: Final = struct.Struct("<HHI")
_QUOTE_VERSIONS: Final = range(3, 6)
_OPEN_ENCLAVE_HEADER: Final = struct.Struct("<IIQ")
_OPEN_ENCLAVE_REMOTE: Final = struct.pack("<II", 1, 2)
_SNP_VERSIONS: Final = range(1, 16)
_DER_SEQUENCE: Final = b"\x30"
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----"
_CRL: Final = "-----BEGIN X509 CRL-----"
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")
_HEX: Final = re.compile(r"(?:[0-9A-Fa-f]{2})+")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]+={0,2}")
_REGISTER: Final = re.compile(r"[0-9]{1,2}")
_CLAIM_PREFIXES: Final = ("x-ms-", "tdx_", "$")
_SHA256_BYTES: Final = 32

TRIED: Final = (
    "SGX quote (versions 3 to 5)",
    "TDX quote (versions 4, 5)",
    "OpenEnclave report",
    "SEV-SNP report (1184 bytes, or JSON with SnpReport and VcekCertChain)",
    "Azure HCL report, or attestation info of an Azure guest",
    "TPM quote",
    "attest request or response (JSON)",
    "attestation result (JWT) or its claims (JSON)",
    "policy token (JWS)",
    "certificates and revocation lists (PEM, DER)",
    "DCAP or SEV-SNP collateral (JSON)",
    "base64, base64url or hexadecimal text of these",
)
"""Every format that is known, as people name them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a file holds.

    Attributes:
        layers: The formats from the outermost to the innermost, as people name them; at least one.
        content: What lies inside, parsed.
    """

    layers: tuple[str, ...]
    content: Content

    @property
    def title(self) -> str:
        """What it is, and what it was wrapped in."""
        *around, inside = self.layers
        return f"{inside} (in {' in '.join(reversed(around))})" if around else inside


def recognise(data: bytes) -> Recognised:
    """Find out what a file holds.

    Args:
        data: The file's bytes.

    Returns:
        The parsed content; its values are claims until they are verified.

    Raises:
        FormatError: No known format, or one that the bytes begin like and then do not follow; the message says which
            were tried.
        LimitError: More bytes than any format has, or a part is larger than allowed.
        RefusedError: What an Azure guest sends that no hardware isolates.
    """
    if len(data) > LIMITS.request_body_bytes:
        raise LimitError(f"the file is larger than {LIMITS.request_body_bytes} bytes")
    return _recognise(data, ())


def _recognise(data: bytes, layers: tuple[str, ...]) -> Recognised:
    if len(layers) >= MAX_LAYERS:
        raise FormatError(f"the file is wrapped more than {MAX_LAYERS} times: {', in '.join(reversed(layers))}")
    for looks_like, name, read in _BINARY:
        if looks_like(data):
            return _read(name, read, data, layers)
    text = _text(data)
    if text is not None:
        for matches, name, read_text in _TEXTS:
            if matches(text):
                return _read(name, read_text, text, layers)
    where = f" inside the {', in the '.join(reversed(layers))}" if layers else ""
    raise FormatError(
        f"these {len(data)} bytes{where} have no format that is known here; tried: {'; '.join(TRIED)}",
        action="Check that the file is the evidence itself, whole, and not compressed.",
    )


_Reader: TypeAlias = Callable[[Any, tuple[str, ...]], Recognised]


def _read(name: str, read: _Reader, data: bytes | str, layers: tuple[str, ...]) -> Recognised:
    try:
        return read(data, layers)
    except FormatError as error:
        if error.action:  # said already, by a layer further inside
            raise
        raise FormatError(
            f"this begins like {name}, but {error.message}",
            action="Check that the file is whole, and that nothing was added to it.",
        ) from error


# --- bytes -----------------------------------------------------------------------------------------------------------


def _is_quote_of(tee_type: int) -> Callable[[bytes], bool]:
    def is_quote(data: bytes) -> bool:
        if len(data) < _QUOTE_START.size:
            return False
        version, key_type, found = _QUOTE_START.unpack_from(data)
        return version in _QUOTE_VERSIONS and key_type in (2, 3) and found == tee_type

    return is_quote


def _sgx(data: bytes, layers: tuple[str, ...]) -> Recognised:
    quote = parse_sgx_quote(data)
    return Recognised(
        layers=(*layers, f"SGX quote, version {quote.header.version}"),
        content=QuoteFile(quote=quote, quote_bytes=data),
    )


def _tdx(data: bytes, layers: tuple[str, ...]) -> Recognised:
    quote = parse_tdx_quote(data)
    body = "TDX 1.0" if quote.report.mrservicetd is None else "TDX 1.5"
    return Recognised(
        layers=(*layers, f"TDX quote, version {quote.header.version}, {body} body"),
        content=QuoteFile(quote=quote, quote_bytes=data),
    )


def _open_enclave(data: bytes, layers: tuple[str, ...]) -> Recognised:
    """Read an OpenEnclave report: a header of 16 bytes around a quote (`oe_report_header_t`)."""
    if len(data) < _OPEN_ENCLAVE_HEADER.size:
        raise FormatError("its header is truncated")
    _, _, size = _OPEN_ENCLAVE_HEADER.unpack_from(data)
    quote = data[_OPEN_ENCLAVE_HEADER.size :]
    if len(quote) != size:
        raise FormatError("its header names another length")
    return _recognise(quote, (*layers, "OpenEnclave report"))


def _is_snp(data: bytes) -> bool:
    return len(data) == REPORT_BYTES and int.from_bytes(data[:4], "little") in _SNP_VERSIONS


def _snp(data: bytes, layers: tuple[str, ...]) -> Recognised:
    report = parse_snp_report(data)
    return Recognised(
        layers=(*layers, f"SEV-SNP report, version {report.version}"),
        content=SnpFile(report=report, report_bytes=data),
    )


def _hcl(data: bytes, layers: tuple[str, ...]) -> Recognised:
    hcl = parse_hcl_report(data)
    _demand_shallow(hcl.vm_configuration)
    hardware = parse_snp_report(hcl.hardware_report) if hcl.kind == "snp" else None
    kind = "SEV-SNP" if hcl.kind == "snp" else "TDX"
    return Recognised(
        layers=(*layers, f"Azure HCL report, {kind}"),
        content=AzureVmFile(hcl=hcl, hcl_bytes=data, hardware=hardware),
    )


def _tpm(data: bytes, layers: tuple[str, ...]) -> Recognised:
    return Recognised(
        layers=(*layers, "TPM quote (TPMS_ATTEST)"),
        content=TpmQuoteFile(quote=parse_tpm_quote(data), quote_bytes=data),
    )


def _der(data: bytes, layers: tuple[str, ...]) -> Recognised:
    try:
        x509.read_certificate(data)
    except FormatError:
        x509.read_crl(data)
        return Recognised(layers=(*layers, "certificate revocation list"), content=CrlFile(crl_der=data))
    return Recognised(layers=(*layers, "certificate"), content=CertificatesFile(chain_der=(data,)))


_BINARY: Final[Sequence[tuple[Callable[[bytes], bool], str, _Reader]]] = (
    (lambda data: data.startswith(b"HCLA"), "an Azure HCL report", _hcl),
    (lambda data: data.startswith(b"\xffTCG"), "a TPM's quote", _tpm),
    (_is_snp, "an SEV-SNP report", _snp),
    (lambda data: data.startswith(_OPEN_ENCLAVE_REMOTE), "an OpenEnclave report", _open_enclave),
    (_is_quote_of(TEE_TYPE_SGX), "an SGX quote", _sgx),
    (_is_quote_of(TEE_TYPE_TDX), "a TDX quote", _tdx),
    (lambda data: data.startswith(_DER_SEQUENCE) and _text(data) is None, "DER", _der),
)


# --- text ------------------------------------------------------------------------------------------------------------


def _text(data: bytes) -> str | None:
    try:
        text = data.decode("utf-8").strip("\ufeff \t\r\n\0")
    except UnicodeDecodeError:
        return None
    return text or None


def _pem(text: str, layers: tuple[str, ...]) -> Recognised:
    chain = x509.parse_pem_chain(text.encode())
    count = f"{len(chain)} certificates" if len(chain) > 1 else "certificate"
    return Recognised(layers=(*layers, f"{count} in PEM form"), content=CertificatesFile(chain_der=chain))


def _crl_pem(text: str, layers: tuple[str, ...]) -> Recognised:
    content = CrlFile(crl_der=x509.crl_from_pem(text.encode()))
    return Recognised(layers=(*layers, "certificate revocation list in PEM form"), content=content)


def _token(text: str, layers: tuple[str, ...]) -> Recognised:
    header, body = unverified_header(text), parse_json_object(unverified_payload(text))
    _demand_shallow([header, body])
    match body:
        case {"AttestationPolicy": str(policy)}:
            return Recognised(
                layers=(*layers, "policy token"), content=PolicyTokenFile(header=header, text=_policy_text(policy))
            )
        case {"x-ms-policy": str(stored)}:
            return _recognise(stored.encode("utf-8", errors="replace"), (*layers, "answer of an attestation service"))
        case _:
            return Recognised(
                layers=(*layers, "attestation result (JWT)"), content=TokenFile(header=header, claims=body)
            )


def _policy_text(policy: str) -> str:
    try:
        return from_b64url(policy).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError("the policy in it is not UTF-8 text") from error


def _hexadecimal(text: str, layers: tuple[str, ...]) -> Recognised:
    return _recognise(from_hex(_compact(text).lower()), (*layers, "hexadecimal text"))


def _base64(text: str, layers: tuple[str, ...]) -> Recognised:
    return _recognise(from_any_b64(_compact(text)), (*layers, "base64 text"))


def _compact(text: str) -> str:
    return "".join(text.split())


def _json_text(text: str, layers: tuple[str, ...]) -> Recognised:
    return _recognise(str(parse_json(text)).encode("utf-8", errors="replace"), (*layers, "JSON string"))


def _json_object(text: str, layers: tuple[str, ...]) -> Recognised:
    members = parse_json_object(text)
    _demand_shallow(members)
    for names, read in _OBJECTS:
        if set(names) <= members.keys():
            return read(members, layers)
    if any(name.startswith(_CLAIM_PREFIXES) for name in members):
        return Recognised(layers=(*layers, "claims (JSON)"), content=ClaimsFile(claims=members))
    shown = ", ".join(sorted(members)[:8])  # names that others chose
    raise FormatError(
        f"this JSON object ({shown[:160] or 'empty'}) is none that is known here; tried: {'; '.join(TRIED)}",
        action="Check that the file is the evidence, a request or an answer of an attestation service, or collateral.",
    )


_TEXTS: Final[Sequence[tuple[Callable[[str], bool], str, _Reader]]] = (
    (lambda text: _CERTIFICATE in text and not text.startswith(("{", '"')), "PEM", _pem),
    (lambda text: text.startswith(_CRL), "PEM", _crl_pem),
    (lambda text: text.startswith("{"), "a JSON object", _json_object),
    (lambda text: text.startswith('"'), "a JSON string", _json_text),
    (lambda text: _TOKEN.fullmatch(text) is not None, "a token", _token),
    (lambda text: _HEX.fullmatch(_compact(text)) is not None, "hexadecimal text", _hexadecimal),
    (lambda text: _BASE64.fullmatch(_compact(text)) is not None, "base64 text", _base64),
)


# --- JSON objects ----------------------------------------------------------------------------------------------------

_Members: TypeAlias = Mapping[str, Any]


def _snp_object(members: _Members, layers: tuple[str, ...]) -> Recognised:
    inside = _recognise(_bytes(members, "SnpReport"), (*layers, "SEV-SNP evidence (JSON)"))
    if not isinstance(inside.content, SnpFile):
        raise FormatError("SnpReport is no SEV-SNP report")
    chain = x509.parse_pem_chain(_bytes(members, "VcekCertChain")) if members.get("VcekCertChain") else ()
    return replace(inside, content=replace(inside.content, chain_der=chain))


def _request(name: str) -> Callable[[_Members, tuple[str, ...]], Recognised]:
    def read(members: _Members, layers: tuple[str, ...]) -> Recognised:
        inside = _recognise(_bytes(members, name), (*layers, "attest request"))
        content, runtime = inside.content, _data(members)
        if runtime is not None and not isinstance(content, QuoteFile | SnpFile):
            raise FormatError(f"{name} is no evidence that runtimeData could belong to")
        if isinstance(content, QuoteFile | SnpFile):
            content = replace(content, runtime=runtime or content.runtime)
        return replace(inside, content=content)

    return read


def _response(members: _Members, layers: tuple[str, ...]) -> Recognised:
    token = members["token"]
    if not isinstance(token, str):
        raise FormatError("token is no text")
    return _recognise(token.encode("utf-8", errors="replace"), (*layers, "attest response"))


def _azure_vm(members: _Members, layers: tuple[str, ...]) -> Recognised:
    inside = _recognise(_bytes(members, "hclReport"), (*layers, "attest request"))
    content = inside.content
    if not isinstance(content, AzureVmFile):
        raise FormatError("hclReport is no HCL report")
    td_quote = _recognise(_bytes(members, "tdQuote"), ("tdQuote",)).content if members.get("tdQuote") else None
    if td_quote is not None and not isinstance(td_quote, QuoteFile):
        raise FormatError("tdQuote is no TDX quote")
    certificates = members.get("certificates")
    return replace(
        inside,
        content=replace(
            content,
            chain_der=x509.parse_pem_chain(_pem_bytes(certificates)) if certificates else (),
            td_quote=td_quote,
            tpm=_tpm_members(members),
            runtime=_data(members),
        ),
    )


def _azure_guest_request(name: str) -> Callable[[_Members, tuple[str, ...]], Recognised]:
    def read(members: _Members, layers: tuple[str, ...]) -> Recognised:
        return _recognise(_bytes(members, name), (*layers, "attest request"))

    return read


def _azure_guest(members: _Members, layers: tuple[str, ...]) -> Recognised:
    guest = parse_attestation_info(canonical_json(members))
    td_quote = guest.td_quote
    return Recognised(
        layers=(*layers, f"Azure guest's attestation info, {'SEV-SNP' if td_quote is None else 'TDX'}"),
        content=AzureVmFile(
            hcl=guest.hcl,
            hcl_bytes=b"",
            hardware=parse_snp_report(guest.hcl.hardware_report) if td_quote is None else None,
            chain_der=x509.parse_pem_chain(guest.certificate_chain) if guest.certificate_chain else (),
            td_quote=None if td_quote is None else QuoteFile(quote=parse_tdx_quote(td_quote), quote_bytes=td_quote),
            tpm=TpmQuoteFile(
                quote=parse_tpm_quote(guest.tpm_quote),
                quote_bytes=guest.tpm_quote,
                signature=guest.tpm_signature,
                pcr_values=tuple(value for _, value in sorted(guest.pcr_values.items())),
            ),
            guest=guest,
        ),
    )


def _tpm_members(members: _Members) -> TpmQuoteFile | None:
    if members.get("tpmQuote") is None:
        return None
    quote_bytes = _bytes(members, "tpmQuote")
    return TpmQuoteFile(
        quote=parse_tpm_quote(quote_bytes),
        quote_bytes=quote_bytes,
        signature=_bytes(members, "tpmSignature"),
        pcr_values=_registers(members.get("pcrs")),
    )


def _registers(values: object) -> tuple[bytes, ...]:
    """Read register values: an array in the order of their numbers, or an object by number."""
    if isinstance(values, dict) and all(_REGISTER.fullmatch(name) for name in values):
        values = [values[name] for name in sorted(values, key=int)]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise FormatError("pcrs are no register values")
    return tuple(_register(value) for value in values)


def _register(text: str) -> bytes:
    value = bytes.fromhex(text) if _HEX.fullmatch(text) and len(text) == 2 * _SHA256_BYTES else from_any_b64(text)
    if len(value) != _SHA256_BYTES:
        raise FormatError("a register of the SHA-256 bank has 32 bytes")
    return value


def _thim(members: _Members, layers: tuple[str, ...]) -> Recognised:
    leaf, chain = members["vcekCert"], members["certificateChain"]
    if not isinstance(leaf, str) or not isinstance(chain, str):
        raise FormatError("vcekCert and certificateChain are no texts")
    chain_der = x509.parse_pem_chain((leaf + "\n" + chain).encode("utf-8", errors="replace"))
    return Recognised(
        layers=(*layers, "host's endorsements (Azure THIM)"), content=CertificatesFile(chain_der=chain_der)
    )


def _signing_keys(members: _Members, layers: tuple[str, ...]) -> Recognised:
    """Read the certificates of `GET /certs`."""
    match members["keys"]:
        case [*keys] if all(isinstance(key, dict) and isinstance(key.get("x5c"), list) for key in keys):
            chain = tuple(from_any_b64(str(each)) for key in keys for each in key["x5c"])
        case _:
            raise FormatError("a key in it has no certificate (x5c)")
    for certificate in chain:
        x509.read_certificate(certificate)
    return Recognised(
        layers=(*layers, "signing keys of an attestation service"), content=CertificatesFile(chain_der=chain)
    )


def _dcap_collateral(members: _Members, layers: tuple[str, ...]) -> Recognised:
    endorsements = DcapEndorsements.from_object(members)
    return Recognised(layers=(*layers, "DCAP collateral"), content=CollateralFile(endorsements=endorsements))


def _snp_collateral(members: _Members, layers: tuple[str, ...]) -> Recognised:
    endorsements = SnpEndorsements.from_object(members)
    return Recognised(layers=(*layers, "SEV-SNP collateral"), content=CollateralFile(endorsements=endorsements))


def _bytes(members: _Members, name: str) -> bytes:
    value = members.get(name)
    if not isinstance(value, str):
        raise FormatError(f"{name} is no text")
    return from_any_b64(_compact(value))


def _pem_bytes(value: object) -> bytes:
    if not isinstance(value, str):
        raise FormatError("certificates are no text")
    text = value.encode("utf-8", errors="replace")
    return text if _CERTIFICATE in value else from_any_b64(_compact(value))


def _data(members: _Members) -> AttestedData | None:
    match members.get("runtimeData"):
        case None:
            return None
        case {"data": str(data), "dataType": str(kind)} if kind.upper() in {"JSON", "BINARY"}:
            decoded = from_any_b64(_compact(data))
            if kind.upper() == "BINARY":
                return AttestedData(data=decoded, kind="Binary")
            _demand_shallow(parse_json_object(decoded))
            return AttestedData(data=decoded, kind="JSON")
        case str(data):
            return attested_data(from_any_b64(_compact(data)))
        case _:
            raise FormatError("runtimeData needs data, and a dataType that is JSON or Binary")


def attested_data(data: bytes) -> AttestedData:
    """Return runtime data from bare bytes: JSON where they are a strict JSON object, otherwise binary."""
    try:
        _demand_shallow(parse_json_object(data))
    except FormatError:
        return AttestedData(data=data, kind="Binary")
    return AttestedData(data=data, kind="JSON")


def _demand_shallow(value: Json) -> None:
    """Refuse JSON that is nested so deep that reading or printing it could exhaust the stack."""
    level: list[Json] = [value]
    for _ in range(MAX_NESTING):
        level = [
            member
            for each in level
            if isinstance(each, dict | list)
            for member in (each.values() if isinstance(each, dict) else each)
        ]
    if level:
        raise FormatError(f"its JSON is nested more than {MAX_NESTING} deep")


_OBJECTS: Final[Sequence[tuple[Sequence[str], Callable[[_Members, tuple[str, ...]], Recognised]]]] = (
    (("SnpReport",), _snp_object),
    (("hclReport",), _azure_vm),
    (("attestationInfo",), _azure_guest_request("attestationInfo")),
    (("AttestationInfo",), _azure_guest_request("AttestationInfo")),
    (("TpmInfo", "IsolationInfo"), _azure_guest),
    (tuple(DcapEndorsements.model_fields), _dcap_collateral),
    (tuple(SnpEndorsements.model_fields), _snp_collateral),
    (("vcekCert", "certificateChain"), _thim),
    (("quote",), _request("quote")),
    (("report",), _request("report")),
    (("token",), _response),
    (("keys",), _signing_keys),
)
"""Which members make an object what it is, and who reads it."""
