"""Verification of TDX evidence: each refusal is one edit of a good quote or of the vendor's word."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from tests.support.platform import NOW, RUNTIME_DATA, Bench

from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.endorsements.tcb import TcbStatus
from strongroom.attestation.evidence.dcap_quote import parse_tdx_quote
from strongroom.attestation.evidence.td_report import TdAttributes
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.tdx import verify_tdx_quote
from strongroom.base.errors import (
    DisagreementError,
    FormatError,
    StrongroomError,
    UntrustedRootError,
    VerificationError,
)
from strongroom.crypto import x509
from strongroom.simulation.platform import TEE_TCB_SVN

BENCH = Bench.new()
QUOTE = BENCH.td_quote()
PEM_START = QUOTE.index(b"-----BEGIN")
TD_1_5 = {"tee_tcb_svn2": TEE_TCB_SVN, "mrservicetd": bytes(48)}
Document = dict[str, Any]


@pytest.mark.parametrize(("version", "fields"), [(4, {}), (5, {}), (5, TD_1_5)])
def test_verifies_every_body_and_version(version: int, fields: Document) -> None:
    verified = BENCH.verify_td(BENCH.platform.quote(BENCH.td_report(**fields), version=version))
    assert (verified.hardware, verified.tcb_status, verified.advisory_ids) == ("simulated", "UpToDate", ())
    assert verified.quote.report == BENCH.td_report(**fields)
    assert verified.runtime_data == RUNTIME_DATA
    assert verified.pck.ppid == BENCH.platform.ppid


@dataclass(frozen=True, kw_only=True)
class Real:
    """A real quote with its collateral, at the time at which that held."""

    quote: bytes
    endorsements: DcapEndorsements
    roots: TrustedRoots
    now: datetime

    @classmethod
    def read(cls, shared: Path, name: str) -> "Real":
        folder = shared / "vectors" / "tdx"
        endorsements = parse_endorsements((folder / f"{name}_collateral.json").read_bytes())
        root = x509.parse_pem_chain(endorsements.tcb_info_issuer_chain.encode())[-1]
        return cls(
            quote=(folder / name).read_bytes(),
            endorsements=endorsements,
            roots=TrustedRoots(roots=(TrustedRoot(certificate_der=root, simulated=False),)),
            now=datetime.fromisoformat(json.loads(endorsements.tcb_info)["issueDate"]) + timedelta(days=1),
        )

    def verify(self, quote: bytes | None = None) -> Any:
        return verify_tdx_quote(
            quote or self.quote, trusted_roots=self.roots, endorsements=self.endorsements, now=self.now
        )


def test_verifies_a_real_trust_domain(shared: Path) -> None:
    verified = Real.read(shared, "tdx_quote").verify()
    assert (verified.tcb.status, verified.platform.root.hardware) == ("UpToDate", "real")


def test_refuses_a_real_platform_that_is_out_of_date(shared: Path) -> None:
    with pytest.raises(VerificationError, match="none of the vendor's TCB levels"):
        Real.read(shared, "tdx_quote_outdated").verify()


def test_refuses_every_one_bit_change_of_a_real_quote(shared: Path) -> None:
    real = Real.read(shared, "tdx_quote")
    end = len(parse_tdx_quote(real.quote).to_bytes())
    for number in range(200):
        edited = bytearray(real.quote)
        edited[number * end // 200] ^= 1 << number % 8
        with pytest.raises(StrongroomError):
            real.verify(bytes(edited))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(QUOTE) - 1), st.integers(0, 7))
def test_refuses_any_flipped_bit(at: int, bit: int) -> None:
    """Line breaks between the certificates' characters, and the zero behind them, say nothing and are left out."""
    assume(at < PEM_START or QUOTE[at] not in b"\n\0")
    edited = bytearray(QUOTE)
    edited[at] ^= 1 << bit
    with pytest.raises((VerificationError, FormatError, UntrustedRootError)):
        BENCH.verify_td(bytes(edited))


@pytest.mark.parametrize("name", ["debug", "hgs_plus_prof", "perf_prof", "pmt_prof"])
def test_refuses_a_trust_domain_that_the_host_watches(name: str) -> None:
    with pytest.raises(VerificationError, match="under debug"):
        BENCH.verify_td(BENCH.td_quote(td_attributes=TdAttributes(sept_ve_disable=True, **{name: True})))


def test_refuses_a_trust_domain_whose_pages_can_be_taken_away() -> None:
    with pytest.raises(VerificationError, match="away unnoticed"):
        BENCH.verify_td(BENCH.td_quote(td_attributes=TdAttributes()))


def test_refuses_other_runtime_data() -> None:
    with pytest.raises(VerificationError, match="does not bind"):
        BENCH.verify_td(runtime_data=RUNTIME_DATA + b" ")


