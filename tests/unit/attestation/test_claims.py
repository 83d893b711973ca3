import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import RUNTIME_DATA as RUNTIME_DATA_OF_BENCH
from tests.support.platform import Bench

from strongroom.attestation.claims import demand_named, incoming_claims, sgx_claims, snp_claims, tdx_claims
from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.pck import parse_pck_extension, pck_chain
from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, FLAG_KSS, SgxAttributes
from strongroom.attestation.evidence.snp_report import Product, tcb_version_bytes
from strongroom.attestation.verifier.dcap import BOTH_VERIFIERS
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedDcap, VerifiedSgx
from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError, RefusedError
from strongroom.policy.evidence_policy import parse_evidence_policy
from strongroom.simulation.amd import CSP_ID

RUNTIME_DATA = b'{"application": "ab"}'


@pytest.fixture
def evidence(shared: Path) -> VerifiedSgx:
    """Claims of a real quote; that it verifies is another test's matter."""
    sgx = shared / "vectors" / "sgx"
    return VerifiedDcap(
        quote=parse_sgx_quote((sgx / "sgx_quote").read_bytes()),
        runtime_data=RUNTIME_DATA,
        verifiers=BOTH_VERIFIERS,
        tcb_status="ConfigurationAndSWHardeningNeeded",
        advisory_ids=("INTEL-SA-00289", "INTEL-SA-00615"),
        tcb_evaluation_data_number=17,
        tcb_date="2024-03-13T00:00:00Z",
        crl_number=1,
        root_crl_number=2,
        newest_signed=datetime(2024, 6, 1, tzinfo=UTC),
        pck=parse_pck_extension(pck_chain(parse_sgx_quote((sgx / "sgx_quote").read_bytes()))[0]),
        hardware="real",
        earliest_expiration=datetime(2030, 1, 1, tzinfo=UTC),
        endorsements=parse_endorsements((sgx / "sgx_quote_collateral.json").read_bytes()),
        made_by=VERIFIER,
    )


def changed(evidence: VerifiedSgx, **changes: Any) -> VerifiedSgx:
    return replace(evidence, made_by=VERIFIER, **changes)


def with_flags(evidence: VerifiedSgx, flags: int) -> VerifiedSgx:
    report = replace(
        evidence.quote.report,
        attributes=SgxAttributes(flags=flags, xfrm=0),
        config_id=bytes(range(64)),
        config_svn=9,
        isv_ext_prod_id=b"\x11" * 16,
        isv_family_id=b"\x22" * 16,
    )
    return changed(evidence, quote=replace(evidence.quote, report=report))


def test_measurements_of_a_real_quote(evidence: VerifiedSgx, shared: Path) -> None:
    quote = (shared / "vectors" / "sgx" / "sgx_quote").read_bytes()
    claims = sgx_claims(evidence, runtime_data_type="JSON")
    body = quote[48:]
    assert claims["x-ms-attestation-type"] == "sgx"
    assert claims["x-ms-sgx-mrenclave"] == body[64:96].hex()
    assert claims["x-ms-sgx-mrsigner"] == body[128:160].hex()
    assert claims["x-ms-sgx-product-id"] == int.from_bytes(body[256:258], "little")
    assert claims["x-ms-sgx-svn"] == int.from_bytes(body[258:260], "little")
    assert claims["x-ms-sgx-is-debuggable"] is False


def test_collateral_hashes_cover_what_was_used(evidence: VerifiedSgx, shared: Path) -> None:
    sgx = shared / "vectors" / "sgx"
    collateral: dict[str, str] = json.loads((sgx / "sgx_quote_collateral.json").read_text())
    claimed: Any = sgx_claims(evidence, runtime_data_type="JSON")["x-ms-sgx-collateral"]
    crl = hashlib.sha256(bytes.fromhex(collateral["root_ca_crl"])).hexdigest()
    texts = {
        "qeidcertshash": "qe_identity_issuer_chain",
        "qeidhash": "qe_identity",
        "tcbinfocertshash": "tcb_info_issuer_chain",
        "tcbinfohash": "tcb_info",
    }
    assert claimed == {
        **{name: hashlib.sha256(collateral[text].encode()).hexdigest() for name, text in texts.items()},
        "quotehash": hashlib.sha256((sgx / "sgx_quote").read_bytes()).hexdigest(),
        "qeidcrlhash": crl,
        "tcbinfocrlhash": crl,
    }


