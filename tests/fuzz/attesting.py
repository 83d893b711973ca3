"""Targets: evidence from devices, TPMs and Azure's guests, files that people look at, and calls of the service."""

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.fuzz import samples
from tests.fuzz.samples import bench, endorsements, guest, signer, vectors
from tests.fuzz.service import MANAGED_SERVICE, POLICY, SERVICE, AnsweredNoError
from tests.fuzz.target import Target
from tests.support.amd import amd_bench
from tests.support.devices import TsmTree, chip_certificates
from tests.support.platform import NOW, RUNTIME_DATA
from tests.support.simulated_guest import ATTRIBUTES, b64, sized, tpm_certification, tpm_public
from tests.support.simulated_guest import RUNTIME_DATA as GUEST_RUNTIME_DATA
from tests.support.swtpm import BOOT, event_log

from strongroom.attestation.attester.azure_vtpm import AK_HANDLE, AzureVtpm
from strongroom.attestation.attester.device import HardwareDevice, Quote
from strongroom.attestation.attester.snp_certificates import certificate_chain, read_certificate_table
from strongroom.attestation.attester.tpm import Tpm
from strongroom.attestation.attester.tsm import ask_tsm
from strongroom.attestation.ear import SUBMODULE, ear_claims
from strongroom.attestation.evidence.azure_guest import parse_attestation_info
from strongroom.attestation.evidence.azure_vtpm import GUEST_PCRS, parse_hcl_report
from strongroom.attestation.evidence.tcg_log import parse_event_log, replay
from strongroom.attestation.evidence.tpm import REGISTERS, parse_tpm_certification, parse_tpm_public
from strongroom.attestation.inspection.anchors import Anchors, GivenEndorsements, GivenRevocations
from strongroom.attestation.inspection.describe import describe
from strongroom.attestation.inspection.recognise import recognise
from strongroom.attestation.inspection.verify import verify_content
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.encoding import canonical_json, from_any_b64, from_hex, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    RefusedError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.clients.attestation import azure_vm_request
from strongroom.clients.azure_guest import open_token
from strongroom.crypto import x509
from strongroom.crypto.jose import sign_jws
from strongroom.services.policy_tokens import (
    certificate_of,
    demand_empty,
    policy_text,
    read_policy_token,
    token_of_body,
)

_REPORT_DATA = hashlib.sha256(RUNTIME_DATA).digest() + bytes(32)
_TPM_HEADER_BYTES = 10


# --- devices ---------------------------------------------------------------------------------------------------------


def _device(kind: Any) -> Callable[[bytes], Any]:
    def parse(data: bytes) -> Any:
        return HardwareDevice(lambda _: Quote(kind=kind, data=data)).quote(_REPORT_DATA)

    return parse


def _tsm(**says: Any) -> Any:
    return ask_tsm(_REPORT_DATA, files=TsmTree(**says), root=Path("/"))


def _tsm_guest(table: bytes) -> Any:
    return _tsm(provider=b"sev_guest", report=lambda _: samples.snp_reports()[0], auxblob=table)


class _SaidNumber(TsmTree):
    """Says these bytes for every number."""

    def __init__(self, text: bytes) -> None:
        super().__init__(provider=b"sev_guest")
        self._text = text

    def read(self, path: Path, *, limit_bytes: int) -> bytes:
        if path.name in {"generation", "privlevel_floor"}:
            return self._text
        return super().read(path, limit_bytes=limit_bytes)


def _table(data: bytes) -> Any:
    found = read_certificate_table(data)
    for signing_key in ("VCEK", "VLEK", "none"):
        chain = certificate_chain(data, signing_key=signing_key)  # type: ignore[arg-type]
        assert (chain is None) == (signing_key not in found)
    return found


# --- TPMs ------------------------------------------------------------------------------------------------------------