def test_refuses_an_enclaves_quote_and_an_enclaves_endorsements() -> None:
    with pytest.raises(FormatError, match="not a TDX quote"):
        BENCH.verify_td(BENCH.quote())
    with pytest.raises(VerificationError, match="another kind of TEE") as refused:
        BENCH.verify_td(edit=lambda _: BENCH.endorsements)
    assert [each.name for each in refused.value.mismatches] == ["TCB info", "QE identity"]
    with pytest.raises(VerificationError, match="another kind of TEE"):
        BENCH.verify(edit=lambda _: BENCH.platform.endorsements(now=NOW, tee="TDX"))


def test_refuses_the_enclaves_quoting_enclave() -> None:
    quote = BENCH.platform.quote(BENCH.td_report(), qe_report=BENCH.platform.qe_report())
    with pytest.raises(VerificationError, match="another quoting enclave"):
        BENCH.verify_td(quote)


def test_refuses_another_platforms_endorsements() -> None:
    with pytest.raises(VerificationError):
        BENCH.verify_td(edit=lambda _: Bench.new().platform.endorsements(now=NOW, tee="TDX"))


@pytest.mark.parametrize("field", ["mrsignerseam", "seam_attributes"])
def test_refuses_another_tdx_module(field: str) -> None:
    size = {"mrsignerseam": 48, "seam_attributes": 8}[field]
    with pytest.raises(VerificationError, match="another TDX module"):
        BENCH.verify_td(BENCH.td_quote(**{field: b"\1" * size}))


def test_refuses_a_tdx_module_of_an_unknown_version() -> None:
    svn = bytes([TEE_TCB_SVN[0], 9]) + TEE_TCB_SVN[2:]
    with pytest.raises(VerificationError, match="does not know the TDX module"):
        BENCH.verify_td(BENCH.td_quote(tee_tcb_svn=svn))


def test_refuses_a_tdx_module_below_the_vendors_levels() -> None:
    old = bytes([TEE_TCB_SVN[0] - 1]) + TEE_TCB_SVN[1:]
    with pytest.raises(VerificationError, match="TDX module reaches none"):
        BENCH.verify_td(BENCH.td_quote(tee_tcb_svn=old))


def test_refuses_processor_parts_below_the_vendors_levels() -> None:
    old = TEE_TCB_SVN[:2] + bytes([TEE_TCB_SVN[2] - 1]) + TEE_TCB_SVN[3:]
    with pytest.raises(VerificationError, match="platform reaches none"):
        BENCH.verify_td(BENCH.td_quote(tee_tcb_svn=old))


def test_the_first_tdx_module_is_judged_with_the_platform() -> None:
    """Version 0 has no levels of its own: its two bytes count as the platform's."""
    first = bytes([TEE_TCB_SVN[0], 0]) + TEE_TCB_SVN[2:]

    def without_version(tcb: Document) -> None:
        tcb["tcbLevels"][0]["tcb"]["tdxtcbcomponents"][1]["svn"] = 0

    assert BENCH.verify_td(BENCH.td_quote(tee_tcb_svn=first), edit=_tcb_info(without_version)).tcb_status == "UpToDate"
    older = bytes([TEE_TCB_SVN[0] - 1, 0]) + TEE_TCB_SVN[2:]
    with pytest.raises(VerificationError, match="platform reaches none"):
        BENCH.verify_td(BENCH.td_quote(tee_tcb_svn=older), edit=_tcb_info(without_version))


@pytest.mark.parametrize(
    ("platform", "module", "together"),
    [
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDate", "UpToDate", "OutOfDate"),
    ],
)
def test_the_worst_part_decides(platform: TcbStatus, module: TcbStatus, together: TcbStatus) -> None:
    bench = BENCH.with_condition(tcb_status=platform, tdx_module_status=module)
    assert bench.verify_td().tcb_status == together


@pytest.mark.parametrize(
    "condition", [{"tcb_status": "Revoked"}, {"tdx_module_status": "Revoked"}, {"pck_revoked": True}]
)
def test_refuses_what_the_vendor_revoked(condition: Document) -> None:
    with pytest.raises(VerificationError, match="revoked"):
        BENCH.with_condition(**condition).verify_td()


def test_refuses_endorsements_that_have_run_out() -> None:
    with pytest.raises(VerificationError, match=r"hold at this time|not valid"):
        BENCH.verify_td(now=NOW + timedelta(days=40))


def test_refuses_tcb_levels_without_tdx_components() -> None:
    def without(tcb: Document) -> None:
        del tcb["tcbLevels"][0]["tcb"]["tdxtcbcomponents"]

    with pytest.raises(VerificationError, match="platform reaches none"):
        BENCH.verify_td(edit=_tcb_info(without))


