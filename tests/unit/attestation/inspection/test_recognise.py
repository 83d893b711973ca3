"""Which format a file has is told by its bytes, however they are wrapped."""

import base64
import contextlib
import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.support.amd import amd_bench
from tests.support.azure_guest import Cloud
from tests.support.evidence_files import azure_vm_request
from tests.support.platform import NOW, RUNTIME_DATA, Bench
from tests.support.simulated_guest import SimulatedGuest

from strongroom.attestation.evidence.azure_vtpm import HclKind
from strongroom.attestation.inspection.describe import describe
from strongroom.attestation.inspection.files import (
    AttestedData,
    AzureVmFile,
    CertificatesFile,
    ClaimsFile,
    CollateralFile,
    CrlFile,
    PolicyTokenFile,
    QuoteFile,
    SnpFile,
    TokenFile,
    TpmQuoteFile,
)
from strongroom.attestation.inspection.recognise import MAX_LAYERS, MAX_NESTING, TRIED, attested_data, recognise
from strongroom.base.errors import FormatError, LimitError, RefusedError, StrongroomError
from strongroom.base.limits import LIMITS
from strongroom.crypto import x509
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.simulation.azure_vm import SimulatedAzureVm

BENCH, AMD = Bench.new(), amd_bench()
QUOTE = BENCH.quote()
REPORT = AMD.amd.sign(AMD.report())
CHAIN = AMD.endorsements().certificate_chain.encode()
KEY = SigningKey.generate("ES256")


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_json(**members: object) -> bytes:
    return json.dumps(members).encode()


VECTORS: dict[str, tuple[type, str]] = {
    "sgx/sgx_quote": (QuoteFile, "SGX quote, version 3"),
    "sgx/occlum_quote.dat": (QuoteFile, "SGX quote, version 3"),
    "sgx/sgx_quote_collateral.json": (CollateralFile, "DCAP collateral"),
    "tdx/tdx_quote": (QuoteFile, "TDX quote, version 4, TDX 1.0 body"),
    "tdx/tdx_quote_collateral.json": (CollateralFile, "DCAP collateral"),
    "tdx/tdx_quote_outdated": (QuoteFile, "TDX quote, version 5, TDX 1.5 body"),
    "tdx/tdx_quote_outdated_collateral.json": (CollateralFile, "DCAP collateral"),
    "snp/snp_milan_report.bin": (SnpFile, "SEV-SNP report, version 2"),
    "snp/snp_milan_vcek.der": (CertificatesFile, "certificate"),
    "snp/ask_ark_milan.pem": (CertificatesFile, "2 certificates in PEM form"),
    "snp/ask_ark_genoa.pem": (CertificatesFile, "2 certificates in PEM form"),
    "snp/ask_ark_turin.pem": (CertificatesFile, "2 certificates in PEM form"),
    "snp/asvk_ark_milan.pem": (CertificatesFile, "2 certificates in PEM form"),
    "snp/aci_report.bin": (SnpFile, "SEV-SNP report, version 2"),
    "snp/aci_thim.json": (CertificatesFile, "host's endorsements (Azure THIM)"),
    "azure-vtpm/az_hcl_snp.bin": (AzureVmFile, "Azure HCL report, SEV-SNP"),
    "azure-vtpm/az_tpm_quote.msg": (TpmQuoteFile, "TPM quote (TPMS_ATTEST)"),
    "azure-vtpm/az_vcek_chain.pem": (CertificatesFile, "3 certificates in PEM form"),
}
UNKNOWN = {"azure-vtpm/az_tpm_quote.sig", "key-release/skr_vector.json"}
"""A bare signature and keys: no evidence."""