def test_launch_configuration_is_claimed_only_where_it_was_fixed(evidence: VerifiedSgx) -> None:
    claims = sgx_claims(with_flags(evidence, FLAG_KSS), runtime_data_type="JSON")
    assert claims["x-ms-sgx-config-id"] == bytes(range(64)).hex()
    assert claims["x-ms-sgx-config-svn"] == 9
    assert claims["x-ms-sgx-isv-extended-product-id"] == "11" * 16
    assert claims["x-ms-sgx-isv-family-id"] == "22" * 16
    without = sgx_claims(with_flags(evidence, 0), runtime_data_type="JSON")
    assert not {name for name in without if "config" in name or "isv" in name}


def test_debug_is_claimed(evidence: VerifiedSgx) -> None:
    claims = sgx_claims(with_flags(evidence, FLAG_DEBUG), runtime_data_type="JSON")
    assert claims["x-ms-sgx-is-debuggable"] is True


def test_what_azure_has_no_claim_for(evidence: VerifiedSgx) -> None:
    claims = sgx_claims(changed(evidence, hardware="simulated"), runtime_data_type="JSON")
    ours = {name: value for name, value in claims.items() if name.startswith("x-ms-strongroom-")}
    assert ours == {
        "x-ms-strongroom-hardware": "simulated",
        "x-ms-strongroom-tcb-status": "ConfigurationAndSWHardeningNeeded",
        "x-ms-strongroom-advisory-ids": ["INTEL-SA-00289", "INTEL-SA-00615"],
        "x-ms-strongroom-tcb-evaluation-data-number": 17,
        "x-ms-strongroom-crl-number": 1,
        "x-ms-strongroom-root-crl-number": 2,
        "x-ms-strongroom-fmspc": "00a067110000",
        "x-ms-strongroom-machines": [f"ppid:{evidence.pck.ppid.hex()}"],
        "x-ms-strongroom-provision-key": False,
        "x-ms-strongroom-quote-version": 3,
        "x-ms-strongroom-sgx-type": 0,
        "x-ms-strongroom-verifiers": ["dcap-qvl", "strongroom"],
    }


def test_runtime_data_as_json_and_as_bytes(evidence: VerifiedSgx) -> None:
    assert sgx_claims(evidence, runtime_data_type="JSON")["x-ms-runtime"] == {"application": "ab"}
    claims = sgx_claims(evidence, runtime_data_type="Binary")
    assert claims["x-ms-sgx-ehd"] == claims["maa-ehd"] == claims["aas-ehd"] == "eyJhcHBsaWNhdGlvbiI6ICJhYiJ9"
    assert "x-ms-runtime" not in claims


@pytest.mark.parametrize("runtime_data", [b"", b"[]", b'"x"', b'{"a":1,"a":2}', b"\xff"])
def test_runtime_data_that_is_no_json_object_is_refused(evidence: VerifiedSgx, runtime_data: bytes) -> None:
    with pytest.raises(FormatError):
        sgx_claims(changed(evidence, runtime_data=runtime_data), runtime_data_type="JSON")


def test_policies_read_scalars_arrays_and_deprecated_names(evidence: VerifiedSgx) -> None:
    claims = sgx_claims(evidence, runtime_data_type="JSON")
    policy = parse_evidence_policy(
        """version=1.0;
        authorizationrules {
            [type=="$is-debuggable", value==false] && [type=="$tee", value=="sgx"] && [type=="$svn"]
            && [type=="$product-id"] && [type=="$sgx-mrenclave"] && [type=="$sgx-mrsigner"]
            && [type=="x-ms-strongroom-hardware", value=="real"] => permit();
            [type=="x-ms-runtime"] => deny();
        };
        issuancerules { c:[type=="x-ms-strongroom-advisory-ids"] => issue(claim=c); };"""
    )
    issued = policy.evaluate(incoming_claims(claims)).issued
    assert [claim.value for claim in issued] == ["INTEL-SA-00289", "INTEL-SA-00615"]