class _Answering:
    """A TPM with one answer to everything, whose sizes are right."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def transact(self, command: bytes) -> bytes:
        del command
        head, rest = self._answer[:_TPM_HEADER_BYTES], self._answer[_TPM_HEADER_BYTES:]
        return head[:2] + len(self._answer).to_bytes(4, "big") + head[6:] + rest


def _tpm_answer(data: bytes) -> Any:
    """Take the answer for one of each command: the first byte says which."""
    tpm = Tpm(_Answering(data[1:]))
    commands: Sequence[Callable[[], Any]] = (
        lambda: tpm.handles("nv"),
        lambda: tpm.nv_read(1),
        lambda: tpm.read_public(AK_HANDLE),
        lambda: tpm.pcr_values(GUEST_PCRS),
        lambda: tpm.quote(AK_HANDLE, pcrs=GUEST_PCRS, nonce=bytes(32)),
        lambda: tpm.create_decryption_key(policy=bytes(32)),
        lambda: tpm.rsa_decrypt(1, bytes(256), pcrs=GUEST_PCRS),
        lambda: tpm.nv_write(1, bytes(64)),
    )
    return commands[(data[:1] or b"\0")[0] % len(commands)]()


def _tpm_answers() -> list[bytes]:
    def ok(command: int, parameters: bytes, *, handle: bytes = b"", has_session: bool = True) -> bytes:
        size = len(parameters).to_bytes(4, "big") if has_session else b""
        return bytes([command]) + b"\x80\x02\0\0\0\0\0\0\0\0" + handle + size + parameters

    selected = b"\0\0\0\1\0\x0b\3\xff\0\0"
    values = b"\0\0\0\x08" + 8 * sized(bytes(32))
    return [
        ok(0, b"\0\0\0\0\1\0\0\0\1\1\x40\0\1", has_session=False),
        ok(1, sized(bytes(4 + 2 + 4) + sized(b"") + b"\0\0"), has_session=False),
        ok(2, sized(b"public"), has_session=False),
        ok(3, bytes(4) + selected + values, has_session=False),
        ok(4, sized(guest("snp").vm.tpm_quote(bytes(32))) + b"\0\x14\0\x0b" + sized(bytes(256))),
        ok(5, sized(b"public"), handle=b"\x80\0\0\0"),
        ok(6, sized(b"key")),
        ok(7, b""),
    ]


def _log(data: bytes) -> Any:
    events = parse_event_log(data)
    values = replay(events, pcrs=range(REGISTERS))
    assert set(values) == set(range(REGISTERS))
    assert {len(value) for value in values.values()} == {32}
    return events


def _logs() -> list[bytes]:
    return [event_log(BOOT), event_log([(0, 3, b"StartupLocality\0\x03"), (0, 8, b"firmware")])]


def _publics() -> list[bytes]:
    vm = guest("snp").vm
    return [tpm_public(vm.key.verifying_key, attributes=ATTRIBUTES, policy=policy) for policy in (b"", bytes(32))]


def _certifications() -> list[bytes]:
    return [
        tpm_certification(_publics()[0], signer=guest("snp").vm.key.verifying_key, nonce=nonce)
        for nonce in (b"", hashlib.sha256(RUNTIME_DATA).digest())
    ]


# --- Azure's guests --------------------------------------------------------------------------------------------------


def _guest_with(**tpm: str) -> bytes:
    info = _guest_info()
    return SERVICE().attest_guest(json.dumps({**info, "TpmInfo": {**info["TpmInfo"], **tpm}}).encode())


@functools.cache
def _guest_info() -> dict[str, Any]:
    return guest("snp").info()


def _guest_signed(member: str, signature: str) -> Callable[[bytes], Any]:
    """Have the attestation key sign any bytes: what is refused is refused for what they say."""
    return lambda data: _guest_with(**{member: b64(data), signature: b64(guest("snp").vm.key.sign(data))})


def _guest_key(public: bytes) -> Any:
    """Have the attestation key certify any key."""
    nonce = hashlib.sha256(GUEST_RUNTIME_DATA).digest()
    attest = tpm_certification(public, signer=guest("snp").vm.key.verifying_key, nonce=nonce)
    signature = guest("snp").vm.key.sign(attest)
    return _guest_with(EncKeyPub=b64(public), EncKeyCertifyInfo=b64(attest), EncKeyCertifyInfoSignature=b64(signature))


def _guest_document(document: bytes) -> Any:
    """Have the chip report on any document of a paravisor."""
    report = amd_bench().amd.report(version=2, report_data=hashlib.sha256(document).digest() + bytes(32))
    chain = amd_bench().endorsements().certificate_chain.encode()
    proof = {"SnpReport": to_b64url(amd_bench().amd.sign(report)), "VcekCertChain": b64(chain)}
    evidence = {"Proof": b64(canonical_json(proof)), "RunTimeData": b64(document)}
    info = {**_guest_info(), "IsolationInfo": {"Type": "SevSnp", "Evidence": evidence}}
    return SERVICE().attest_guest(json.dumps(info).encode())


def _guest_member(member: str) -> bytes:
    return from_any_b64(_guest_info()["TpmInfo"][member])


def _guest_certificates() -> list[bytes]:
    """Return a certificate of the attestation key, padded as its NV index is."""
    day = timedelta(days=1)
    made = x509.new_identity(common_name="vTPM", key=guest("snp").vm.key, not_before=NOW - day, not_after=NOW + day)
    return [made, made.ljust(4096, b"\0")]


def _vm_requests() -> list[bytes]:
    made = []
    for kind, chain in (("snp", amd_bench().endorsements().certificate_chain), ("tdx", None)):
        evidence = guest(kind).vm.evidence(RUNTIME_DATA)  # type: ignore[arg-type]
        made.append(azure_vm_request(evidence, certificates=chain).to_json())
    return made


class _Metadata:
    """A metadata service with one answer to everything."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer

    def get(self, path: str) -> bytes:
        del path
        return self._answer

    def post(self, path: str, body: bytes) -> bytes:
        del path, body
        return self._answer


