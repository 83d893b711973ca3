"""Every field is listed under the vendor's name, and what matters is said in words."""

from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import RUNTIME_DATA, Bench

from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.sgx_report import (
    FLAG_DEBUG,
    FLAG_INIT,
    FLAG_PROVISION_KEY,
    SgxAttributes,
    SgxReportBody,
)
from strongroom.attestation.evidence.snp_report import GuestPolicy, PlatformInfo, SnpReport, parse_snp_report
from strongroom.attestation.evidence.td_report import TdAttributes, TdReportBody
from strongroom.attestation.inspection.describe import Field, describe
from strongroom.attestation.inspection.files import (
    AttestedData,
    CertificatesFile,
    CollateralFile,
    QuoteFile,
    SnpFile,
    TokenFile,
)
from strongroom.attestation.inspection.recognise import recognise

BENCH, AMD = Bench.new(), amd_bench()


def listed(content: Any) -> dict[str, Field]:
    """The fields by group and name."""
    return {f"{group.title}: {each.name}": each for group in describe(content) for each in group.fields}


def sgx(runtime: AttestedData | None = None, **changed: Any) -> QuoteFile:
    quote = BENCH.quote(**changed)
    return QuoteFile(quote=parse_sgx_quote(quote), quote_bytes=quote, runtime=runtime)


def tdx(**changed: Any) -> QuoteFile:
    quote = BENCH.td_quote(**changed)
    return QuoteFile(quote=parse_tdx_quote(quote), quote_bytes=quote)


def snp(**changed: Any) -> SnpFile:
    report = AMD.amd.sign(AMD.report(**changed))
    return SnpFile(report=parse_snp_report(report), report_bytes=report)


@pytest.mark.parametrize(
    ("content", "group", "kind", "special"),
    [
        (sgx(), "enclave report", SgxReportBody, {"attributes"}),
        (tdx(), "trust domain report", TdReportBody, {"rtmr", "td_attributes", "tee_tcb_svn2", "mrservicetd"}),
        (snp(), "attestation report", SnpReport, {"policy", "platform_info", "cpuid", "current", "committed",
                                                  "launch_mit_vector", "current_mit_vector"}),
    ],
    ids=["sgx", "tdx", "snp"],
)  # fmt: skip
def test_lists_every_field_of_a_report(content: Any, group: str, kind: type, special: set[str]) -> None:
    found = listed(content)
    for each in fields(kind):
        if each.name in special:
            continue
        assert f"{group}: {each.name}" in found
    inside = {name.partition(".")[0] for name in found if "." in name}
    assert {f"{group}: {name}" for name in special & {"attributes", "td_attributes", "policy", "cpuid"}} <= inside


def test_says_that_debug_is_set_and_only_then() -> None:
    words = "DEBUG set: the host can read and change this memory"
    flags = FLAG_INIT | FLAG_DEBUG | FLAG_PROVISION_KEY | 1 << 40
    found = listed(sgx(attributes=SgxAttributes(flags=flags, xfrm=3)))
    assert found["enclave report: attributes.DEBUG"] == Field(name="attributes.DEBUG", value=True, meaning=words)
    assert found["enclave report: attributes.PROVISION_KEY"].meaning
    assert found["enclave report: attributes.(other bits)"].value == f"{1 << 40:#x}"
    assert listed(tdx(td_attributes=TdAttributes(debug=True)))["trust domain report: td_attributes.debug"].meaning == (
        words
    )
    assert listed(snp(policy=GuestPolicy(debug=True)))["attestation report: policy.debug"].meaning == words
    for good in (sgx(), tdx(), snp()):
        assert not any(words in each.meaning for each in listed(good).values())


def test_says_what_it_means_that_a_protection_is_off() -> None:
    found = listed(tdx(td_attributes=TdAttributes()))
    assert "unnoticed" in found["trust domain report: td_attributes.sept_ve_disable"].meaning
    found = listed(snp(platform_info=PlatformInfo()))
    assert "BadRAM" in found["attestation report: platform_info.alias_check_complete"].meaning


def test_compares_runtime_data_with_what_the_evidence_names() -> None:
    good = listed(sgx(AttestedData(data=RUNTIME_DATA, kind="JSON")))
    assert "equals" in good["runtime data: SHA-256"].meaning
    assert good["runtime data: data"].value == RUNTIME_DATA.decode()
    other = listed(sgx(AttestedData(data=b"\xff", kind="Binary")))
    assert "DIFFERS" in other["runtime data: SHA-256"].meaning
    assert other["runtime data: data"].value == "ff"


def test_shows_what_certificates_say_of_the_platform_and_that_it_is_simulated() -> None:
    found = describe(sgx())[4:]
    assert [group.title for group in found] == [
        "certificate 1: Simulated SGX PCK Certificate",
        "certificate 2: Simulated SGX PCK Platform CA",
        "certificate 3: Simulated SGX Root CA",
    ]
    assert {each.name: each.value for each in found[0].fields}["ppid"] == BENCH.platform.ppid.hex()
    assert any("SIMULATED" in each.meaning for each in found[2].fields)
    (vcek,) = describe(CertificatesFile(chain_der=(AMD.amd.certificates["VCEK"],)))
    assert {each.name: each.value for each in vcek.fields}["hwid"] == AMD.amd.chip_id.hex()


def test_names_the_vendors_own_roots(shared: Path) -> None:
    for name in ("snp/ask_ark_milan.pem", "snp/ask_ark_genoa.pem", "snp/ask_ark_turin.pem"):
        intermediate, root = describe(recognise((shared / "vectors" / name).read_bytes()).content)
        assert any(each.meaning == "the key of AMD's root" for each in root.fields)
        assert not any("root" in each.meaning for each in intermediate.fields)


def test_lists_the_levels_of_collateral_and_each_certificate_once() -> None:
    groups = {group.title: group for group in describe(CollateralFile(endorsements=BENCH.endorsements))}
    levels = [each for each in groups["TCB info"].fields if each.name.startswith("tcbLevels")]
    assert levels[0].value == "UpToDate"
    certificates = [title for title in groups if title.startswith("certificate ")]
    assert [title.partition(": ")[2] for title in certificates] == [
        "Simulated SGX PCK Platform CA",
        "Simulated SGX Root CA",
        "Simulated SGX TCB Signing",
    ]
    snp = describe(CollateralFile(endorsements=AMD.endorsements()))
    assert snp[-1].title.startswith("revocation list of ")


def test_says_a_tokens_times_in_words() -> None:
    token = TokenFile(header={"alg": "RS256"}, claims={"exp": 1_767_225_600, "iat": "never", "nbf": 1 << 80})
    found = listed(token)
    assert found["claims: exp"].meaning == "2026-01-01T00:00:00Z"
    assert (found["claims: iat"].meaning, found["claims: nbf"].meaning) == ("", "")