@pytest.mark.parametrize("name", VECTORS)
@pytest.mark.parametrize("wrap", ["bytes", "base64", "base64url", "hex", "lines"])
def test_recognises_every_real_file(shared: Path, name: str, wrap: str) -> None:
    data = (shared / "vectors" / name).read_bytes()
    wrapped = {
        "bytes": data,
        "base64": base64.b64encode(data),
        "base64url": base64.urlsafe_b64encode(data).rstrip(b"="),
        "hex": data.hex().encode() + b"\n",
        "lines": base64.encodebytes(data),
    }[wrap]
    found = recognise(wrapped)
    kind, title = VECTORS[name]
    assert isinstance(found.content, kind)
    assert found.layers[-1] == title
    assert len(found.layers) == (1 if wrap == "bytes" else 2)
    assert describe(found.content)


def test_every_real_file_is_recognised_or_known_not_to_be_evidence(shared: Path) -> None:
    folder = shared / "vectors"
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"README.md"}
    assert names == VECTORS.keys() | UNKNOWN
    for name in UNKNOWN:
        with pytest.raises(FormatError, match=r"none that is known|no format that is known") as refused:
            recognise((folder / name).read_bytes())
        assert all(tried in refused.value.message for tried in TRIED)


@pytest.mark.parametrize("version", [3, 4, 5])
def test_recognises_sgx_quotes_of_every_version(version: int) -> None:
    quote = BENCH.platform.quote(BENCH.report(), version=version)
    assert recognise(quote).title == f"SGX quote, version {version}"


@pytest.mark.parametrize("version", [2, 3, 5])
def test_recognises_snp_reports_of_every_version(version: int) -> None:
    bench = amd_bench("Milan", "VLEK", version)
    assert recognise(bench.amd.sign(bench.report())).title == f"SEV-SNP report, version {version}"


def test_open_enclave_reports_are_unwrapped_and_their_length_is_checked() -> None:
    report = struct.pack("<IIQ", 1, 2, len(QUOTE)) + QUOTE
    found = recognise(report)
    assert found.layers == ("OpenEnclave report", "SGX quote, version 3")
    assert isinstance(found.content, QuoteFile)
    assert found.content.quote_bytes == QUOTE
    for wrong, words in ((report + b"\0", "another length"), (report[:-1], "another length"), (report[:12], "header")):
        with pytest.raises(FormatError, match=words):
            recognise(wrong)


def test_requests_carry_their_runtime_data() -> None:
    runtime = {"data": b64(RUNTIME_DATA), "dataType": "JSON"}
    for body in (
        as_json(quote=b64(QUOTE), runtimeData=runtime, nonce="x"),
        as_json(report=b64(struct.pack("<IIQ", 1, 2, len(QUOTE)) + QUOTE), runtimeData=runtime),
        as_json(report=b64(as_json(SnpReport=b64(REPORT), VcekCertChain=b64(CHAIN))), runtimeData=runtime),
    ):
        content = recognise(body).content
        assert isinstance(content, QuoteFile | SnpFile)
        assert content.runtime == AttestedData(data=RUNTIME_DATA, kind="JSON")


def test_snp_evidence_carries_its_certificates() -> None:
    for body in (
        as_json(SnpReport=b64(REPORT), VcekCertChain=b64(CHAIN)),
        b64(as_json(SnpReport=b64(REPORT), VcekCertChain=b64(CHAIN))).encode(),
    ):
        content = recognise(body).content
        assert isinstance(content, SnpFile)
        assert (content.report_bytes, content.chain_der) == (REPORT, x509.parse_pem_chain(CHAIN))


@pytest.mark.parametrize("machine", [AMD.amd, BENCH.platform], ids=["snp", "tdx"])
def test_an_azure_vms_request_carries_all_its_parts(machine: Any) -> None:
    evidence = SimulatedAzureVm.create(machine).evidence(b'{"run":1}')
    content = recognise(as_json(**azure_vm_request(evidence, certificates=CHAIN.decode()))).content
    assert isinstance(content, AzureVmFile)
    assert content.hcl_bytes == evidence.hcl_report
    assert (content.td_quote is None) == (evidence.td_quote is None)
    assert content.tpm is not None
    assert (content.tpm.quote_bytes, content.tpm.signature) == (evidence.tpm_quote, evidence.tpm_signature)
    assert content.tpm.pcr_values == evidence.pcr_values
    assert content.runtime == AttestedData(data=b'{"run":1}', kind="JSON")
    assert content.chain_der == x509.parse_pem_chain(CHAIN)