def _metadata(data: bytes) -> Any:
    vtpm = AzureVtpm(Tpm(_Answering(b"")), _Metadata(data))
    evidence = guest("tdx").vm.evidence(RUNTIME_DATA)
    try:
        certificates = vtpm.snp_certificates()
    except FormatError:
        td_quote = vtpm.td_quote(parse_hcl_report(evidence.hcl_report))
        return azure_vm_request(replace(evidence, td_quote=td_quote), certificates=None).to_json()
    return azure_vm_request(replace(evidence, td_quote=None), certificates=certificates).to_json()


def _metadata_answers() -> list[bytes]:
    leaf, *authorities = map(x509.to_pem, chip_certificates().values())
    thim = {"vcekCert": leaf, "tcbm": "0", "certificateChain": "".join(authorities)}
    return [canonical_json(thim), canonical_json({"quote": to_b64url(bench().td_quote())})]


class _Opening(AzureVtpm):
    """A vTPM that opens one sealed token, whatever it is given."""

    def __init__(self, sealed: bytes) -> None:
        super().__init__(Tpm(_Answering(b"")), _Metadata(b""))
        private = guest("snp").ephemeral.hazmat
        assert isinstance(private, rsa.RSAPrivateKey)
        encrypted = from_any_b64(parse_json_object(sealed)["EncryptedInnerKey"])
        self._key = SecretBytes(private.decrypt(encrypted, padding.PKCS1v15()))

    def decrypt(self, ciphertext: bytes, *, values: dict[int, bytes]) -> SecretBytes:
        del ciphertext, values
        return self._key


def _sealed_token(data: bytes) -> Any:
    return open_token(to_b64url(data), vtpm=_opening(), values={})


@functools.cache
def _opening() -> _Opening:
    return _Opening(_sealed())


@functools.cache
def _sealed() -> bytes:
    answer = parse_json_object(SERVICE().attest_guest(samples.guest_infos()[0]))
    return from_any_b64(answer["token"])


