"""Every field of what a file holds, named as its vendor names it, with what a value means for people.

Source: Intel SGX ECDSA Quote Library Reference, appendix A; Intel TDX DCAP Quoting Library API, appendix A; AMD SEV-SNP
Firmware ABI (56860); AMD KDS specification (57230); TCG TPM 2.0 Library, Part 2; Intel PCS API, version 4.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.tcb import parse_qe_identity, parse_tcb_info
from strongroom.attestation.evidence.amd_certificate import parse_amd_certificate
from strongroom.attestation.evidence.azure_guest import UnverifiedAzureGuest
from strongroom.attestation.evidence.dcap_quote import TEE_TYPE_SGX
from strongroom.attestation.evidence.pck import SGX_EXTENSION, parse_pck_extension, pck_chain
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.snp_report import SnpReport, parse_tcb_version
from strongroom.attestation.evidence.td_report import TdReportBody
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
from strongroom.attestation.verifier.vendor_roots import VENDOR_ROOTS
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, from_hex
from strongroom.base.errors import FormatError
from strongroom.crypto import x509

_LAUNCHED: Final = "fixed at launch; Strongroom's evidence has the application digest here"
_DEBUG: Final = "DEBUG set: the host can read and change this memory"
_SGX_FLAGS: Final[Mapping[str, tuple[int, str]]] = {
    "INIT": (0, ""),
    "DEBUG": (1, _DEBUG),
    "MODE64BIT": (2, ""),
    "PROVISION_KEY": (4, "the enclave can follow this processor across its owners"),
    "EINITTOKEN_KEY": (5, "the enclave can launch others"),
    "CET": (6, "control flow is protected"),
    "KSS": (7, "key separation: CONFIG_ID and the like were fixed at launch"),
    "AEX_NOTIFY": (10, "the enclave learns of interruptions"),
}
_BITS: Final[Mapping[str, str]] = {
    "td_attributes.debug": _DEBUG,
    "td_attributes.hgs_plus_prof": "the host can watch what runs",
    "td_attributes.perf_prof": "the host can watch what runs",
    "td_attributes.pmt_prof": "the host can watch what runs",
    "td_attributes.sept_ve_disable": "pages that the host takes away end the trust domain",
    "td_attributes.migratable": "it can be moved to another machine",
    "td_attributes.tpa": "it attests other trust domains",
    "td_attributes.perfmon": "it uses performance counters",
    "policy.debug": _DEBUG,
    "policy.migrate_ma": "a migration agent can move it to another machine",
    "policy.smt": "another guest's thread may share a core",
    "policy.single_socket": "it runs on one socket only",
    "platform_info.smt_en": "two threads run on a core",
    "platform_info.tsme_en": "all memory is encrypted, also the host's",
    "platform_info.ciphertext_hiding_dram_en": "the host cannot even read ciphertext",
    "platform_info.alias_check_complete": "no two addresses stand for one place of memory",
    "mask_chip_key": "the host hides the chip's id",
    "author_key_en": "author_key_digest counts",
    "safe": "the clock never went back",
}
"""What it means that a bit is set."""
_CLEAR: Final[Mapping[str, str]] = {
    "td_attributes.sept_ve_disable": "the host can take pages away unnoticed",
    "platform_info.alias_check_complete": "two addresses may stand for one place of memory (BadRAM)",
}
"""What it means that a bit is not set, where that matters."""
_MEANINGS: Final[Mapping[str, str]] = {
    "mrenclave": "measurement of what was loaded",
    "mrsigner": "who signed the enclave",
    "config_id": _LAUNCHED,
    "mrtd": "measurement of what the trust domain started with",
    "mrseam": "measurement of the TDX module",
    "mrconfigid": _LAUNCHED,
    "rtmr0": "run-time measurements",
    "measurement": "launch digest of the guest",
    "host_data": _LAUNCHED,
    "report_data": "chosen by the TEE: usually a hash of the runtime data",
    "reported_tcb": "the signing key was derived for this version",
    "committed_tcb": "the firmware cannot go back below this version",
    "extra_data": "the caller's nonce",
    "pcr_digest": "SHA-256 over the registers' values",
}
_TEE_TYPES: Final = {TEE_TYPE_SGX: "SGX"}
_MAX_TEXT: Final = 4096
_PINNED: Final = {key: f"the key of {vendor}'s root" for vendor, keys in VENDOR_ROOTS.items() for key in keys}
_LATEST_S: Final = 1 << 36


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One field.

    Attributes:
        name: As the vendor names it.
        value: Bytes stand as hexadecimal text.
        meaning: What the value means; empty where it speaks for itself.
    """

    name: str
    value: Json
    meaning: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Fields that belong together.

    Attributes:
        title: What they are the fields of.
        fields: In the vendor's order.
    """

    title: str
    fields: tuple[Field, ...]

    def to_json(self) -> dict[str, Json]:
        """Return it for other programs."""
        return {"title": self.title, "fields": [dataclasses.asdict(each) for each in self.fields]}


def describe(content: Content) -> tuple[Group, ...]:
    """List every field.

    Args:
        content: What a file holds. Nothing of it is verified, and nothing of what is returned is.

    Returns:
        The fields in groups, in the vendor's order.

    Raises:
        FormatError: A certificate or a list inside is malformed.
    """
    return tuple(_DESCRIBERS[type(content)](content))


# --- DCAP ------------------------------------------------------------------------------------------------------------


def _quote(file: QuoteFile) -> Iterator[Group]:
    quote = file.quote
    header = quote.header
    yield Group(
        title="quote header",
        fields=_fields(
            header,
            {
                "att_key_type": "ECDSA over P-256",
                "tee_type": _TEE_TYPES.get(header.tee_type, "TDX"),
                "qe_vendor_id": "Intel's quoting enclave",
            },
        ),
    )
    match quote.report:
        case SgxReportBody() as report:
            yield Group(title="enclave report", fields=_sgx_report(report))
        case TdReportBody() as td_report:
            yield Group(title="trust domain report", fields=_td_report(td_report))
    signature = quote.signature
    yield Group(title="quoting enclave's report", fields=_sgx_report(signature.qe_report))
    yield Group(
        title="signature data",
        fields=tuple(
            Field(name=name, value=getattr(signature, name).hex())
            for name in ("isv_signature", "attestation_key", "qe_report_signature", "qe_auth_data")
        ),
    )
    try:
        chain = pck_chain(quote)
    except FormatError as error:
        yield Group(title="PCK certificate chain", fields=(Field(name="malformed", value=error.message),))
    else:
        yield from _certificates(chain)
    yield from _runtime(file.runtime, quote.report.report_data)


def _sgx_report(report: SgxReportBody) -> tuple[Field, ...]:
    fields = _fields(report, _MEANINGS)
    flags = report.attributes.flags
    bits = [
        Field(name=f"attributes.{name}", value=bool(flags >> bit & 1), meaning=meaning if flags >> bit & 1 else "")
        for name, (bit, meaning) in _SGX_FLAGS.items()
    ]
    unnamed = flags & ~sum(1 << bit for bit, _ in _SGX_FLAGS.values())
    if unnamed:
        bits.append(Field(name="attributes.(other bits)", value=f"{unnamed:#x}", meaning="bits without a name here"))
    attributes = [
        Field(name="attributes.flags", value=f"{flags:#018x}"),
        *bits,
        Field(name="attributes.xfrm", value=f"{report.attributes.xfrm:#018x}", meaning="extended features allowed"),
    ]
    kept = [field for field in fields if not field.name.startswith("attributes.")]
    place = [field.name for field in kept].index("mrenclave")
    return (*kept[:place], *attributes, *kept[place:])


def _td_report(report: TdReportBody) -> tuple[Field, ...]:
    meanings = {**_MEANINGS, "xfam": "extended features allowed"}
    if not any(report.mrsignerseam):
        meanings["mrsignerseam"] = "zero: Intel's own TDX module"
    return _fields(report, meanings)


# --- SEV-SNP ---------------------------------------------------------------------------------------------------------


def _snp(file: SnpFile) -> Iterator[Group]:
    yield Group(title="attestation report", fields=_snp_report(file.report))
    yield from _certificates(file.chain_der)
    yield from _runtime(file.runtime, file.report.report_data)


def _snp_report(report: SnpReport) -> tuple[Field, ...]:
    meanings = {
        **_MEANINGS,
        "vmpl": "0 is the most privileged level, 3 the least",
        "report_id_ma": "no migration agent" if report.report_id_ma == b"\xff" * len(report.report_id_ma) else "",
    }
    if not any(report.chip_id):
        meanings["chip_id"] = "zero: masked by the host"
    for name in ("current_tcb", "reported_tcb", "committed_tcb", "launch_tcb"):
        meanings[name] = "; ".join(filter(None, (_tcb(report, name), _MEANINGS.get(name, ""))))
    return _fields(report, meanings)


def _tcb(report: SnpReport, name: str) -> str:
    """Say a TCB version in words; what stands where depends on the product, which old reports do not name."""
    try:
        product = "Milan" if report.cpuid is None else report.cpuid.product  # version 2: Milan and Genoa
        return str(parse_tcb_version(getattr(report, name), product=product))
    except FormatError:
        return ""


# --- Azure's confidential VMs and TPMs -------------------------------------------------------------------------------


def _azure_vm(file: AzureVmFile) -> Iterator[Group]:
    hcl = file.hcl
    if file.hardware is None and hcl.hardware_report:
        yield Group(title="hardware report (TDREPORT)", fields=(Field(name="bytes", value=hcl.hardware_report.hex()),))
    if file.hardware is not None:
        yield Group(title="hardware report (SEV-SNP)", fields=_snp_report(file.hardware))
    report = file.hardware if file.td_quote is None else file.td_quote.quote.report
    binds = report is not None and report.report_data == hcl.report_data
    yield Group(
        title="paravisor's document",
        fields=(
            Field(
                name="hash",
                value=hcl.report_data.hex(),
                meaning="equals the hardware's report_data" if binds else "",
            ),
            *(Field(name=f"vm-configuration.{name}", value=value) for name, value in hcl.vm_configuration.items()),
            Field(name="HCLAkPub", value=hcl.attestation_key.thumbprint, meaning="SHA-256 of the vTPM's key"),
            Field(
                name="user-data",
                value=hcl.user_data.hex(),
                meaning="chosen by the guest" if any(hcl.user_data) else "zero: the guest chose none",
            ),
        ),
    )
    yield from _certificates(file.chain_der)
    if file.td_quote is not None:
        yield from _quote(file.td_quote)
    if file.tpm is not None:
        yield from _tpm(file.tpm)
        yield from _runtime(file.runtime, file.tpm.quote.extra_data)
    if file.guest is not None:
        yield from _guest(file.guest)


def _guest(guest: UnverifiedAzureGuest) -> Iterator[Group]:
    yield Group(title="guest, by its own word", fields=_fields(guest.system, {}))
    yield _object("client payload", guest.client_payload)
    yield Group(
        title="key to answer to",
        fields=tuple(
            Field(name=name, value=getattr(guest, each).hex())
            for name, each in (
                ("EncKeyPub", "ephemeral_public"),
                ("EncKeyCertifyInfo", "certification"),
                ("EncKeyCertifyInfoSignature", "certification_signature"),
                ("AikPub", "aik_public"),
                ("AikCert", "aik_certificate"),
            )
        ),
    )


def _tpm(file: TpmQuoteFile) -> Iterator[Group]:
    yield Group(
        title="TPM quote",
        fields=(
            *_fields(file.quote, _MEANINGS),
            *((Field(name="signature", value=file.signature.hex()),) if file.signature else ()),
        ),
    )
    if file.pcr_values:
        numbers = dict(enumerate(file.quote.pcrs))
        yield Group(
            title="registers",
            fields=tuple(
                Field(name=f"PCR {numbers.get(place, '?')}", value=value.hex())
                for place, value in enumerate(file.pcr_values)
            ),
        )


# --- certificates, lists, collateral ---------------------------------------------------------------------------------


def _certificates(chain_der: Iterable[bytes]) -> Iterator[Group]:
    for number, certificate_der in enumerate(chain_der, start=1):
        found = x509.read_certificate(certificate_der)
        yield Group(
            title=f"certificate {number}: {x509.common_name(certificate_der)}",
            fields=(
                *_fields(found, {}),
                Field(
                    name="SHA-256 of the key",
                    value=x509.spki_sha256(certificate_der),
                    meaning=_PINNED.get(x509.spki_sha256(certificate_der), ""),
                ),
                *_vendor_fields(certificate_der),
            ),
        )


def _vendor_fields(certificate_der: bytes) -> tuple[Field, ...]:
    try:
        if x509.extension(certificate_der, SIMULATED_HARDWARE) is not None:
            return (Field(name="simulated hardware", value=True, meaning="SIMULATED: it protects nothing"),)
        if x509.extension(certificate_der, SGX_EXTENSION) is not None:
            return _fields(parse_pck_extension(certificate_der), {"ppid": "this processor package"})
        if x509.common_name(certificate_der) in {"SEV-VCEK", "SEV-VLEK"}:
            return _fields(parse_amd_certificate(certificate_der), {"hwid": "this chip"})
    except FormatError as error:
        return (Field(name="vendor's extension", value="malformed", meaning=error.message),)
    return ()


def _crl(crl_der: bytes) -> Group:
    found = x509.read_crl(crl_der)
    return Group(title=f"revocation list of {found.issuer}", fields=_fields(found, {}))


def _collateral(file: CollateralFile) -> Iterator[Group]:
    if isinstance(file.endorsements, DcapEndorsements):
        yield from _dcap_collateral(file.endorsements)
    else:
        yield from _certificates(x509.parse_pem_chain(file.endorsements.certificate_chain.encode()))
        yield _crl(from_hex(file.endorsements.crl.lower()))


def _dcap_collateral(endorsements: DcapEndorsements) -> Iterator[Group]:
    for name, text, parse in (
        ("TCB info", endorsements.tcb_info, parse_tcb_info),
        ("QE identity", endorsements.qe_identity, parse_qe_identity),
    ):
        try:
            document = parse(text).model_dump(mode="json", by_alias=True, exclude_none=True)
        except FormatError as error:
            yield Group(title=name, fields=(Field(name="malformed", value=error.message),))
            continue
        levels = document.pop("tcbLevels")
        fields = [Field(name=key, value=value) for key, value in document.items()]
        yield Group(title=name, fields=(*fields, *(_level(number, level) for number, level in enumerate(levels, 1))))
    for crl in (endorsements.root_ca_crl, endorsements.pck_crl):
        yield _crl(from_hex(crl.lower()))
    chains = (
        endorsements.pck_crl_issuer_chain,
        endorsements.tcb_info_issuer_chain,
        endorsements.qe_identity_issuer_chain,
    )
    yield from _certificates(dict.fromkeys(each for chain in chains for each in x509.parse_pem_chain(chain.encode())))


def _level(number: int, level: Mapping[str, Any]) -> Field:
    tcb = level["tcb"]
    versions = {
        name: " ".join(str(each["svn"]) for each in value) if isinstance(value, list) else str(value)
        for name, value in tcb.items()
    }
    advisories = ", ".join(level.get("advisoryIDs", ())) or "no advisories"
    return Field(
        name=f"tcbLevels[{number}]",
        value=level["tcbStatus"],
        meaning=f"{level['tcbDate']}; {advisories}; from {', '.join(f'{k} {v}' for k, v in versions.items())}",
    )


# --- tokens and claims -----------------------------------------------------------------------------------------------


def _token(file: TokenFile) -> Iterator[Group]:
    yield _object("JWT header", file.header)
    yield _object("claims", file.claims, meanings=_times(file.claims))


def _policy_token(file: PolicyTokenFile) -> Iterator[Group]:
    yield _object("JWS header", file.header)
    yield Group(title="policy", fields=(Field(name="text", value=file.text),))


# --- what they have in common ----------------------------------------------------------------------------------------


def _runtime(runtime: AttestedData | None, bound: bytes) -> Iterator[Group]:
    if runtime is None:
        return
    digest = hashlib.sha256(runtime.data).digest()
    text = runtime.data[:_MAX_TEXT]
    yield Group(
        title="runtime data",
        fields=(
            Field(name="dataType", value=runtime.kind),
            Field(
                name="SHA-256",
                value=digest.hex(),
                meaning="equals what the evidence names" if bound[: len(digest)] == digest else "the evidence DIFFERS",
            ),
            Field(name="data", value=text.decode("utf-8", errors="replace") if runtime.kind == "JSON" else text.hex()),
        ),
    )


def _object(title: str, members: Mapping[str, Json], *, meanings: Mapping[str, str] | None = None) -> Group:
    said = meanings or {}
    fields = (Field(name=name, value=value, meaning=said.get(name, "")) for name, value in members.items())
    return Group(title=title, fields=tuple(fields))


def _times(claims: Mapping[str, Json]) -> dict[str, str]:
    """Say the times of a JWT in words."""
    said: dict[str, str] = {}
    for name in ("iat", "nbf", "exp"):
        seconds = claims.get(name)
        if isinstance(seconds, int) and 0 <= seconds < _LATEST_S:
            said[name] = to_rfc3339(datetime.fromtimestamp(seconds, tz=UTC))
    return said


def _fields(thing: Any, meanings: Mapping[str, str], prefix: str = "") -> tuple[Field, ...]:  # noqa: ANN401 - a dataclass
    """List a dataclass's fields; those of a dataclass inside it follow under its name."""
    listed: list[Field] = []
    for each in dataclasses.fields(thing):
        name, value = f"{prefix}{each.name}", getattr(thing, each.name)
        if dataclasses.is_dataclass(value):
            listed += _fields(value, meanings, f"{name}.")
        elif each.name == "rtmr":
            listed += [Field(name=f"rtmr{number}", value=part.hex()) for number, part in enumerate(value)]
        elif value is not None:
            meaning = meanings.get(name) or _bit(name, value)
            if meaning == _LAUNCHED and not any(value):
                meaning = "zero: nothing was fixed at launch"
            listed.append(Field(name=name, value=_plain(value), meaning=meaning))
    return tuple(listed)


def _bit(name: str, value: object) -> str:
    if value is True:
        return _BITS.get(name, "")
    return _CLEAR.get(name, "") if value is False else ""


def _plain(value: object) -> Json:
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return to_rfc3339(value)
        case tuple():
            return [_plain(each) for each in value]
        case _:
            return value if isinstance(value, str | int) else str(value)


_DESCRIBERS: Final[Mapping[type, Callable[[Any], Iterable[Group]]]] = {
    QuoteFile: _quote,
    SnpFile: _snp,
    AzureVmFile: _azure_vm,
    TpmQuoteFile: _tpm,
    TokenFile: _token,
    PolicyTokenFile: _policy_token,
    ClaimsFile: lambda file: [_object("claims", file.claims)],
    CertificatesFile: lambda file: _certificates(file.chain_der),
    CrlFile: lambda file: [_crl(file.crl_der)],
    CollateralFile: _collateral,
}