@pytest.mark.parametrize("kind", ["snp", "tdx"])
@pytest.mark.parametrize("member", ["attestationInfo", "AttestationInfo"])
def test_what_azures_own_client_sends_carries_all_its_parts(kind: HclKind, member: str) -> None:
    info = SimulatedGuest(cloud=Cloud.new(), kind=kind).info()
    found = recognise(as_json(**{member: b64(json.dumps(info).encode())}))
    assert found.layers[0] == "attest request"
    assert isinstance(found.content, AzureVmFile)
    assert found.content.guest is not None
    titles = [group.title for group in describe(found.content)]
    assert {"guest, by its own word", "client payload", "key to answer to", "registers", "TPM quote"} <= set(titles)
    info["IsolationInfo"] = {"Type": "TrustedLaunch"}
    with pytest.raises(RefusedError):
        recognise(json.dumps(info).encode())


def test_tokens_are_told_by_what_they_say() -> None:
    result = sign_jws(b'{"x-ms-ver":"1.0","exp":1}', key=KEY, header={"typ": "JWT"})
    policy = sign_jws(as_json(AttestationPolicy="dmVyc2lvbj0xLjA7"), key=KEY)
    stored = sign_jws(as_json(**{"x-ms-policy": policy}), key=KEY)
    assert recognise(result.encode()).title == "attestation result (JWT)"
    assert isinstance(recognise(as_json(token=result)).content, TokenFile)
    assert isinstance(recognise(f'"{result}"\n'.encode()).content, TokenFile)
    for token in (policy, stored):
        content = recognise(token.encode()).content
        assert isinstance(content, PolicyTokenFile)
        assert content.text == "version=1.0;"


def test_claims_collateral_and_lists() -> None:
    assert isinstance(recognise(as_json(**{"x-ms-attestation-type": "sgx"})).content, ClaimsFile)
    assert isinstance(recognise(BENCH.endorsements.to_json()).content, CollateralFile)
    assert isinstance(recognise(AMD.endorsements().to_json()).content, CollateralFile)
    crl = bytes.fromhex(AMD.endorsements().crl)
    pem = f"-----BEGIN X509 CRL-----\n{base64.encodebytes(crl).decode()}-----END X509 CRL-----\n"
    for form in (crl, crl.hex().encode(), pem.encode()):
        assert recognise(form).content == CrlFile(crl_der=crl)


def test_signing_keys_are_certificates() -> None:
    root = AMD.amd.root_der
    found = recognise(as_json(keys=[{"kty": "RSA", "x5c": [b64(root)]}]))
    assert found.content == CertificatesFile(chain_der=(root,))
    for keys in ([{"kty": "RSA"}], 7, [{"x5c": [b64(b"none")]}], [{"x5c": [7]}]):
        with pytest.raises(FormatError):
            recognise(as_json(keys=keys))