# --- files -----------------------------------------------------------------------------------------------------------


def _inspect(data: bytes) -> Any:
    found = recognise(data)
    assert found.title
    groups = describe(found.content)
    return json.dumps([group.to_json() for group in groups])


def _verify_file(data: bytes) -> Any:
    content = recognise(data).content
    roots = (bench().platform.root_der, amd_bench().amd.root_der)
    anchors = Anchors(
        roots=TrustedRoots(roots=tuple(TrustedRoot(certificate_der=root, simulated=True) for root in roots)),
        endorsements=GivenEndorsements(endorsements()),
        revocations=GivenRevocations(from_hex(amd_bench().endorsements().crl)),
        certificates=tuple(chip_certificates().values()),
        now=NOW,
    )
    return verify_content(content, anchors=anchors, runtime=None)


def _evidence_files() -> list[bytes]:
    service = SERVICE()
    bodies = [service.body("SgxEnclave", bench().quote()), service.body("TdxVm", bench().td_quote())]
    bare = [samples.sgx_quotes()[0], samples.tdx_quotes()[0], samples.snp_reports()[0], *samples.hcl_reports()]
    report = amd_bench().amd.sign(amd_bench().report())
    chain = amd_bench().endorsements().certificate_chain.encode()
    snp = canonical_json({"SnpReport": to_b64url(report), "VcekCertChain": to_b64url(chain)})
    return [*bodies, *bare, snp, samples.openenclave(bench().quote()), *samples.guest_infos(), *_vm_requests()]


def _other_files() -> list[bytes]:
    quote = bench().quote()
    thim, td_quote = _metadata_answers()
    return [
        *samples.tpm_quotes(),
        quote.hex().encode(),
        to_b64url(quote).encode(),
        canonical_json(to_b64url(quote)),
        canonical_json({"token": SERVICE().policy_tokens()[0].decode()}),
        SERVICE().policy_tokens()[0],
        sign_jws(_claims(), key=signer(), header={"typ": "JWT"}).encode(),
        _claims(),
        thim,
        td_quote,
        canonical_json({"keys": [{"x5c": [b64(chip_certificates()["VCEK"])]}]}),
        endorsements().to_json(),
        amd_bench().endorsements().to_json(),
        amd_bench().endorsements().certificate_chain.encode(),
        x509.crl_pem(bytes.fromhex(endorsements().pck_crl)),
        bytes.fromhex(endorsements().pck_crl),
        chip_certificates()["ASK"],
        *vectors("snp/ask_ark_milan.pem"),
    ]


def _claims() -> bytes:
    kinds = {"x-ms-attestation-type": "sgx", "x-ms-sgx-is-debuggable": False, "x-ms-strongroom-hardware": "real"}
    at = int(NOW.timestamp())
    status = {"x-ms-strongroom-tcb-status": "UpToDate", "nonce": "12345678", "x-ms-runtime": {"a": [1, {"b": None}]}}
    return canonical_json({"iss": "https://a", "iat": at, "exp": at + 60, "x-ms-policy-hash": "A", **kinds, **status})


def _ear(data: bytes) -> Any:
    claims = parse_json_object(data)
    made = ear_claims(claims, permitted=True, developer="a", build="b")
    appraisal: Any = made["submods"]
    status, vector = (appraisal[SUBMODULE][name] for name in ("ear.status", "ear.trustworthiness-vector"))
    assert status != "affirming" or claims["x-ms-strongroom-hardware"] == "real"
    assert all(-128 <= value < 128 for value in vector.values())
    return canonical_json(made)


def _ear_samples() -> list[bytes]:
    sgx = parse_json_object(_claims())
    debugged = {"x-ms-sevsnpvm-is-debuggable": False, "x-ms-sevsnpvm-migration-allowed": False}
    firmware = {"x-ms-strongroom-firmware-is-provisional": False}
    tdx = {"dbgstat": "disabled", "tdx_td_attributes_septve_disable": True, "x-ms-strongroom-migratable": False}
    return [
        canonical_json(sgx),
        canonical_json({**sgx, "x-ms-attestation-type": "tdxvm", **tdx}),
        canonical_json({**sgx, "x-ms-attestation-type": "sevsnpvm", **debugged, **firmware}),
    ]