def test_claims_of_a_trust_domain_stand_for_its_report() -> None:
    bench = Bench.new()
    rtmr = (b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48)
    verified = bench.verify_td(bench.td_quote(rtmr=rtmr, mrowner=b"o" * 48))
    claims = tdx_claims(verified, runtime_data_type="JSON")
    body = bench.td_report(rtmr=rtmr, mrowner=b"o" * 48).to_bytes()
    at = {
        "tdx_tee_tcb_svn": (0, 16),
        "tdx_mrseam": (16, 64),
        "tdx_mrsignerseam": (64, 112),
        "tdx_seam_attributes": (112, 120),
        "tdx_td_attributes": (120, 128),
        "tdx_xfam": (128, 136),
        "tdx_mrtd": (136, 184),
        "tdx_mrconfigid": (184, 232),
        "tdx_mrowner": (232, 280),
        "tdx_mrownerconfig": (280, 328),
        "tdx_rtmr0": (328, 376),
        "tdx_rtmr3": (472, 520),
        "tdx_report_data": (520, 584),
    }
    assert {name: claims[name] for name in at} == {name: body[start:end].hex() for name, (start, end) in at.items()}
    assert (claims["x-ms-attestation-type"], claims["dbgstat"], claims["attester_tcb_status"]) == (
        "tdxvm",
        "disabled",
        "UpToDate",
    )
    assert claims["tdx_td_attributes_septve_disable"] is True
    assert claims["x-ms-strongroom-quotehash"] == hashlib.sha256(verified.quote.to_bytes()).hexdigest()
    assert claims["x-ms-runtime"] == json.loads(RUNTIME_DATA_OF_BENCH)
    assert claims["x-ms-strongroom-machines"] == [
        f"ppid:{bench.platform.ppid.hex()}",
        f"platform-instance:{hashlib.sha256(bench.platform.ppid).hexdigest()[:32]}",
    ]
    assert "x-ms-compliance-status" not in claims


def test_binary_runtime_data_of_a_virtual_machine_stands_in_its_report_only() -> None:
    td = tdx_claims(Bench.new().verify_td(), runtime_data_type="Binary")
    snp = snp_claims(amd_bench().verify(), runtime_data_type="Binary")
    digest = hashlib.sha256(RUNTIME_DATA_OF_BENCH).hexdigest()
    assert "x-ms-runtime" not in {*td, *snp}
    assert str(td["tdx_report_data"]).startswith(digest)
    assert str(snp["x-ms-sevsnpvm-reportdata"]).startswith(digest)


@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("product", ["Milan", "Turin"])
def test_claims_of_a_guest_stand_for_its_report(product: Product, kind: EndorsementKey) -> None:
    bench = amd_bench(product, kind)
    report = bench.report(
        vmpl=1, guest_svn=4, family_id=b"f" * 16, image_id=b"i" * 16, host_data=b"h" * 32, id_key_digest=b"k" * 48
    )
    signed = bench.amd.sign(report)
    claims = snp_claims(bench.verify(signed), runtime_data_type="JSON")
    tcb = bench.amd.tcb
    assert {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-vmpl": 1,
        "x-ms-strongroom-quotehash": hashlib.sha256(signed).hexdigest(),
        "x-ms-sevsnpvm-guestsvn": 4,
        "x-ms-sevsnpvm-familyId": (b"f" * 16).hex(),
        "x-ms-sevsnpvm-imageId": (b"i" * 16).hex(),
        "x-ms-sevsnpvm-hostdata": (b"h" * 32).hex(),
        "x-ms-sevsnpvm-idkeydigest": (b"k" * 48).hex(),
        "x-ms-sevsnpvm-authorkeydigest": "00" * 48,
        "x-ms-sevsnpvm-launchmeasurement": bytes(range(48)).hex(),
        "x-ms-sevsnpvm-reportid": bytes(range(32)).hex(),
        "x-ms-sevsnpvm-reportdata": report.report_data.hex(),
        "x-ms-sevsnpvm-bootloader-svn": tcb.boot_loader,
        "x-ms-sevsnpvm-tee-svn": tcb.tee,
        "x-ms-sevsnpvm-snpfw-svn": tcb.snp,
        "x-ms-sevsnpvm-microcode-svn": tcb.microcode,
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-migration-allowed": False,
        "x-ms-sevsnpvm-smt-allowed": True,
        "x-ms-runtime": json.loads(RUNTIME_DATA_OF_BENCH),
        "x-ms-strongroom-hardware": "simulated",
        "x-ms-strongroom-product": product,
        "x-ms-strongroom-signing-key": kind,
        "x-ms-strongroom-crl-number": 1,
        "x-ms-strongroom-machines": [f"chip-id:{bench.amd.chip_id.hex()}"],
        "x-ms-strongroom-firmware-is-provisional": False,
        "x-ms-strongroom-alias-check-complete": True,
        "x-ms-strongroom-single-socket": False,
        **({"x-ms-strongroom-fmc-svn": tcb.fmc} if product == "Turin" else {}),
        **({"x-ms-strongroom-csp-id": CSP_ID} if kind == "VLEK" else {}),
        "x-ms-ver": "1.0",
    } == claims