def test_bare_runtime_data_are_json_or_binary() -> None:
    assert attested_data(b'{"a":1}').kind == "JSON"
    for data in (b"[1]", b"\xff", b'{"a":1,"a":2}', b'{"a":' * 50 + b"1" + b"}" * 50):
        assert attested_data(data).kind == "Binary"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (QUOTE[:-1], "an SGX quote, but the quote is truncated"),
        (QUOTE + b"\0", "an SGX quote, but bytes follow"),
        (REPORT[:0x4C] + b"\1" + REPORT[0x4D:], "an SEV-SNP report, but a reserved byte"),
        (b"HCLA" + bytes(100), "an Azure HCL report, but the HCL report is truncated"),
        (b"\xffTCG" + bytes(100), "a TPM's quote, but not a TPM's quote"),
        (b"-----BEGIN CERTIFICATE-----\n???", "PEM, but not certificates"),
        (b'{"quote":7}', "a JSON object, but quote is no text"),
        (b'{"quote":"AAAA","runtimeData":7}', "no format that is known"),
        (b'{"a":1,"a":2}', "a JSON object, but not strict JSON"),
        (b"", "these 0 bytes have no format"),
        (b"\0\0\0", "these 3 bytes have no format"),
        (b"hello, world", "no format that is known"),
        (b"zzzz", "inside the base64 text"),
        (sign_jws(b'{"x-ms-policy":"\\ud800"}', key=KEY).encode(), "inside the answer of an attestation service"),
    ],
)
def test_says_what_is_wrong(data: bytes, words: str) -> None:
    with pytest.raises(FormatError, match=words) as refused:
        recognise(data)
    assert refused.value.action


def test_a_file_that_is_wrapped_without_end_is_refused() -> None:
    data = QUOTE
    for _ in range(MAX_LAYERS):
        data = base64.b64encode(data)
    with pytest.raises(FormatError, match="wrapped more than"):
        recognise(data)


def test_json_that_is_nested_without_end_is_refused() -> None:
    for depth, fits in ((MAX_NESTING - 2, True), (MAX_NESTING + 2, False), (100_000, False)):
        text = b'{"x-ms-ver":' + b"[" * depth + b"]" * depth + b"}"
        if fits:
            assert recognise(text)
        else:
            with pytest.raises(FormatError):
                recognise(text)


def test_a_file_larger_than_any_format_is_refused() -> None:
    with pytest.raises(LimitError):
        recognise(bytes(LIMITS.request_body_bytes + 1))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400) | st.text(max_size=200).map(lambda text: text.encode("utf-8", errors="replace")))
@example(b'{"pcrs":{"0":""},"hclReport":"","tpmQuote":""}')
def test_any_bytes_are_described_or_refused(data: bytes) -> None:
    with contextlib.suppress(StrongroomError):
        describe(recognise(data).content)


FILES = {
    "sgx": QUOTE,
    "tdx": BENCH.td_quote(),
    "snp": REPORT,
    "hcl": SimulatedAzureVm.create(AMD.amd).evidence(RUNTIME_DATA).hcl_report,
    "request": as_json(quote=b64(QUOTE), runtimeData={"data": b64(RUNTIME_DATA), "dataType": "JSON"}),
    "vm": as_json(**azure_vm_request(SimulatedAzureVm.create(AMD.amd).evidence(RUNTIME_DATA))),
    "collateral": BENCH.platform.endorsements(now=NOW).to_json(),
    "certificate": BENCH.platform.root_der,
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(FILES)), st.integers(0, 20_000), st.binary(max_size=3), st.integers(0, 3))
def test_edited_files_are_described_or_refused(name: str, at: int, inserted: bytes, removed: int) -> None:
    data = FILES[name]
    at %= len(data)
    with contextlib.suppress(StrongroomError):
        describe(recognise(data[:at] + inserted + data[at + removed :]).content)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
names = st.sampled_from(
    [
        "quote", "report", "token", "keys", "runtimeData", "SnpReport", "VcekCertChain", "hclReport", "tdQuote",
        "tpmQuote", "tpmSignature", "pcrs", "certificates", "vcekCert", "certificateChain", "certificate_chain", "crl",
        "x-ms-ver", *BENCH.endorsements.model_dump(),
    ]
)  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(names, json_values | st.sampled_from([b64(QUOTE), b64(REPORT), CHAIN.decode()]), max_size=9))
def test_any_json_object_is_described_or_refused(members: dict[str, Any]) -> None:
    with contextlib.suppress(StrongroomError):
        describe(recognise(json.dumps(members).encode()).content)