# --- policy tokens ---------------------------------------------------------------------------------------------------


def _policy_token(data: bytes) -> Any:
    token = read_policy_token(token_of_body(data))
    assert (token.signer is None) == (token.certificate_der is None)
    return policy_text(token.payload)


def _policy_header(data: bytes) -> Any:
    """Give a header, rightly signed: what is refused is refused for what it says."""
    signed = f"{to_b64url(data)}.{to_b64url(b'{}')}"
    return read_policy_token(f"{signed}.{to_b64url(signer().sign(signed.encode()))}")


def _policy_headers() -> list[bytes]:
    return [from_any_b64(token.decode().split(".")[0]) for token in SERVICE().policy_tokens()[:2]]


def _policy_payload(data: bytes) -> Any:
    found = []
    for read in (policy_text, demand_empty, certificate_of):
        try:
            found.append(read(data))
        except (FormatError, LimitError):
            continue
    if not found:
        raise FormatError("no payload of a policy token")


def _policy_payloads() -> list[bytes]:
    tokens = [*SERVICE().policy_tokens(), *SERVICE().reset_tokens(), *SERVICE().certificate_tokens()[:1]]
    return [from_any_b64(token.decode().split(".")[1]) for token in tokens]


_ANSWERED = (AnsweredNoError,)
_LOOKED_AT = (FormatError, LimitError, RefusedError)
_QUOTED = (FormatError, LimitError, VerificationError)
_TSM = (FormatError, LimitError, RefusedError, ConfigurationError, ConflictError, UnavailableError)
_TOKEN = (FormatError, LimitError, AuthenticationError)