def test_firmware_that_can_go_back_is_provisional() -> None:
    bench = amd_bench()
    older = tcb_version_bytes(replace(bench.amd.tcb, microcode=1))
    claims = snp_claims(bench.verify(bench.report(committed_tcb=older)), runtime_data_type="JSON")
    assert claims["x-ms-strongroom-firmware-is-provisional"] is True


def permitted(claims: dict[str, Json], rule: str) -> None:
    policy = parse_evidence_policy(f"version=1.0; authorizationrules {{ {rule} => permit(); }};")
    demand_named(claims, named=policy.evaluate(incoming_claims(claims)).named)


UNSAFE: list[tuple[str, str, Json]] = [
    ("sgx", "x-ms-sgx-is-debuggable", True),
    ("sgx", "x-ms-strongroom-provision-key", True),
    ("sgx", "x-ms-strongroom-quote-version", 4),
    ("tdxvm", "dbgstat", "enabled"),
    ("tdxvm", "tdx_td_attributes_septve_disable", False),
    ("tdxvm", "x-ms-strongroom-migratable", True),
    ("tdxvm", "x-ms-strongroom-tpa", True),
    ("sevsnpvm", "x-ms-sevsnpvm-is-debuggable", True),
    ("sevsnpvm", "x-ms-sevsnpvm-migration-allowed", True),
    ("sevsnpvm", "x-ms-sevsnpvm-vmpl", 1),
]


def claims_of(kind: str, evidence: VerifiedSgx) -> dict[str, Json]:
    if kind == "sgx":
        return sgx_claims(evidence, runtime_data_type="Binary")
    if kind == "tdxvm":
        return tdx_claims(Bench.new().verify_td(), runtime_data_type="Binary")
    return snp_claims(amd_bench().verify(), runtime_data_type="Binary")


@pytest.mark.parametrize(("kind", "name", "value"), UNSAFE)
def test_what_is_not_safe_passes_only_where_the_policy_names_it(
    kind: str, name: str, value: Json, evidence: VerifiedSgx
) -> None:
    safe = claims_of(kind, evidence)
    permitted(safe, "")
    unsafe = {**safe, name: value}
    written = json.dumps(value)
    permitted(unsafe, f'[type=="x-ms-ver"] && [type=="{name}", value=={written}]')
    for rule in ("", f'[type=="{name}"]', f'[type=="{name}", value!={json.dumps(safe[name])}]'):
        with pytest.raises(RefusedError) as refusal:
            permitted(unsafe, rule)
        assert [each.name for each in refusal.value.mismatches] == [name]


def test_a_deprecated_name_names_its_claim(evidence: VerifiedSgx) -> None:
    claims = {**claims_of("sgx", evidence), "x-ms-sgx-is-debuggable": True}
    permitted(claims, '[type=="$is-debuggable", value==true]')


def test_everything_that_is_not_safe_is_said_at_once(evidence: VerifiedSgx) -> None:
    claims = {**claims_of("sgx", evidence), "x-ms-sgx-is-debuggable": True, "x-ms-strongroom-provision-key": True}
    with pytest.raises(RefusedError) as refusal:
        permitted(claims, '[type=="x-ms-strongroom-quote-version", value==3]')
    assert [(each.name, each.expected, each.actual) for each in refusal.value.mismatches] == [
        ("x-ms-sgx-is-debuggable", "false", "true"),
        ("x-ms-strongroom-provision-key", "false", "true"),
    ]


def test_without_runtime_data_the_report_data_alone_is_claimed(evidence: VerifiedSgx) -> None:
    claims = sgx_claims(changed(evidence, runtime_data=None), runtime_data_type="JSON")
    assert "x-ms-runtime" not in claims
    assert "x-ms-sgx-ehd" not in claims
    assert claims["x-ms-sgx-report-data"] == evidence.quote.report.report_data.hex()


def test_a_masked_chip_is_no_machine() -> None:
    bench = amd_bench()
    verified = bench.verify()
    masked = replace(verified, report=replace(verified.report, chip_id=bytes(64)), made_by=VERIFIER)
    assert snp_claims(masked, runtime_data_type="Binary")["x-ms-strongroom-machines"] == []