OLDER = TEE_TCB_SVN[:2] + bytes([TEE_TCB_SVN[2] - 1]) + TEE_TCB_SVN[3:]
OLDEST = TEE_TCB_SVN[:2] + bytes([TEE_TCB_SVN[2] - 2]) + TEE_TCB_SVN[3:]


def two_levels(newer: TcbStatus, older: TcbStatus) -> Callable[[DcapEndorsements], DcapEndorsements]:
    """Let the vendor know two levels of TDX parts, with these statuses."""

    def edit(tcb: Document) -> None:
        level = tcb["tcbLevels"][0]
        below = json.loads(json.dumps(level))
        below["tcb"]["tdxtcbcomponents"][2]["svn"] -= 1
        level["tcbStatus"], below["tcbStatus"] = newer, older
        tcb["tcbLevels"].append(below)

    return _tcb_info(edit)


@pytest.mark.parametrize(
    ("newer", "older", "together"),
    [
        ("UpToDate", "OutOfDate", "TDRelaunchAdvised"),
        ("SWHardeningNeeded", "OutOfDate", "TDRelaunchAdvised"),
        ("ConfigurationNeeded", "OutOfDate", "TDRelaunchAdvisedConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "TDRelaunchAdvisedConfigurationNeeded"),
        ("UpToDate", "OutOfDateConfigurationNeeded", "TDRelaunchAdvisedConfigurationNeeded"),
        ("OutOfDate", "OutOfDate", "OutOfDate"),
        ("UpToDate", "SWHardeningNeeded", "SWHardeningNeeded"),
        ("UpToDate", "ConfigurationNeeded", "ConfigurationNeeded"),
    ],
)
def test_a_trust_domain_that_outlived_its_tdx_module(newer: TcbStatus, older: TcbStatus, together: str) -> None:
    """Both verifiers read both versions: `verify_tdx` would refuse where they differ."""
    quote = BENCH.td_quote(tee_tcb_svn=OLDER, tee_tcb_svn2=TEE_TCB_SVN, mrservicetd=bytes(48))
    assert BENCH.verify_td(quote, edit=two_levels(newer, older)).tcb_status == together


def test_a_trust_domain_that_went_back_to_an_older_module_keeps_the_status_of_its_launch() -> None:
    quote = BENCH.td_quote(tee_tcb_svn=TEE_TCB_SVN, tee_tcb_svn2=OLDER, mrservicetd=bytes(48))
    assert BENCH.verify_td(quote, edit=two_levels("UpToDate", "OutOfDate")).tcb_status == "UpToDate"


@pytest.mark.parametrize(
    ("current", "reason"), [(OLDER, "revoked"), (OLDEST, "reaches none"), (bytes(16), "reaches none")]
)
def test_refuses_a_current_tdx_module_that_is_revoked_or_unknown(current: bytes, reason: str) -> None:
    quote = BENCH.td_quote(tee_tcb_svn=TEE_TCB_SVN, tee_tcb_svn2=current, mrservicetd=bytes(48))
    with pytest.raises(VerificationError, match=reason) as refused:
        BENCH.verify_td(quote, edit=two_levels("UpToDate", "Revoked"))
    assert not isinstance(refused.value, DisagreementError)


def test_the_oldest_level_dates_the_result() -> None:
    older = "2020-01-01T00:00:00Z"

    def edit(tcb: Document) -> None:
        for identity in tcb["tdxModuleIdentities"]:
            identity["tcbLevels"][0]["tcbDate"] = older

    assert BENCH.verify_td(edit=_tcb_info(edit)).tcb_date == older


def test_refuses_attributes_of_the_tdx_module_that_the_vendor_does_not_describe() -> None:
    def edit(tcb: Document) -> None:
        for module in (tcb["tdxModule"], *tcb["tdxModuleIdentities"]):
            module["attributesMask"] = "00" * 8

    with pytest.raises(VerificationError, match="another TDX module"):
        BENCH.verify_td(BENCH.td_quote(seam_attributes=b"\1" + bytes(7)), edit=_tcb_info(edit))


def _tcb_info(edit: Callable[[Document], None]) -> Callable[[DcapEndorsements], DcapEndorsements]:
    """Change the TCB info, signed by the vendor."""

    def apply(endorsements: DcapEndorsements) -> DcapEndorsements:
        tcb_info = json.loads(endorsements.tcb_info)
        edit(tcb_info)
        text = json.dumps(tcb_info)
        signature = BENCH.platform.keys["tcb-signing"].sign(text.encode()).hex()
        return endorsements.model_copy(update={"tcb_info": text, "tcb_info_signature": signature})

    return apply


def test_an_edit_that_nobody_signed_is_refused() -> None:
    def worse(endorsements: DcapEndorsements) -> DcapEndorsements:
        return endorsements.model_copy(update={"tcb_info": endorsements.tcb_info.replace("UpToDate", "OutOfDate")})

    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify_td(edit=worse)