ATTESTING: tuple[Target, ...] = (
    # devices
    Target(name="device-sgx", parse=_device("sgx"), samples=lambda: [bench().quote()], refusals=_QUOTED),
    Target(name="device-tdx", parse=_device("tdx"), samples=lambda: [bench().td_quote()], refusals=_QUOTED),
    Target(
        name="device-snp",
        parse=_device("snp"),
        samples=lambda: [amd_bench().amd.sign(amd_bench().report())],
        refusals=_QUOTED,
    ),
    Target(
        name="tsm-report",
        parse=lambda data: _tsm(report=lambda _: data),
        samples=lambda: [bench().td_quote() + bytes(16)],
        refusals=_TSM,
    ),
    Target(name="tsm-certificates", parse=_tsm_guest, samples=samples.certificate_tables, refusals=_TSM),
    Target(
        name="tsm-provider",
        parse=lambda data: _tsm(provider=data),
        samples=lambda: [b"tdx_guest\n", b"sev_guest\n", b"arm_cca_guest"],
        refusals=_TSM,
    ),
    Target(
        name="tsm-number",
        parse=lambda data: ask_tsm(_REPORT_DATA, files=_SaidNumber(data), root=Path("/")),
        samples=lambda: [b"0\n", b"18446744073709551615\n"],
        refusals=_TSM,
        has_good_input=False,
    ),
    Target(name="certificate-table", parse=_table, samples=samples.certificate_tables),
    # TPMs
    Target(
        name="tpm-answer",
        parse=_tpm_answer,
        samples=_tpm_answers,
        refusals=(FormatError, NotFoundError, UnavailableError),
    ),
    Target(name="event-log", parse=_log, samples=_logs, refusals=(FormatError, LimitError)),
    Target(name="tpm-public", parse=parse_tpm_public, samples=_publics),
    Target(name="tpm-certification", parse=parse_tpm_certification, samples=_certifications),
    # Azure's guests
    Target(name="azure-guest", parse=parse_attestation_info, samples=samples.guest_infos, refusals=_LOOKED_AT),
    Target(name="metadata-answer", parse=_metadata, samples=_metadata_answers, refusals=(FormatError, LimitError)),
    Target(
        name="sealed-guest-token",
        parse=_sealed_token,
        samples=lambda: [_sealed()],
        refusals=(FormatError, IntegrityError),
    ),
    Target(
        name="attest-guest",
        parse=lambda data: SERVICE().attest_guest(data),
        samples=samples.guest_infos,
        refusals=_ANSWERED,
    ),
    Target(
        name="attest-guest-quote",
        parse=_guest_signed("PcrQuote", "PcrSignature"),
        samples=lambda: [_guest_member("PcrQuote")],
        refusals=_ANSWERED,
    ),
    Target(
        name="attest-guest-certification",
        parse=_guest_signed("EncKeyCertifyInfo", "EncKeyCertifyInfoSignature"),
        samples=lambda: [_guest_member("EncKeyCertifyInfo")],
        refusals=_ANSWERED,
    ),
    Target(name="attest-guest-key", parse=_guest_key, samples=lambda: [_guest_member("EncKeyPub")], refusals=_ANSWERED),
    Target(
        name="attest-guest-certificate",
        parse=lambda data: _guest_with(AikCert=b64(data)),
        samples=_guest_certificates,
        refusals=_ANSWERED,
    ),
    Target(
        name="attest-guest-document",
        parse=_guest_document,
        samples=lambda: [guest("snp").vm.paravisor_document(bytes(64))],
        refusals=_ANSWERED,
    ),
    Target(name="attest-vm", parse=lambda data: SERVICE().attest_vm(data), samples=_vm_requests, refusals=_ANSWERED),
    # other calls of the attestation service
    Target(
        name="attest-openenclave",
        parse=lambda data: SERVICE().attest("OpenEnclave", SERVICE().body("OpenEnclave", data)),
        samples=lambda: [samples.openenclave(quote) for quote in samples.sgx_quotes()],
        refusals=_ANSWERED,
    ),
    Target(
        name="attest-draft",
        parse=lambda data: SERVICE().attest_with_draft(data),
        samples=lambda: [POLICY.encode(), *SERVICE().policy_tokens()],
        refusals=_ANSWERED,
    ),
    Target(
        name="reset-policy",
        parse=lambda data: MANAGED_SERVICE().reset_policy(data),
        samples=lambda: MANAGED_SERVICE().reset_tokens(),
        refusals=_ANSWERED,
    ),
    Target(
        name="add-certificate",
        parse=lambda data: MANAGED_SERVICE().add_certificate(data),
        samples=lambda: MANAGED_SERVICE().certificate_tokens(),
        refusals=_ANSWERED,
    ),
    Target(
        name="remove-certificate",
        parse=lambda data: MANAGED_SERVICE().remove_certificate(data),
        samples=lambda: MANAGED_SERVICE().certificate_tokens(),
        refusals=_ANSWERED,
        has_good_input=False,
    ),
    Target(
        name="attestation-http",
        parse=lambda data: MANAGED_SERVICE().request(data),
        samples=lambda: MANAGED_SERVICE().requests(),
        refusals=_ANSWERED,
    ),
    Target(
        name="policy-token",
        parse=_policy_token,
        samples=lambda: [*SERVICE().policy_tokens(), canonical_json(SERVICE().policy_tokens()[0].decode())],
        refusals=_TOKEN,
    ),
    Target(name="policy-token-header", parse=_policy_header, samples=_policy_headers, refusals=_TOKEN),
    Target(name="policy-token-payload", parse=_policy_payload, samples=_policy_payloads),
    # what people look at
    Target(
        name="inspect",
        parse=_inspect,
        samples=lambda: [*_evidence_files(), *_other_files()],
        refusals=_LOOKED_AT,
    ),
    Target(name="inspect-verify", parse=_verify_file, samples=_evidence_files, refusals=_LOOKED_AT),
    Target(name="ear", parse=_ear, samples=_ear_samples),
)
