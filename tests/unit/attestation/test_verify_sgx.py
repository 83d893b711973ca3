import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.support.platform import MRENCLAVE, NOW, RUNTIME_DATA, Bench

from strongroom.attestation.attester import Quote, collect_evidence
from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.pck import pck_chain
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.second_opinion import require_agreement
from strongroom.attestation.verifier.sgx import verify_sgx_quote
from strongroom.attestation.verifier.verified import VerifiedDcap
from strongroom.base.errors import DisagreementError, LimitError, StrongroomError, VerificationError
from strongroom.base.limits import LIMITS

BENCH = Bench.new()
QUOTE = BENCH.quote()


def test_verifies_simulated_evidence_and_says_so() -> None:
    verified = BENCH.verify()
    assert verified.hardware == "simulated"
    assert verified.quote.report.mrenclave == MRENCLAVE
    assert verified.runtime_data == RUNTIME_DATA
    assert (verified.tcb_status, verified.advisory_ids) == ("UpToDate", ())
    assert (verified.pck.fmspc, verified.pck.ppid) == (BENCH.platform.fmspc.hex(), BENCH.platform.ppid)
    assert verified.earliest_expiration == NOW + timedelta(days=29)
    assert verified.endorsements == BENCH.endorsements


def test_endorsements_that_held_a_second_ago_are_checked_again() -> None:
    bench = Bench.new(tcb_info_lifetime=timedelta(hours=2))
    last = NOW + timedelta(hours=1)

    assert bench.verify(now=last).earliest_expiration == last
    with pytest.raises(VerificationError, match="does not hold at this time"):
        bench.verify(now=last + timedelta(seconds=1))


def test_endorsements_that_were_verified_once_are_refused_when_a_word_of_them_changes() -> None:
    BENCH.verify()

    changed = BENCH.endorsements.tcb_info.replace('"UpToDate"', '"OutOfDate"')
    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify(edit=lambda good: good.model_copy(update={"tcb_info": changed}))


@pytest.mark.parametrize(
    ("platform", "qe", "together"),
    [
        ("SWHardeningNeeded", "UpToDate", "SWHardeningNeeded"),
        ("ConfigurationNeeded", "UpToDate", "ConfigurationNeeded"),
        ("OutOfDate", "UpToDate", "OutOfDate"),
        ("UpToDate", "OutOfDate", "OutOfDate"),
        ("ConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("ConfigurationAndSWHardeningNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
        ("OutOfDateConfigurationNeeded", "OutOfDate", "OutOfDateConfigurationNeeded"),
    ],
)
def test_both_verifiers_find_the_same_status(platform: str, qe: str, together: str) -> None:
    bench = BENCH.with_condition(tcb_status=platform, qe_status=qe, advisory_ids=("INTEL-SA-00615", "INTEL-SA-00334"))
    verified = bench.verify()
    assert verified.tcb_status == together
    assert verified.advisory_ids == ("INTEL-SA-00334", "INTEL-SA-00615")


def test_evidence_collected_from_a_device_verifies() -> None:
    class Device:
        def launch(self, config_id: bytes) -> None:
            raise AssertionError(config_id)

        def quote(self, report_data: bytes) -> Quote:
            return Quote(kind="sgx", data=BENCH.quote(report_data=report_data))

    evidence = collect_evidence(Device(), runtime_data=b"runtime data of this run")
    assert BENCH.verify(evidence.quote, runtime_data=evidence.runtime_data).runtime_data == b"runtime data of this run"
    with pytest.raises(LimitError):
        collect_evidence(Device(), runtime_data=bytes(LIMITS.runtime_data_bytes + 1))


def test_only_the_verifier_makes_verified_evidence() -> None:
    verified = BENCH.verify()
    fields = {name: getattr(verified, name) for name in VerifiedDcap.__dataclass_fields__ if name != "made_by"}
    with pytest.raises(VerificationError, match="only the verifier"):
        VerifiedDcap(**fields, made_by=None)
    with pytest.raises((TypeError, ValueError)):
        replace(verified, hardware="real")


# --- real evidence ---------------------------------------------------------------------------------------------------


class Real:
    """A quote that Intel's hardware signed, with its endorsements, at a time when they held."""

    def __init__(self, shared: Path) -> None:
        folder = shared / "vectors" / "sgx"
        self.quote = (folder / "sgx_quote").read_bytes()
        self.endorsements = parse_endorsements((folder / "sgx_quote_collateral.json").read_bytes())
        self.root = TrustedRoot(certificate_der=pck_chain(parse_sgx_quote(self.quote))[-1], simulated=False)
        self.roots = TrustedRoots(roots=(self.root,))
        self.now = datetime(2025, 6, 20, tzinfo=UTC)


@pytest.fixture(scope="module")
def real(shared: Path) -> Real:
    return Real(shared)


def test_verifies_a_real_quote(real: Real) -> None:
    verified = verify_sgx_quote(real.quote, trusted_roots=real.roots, endorsements=real.endorsements, now=real.now)
    assert verified.platform.root.hardware == "real"
    assert verified.tcb.status == "ConfigurationAndSWHardeningNeeded"
    assert verified.tcb.advisory_ids == ("INTEL-SA-00289", "INTEL-SA-00615")
    assert verified.platform.pck.fmspc == "00a067110000"
    assert verified.quote.report.mrenclave.hex() == "33d8736db756ed4997e04ba358d27833188f1932ff7b1d156904d3f560452fbb"


@pytest.mark.parametrize("days", [-10, 40])
def test_refuses_a_real_quote_when_its_endorsements_do_not_hold(real: Real, days: int) -> None:
    with pytest.raises(VerificationError, match=r"not valid|not hold"):
        verify_sgx_quote(
            real.quote,
            trusted_roots=real.roots,
            endorsements=real.endorsements,
            now=real.now + timedelta(days=days),
        )


def test_refuses_the_occlum_quote_because_it_is_a_debug_one(shared: Path, real: Real) -> None:
    quote = (shared / "vectors" / "sgx" / "occlum_quote.dat").read_bytes()
    with pytest.raises(VerificationError, match="debug"):
        verify_sgx_quote(quote, trusted_roots=real.roots, endorsements=real.endorsements, now=real.now)


# --- the two verifiers against each other ----------------------------------------------------------------------------


def test_a_disagreement_is_an_error_of_its_own_that_names_the_differences(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(DisagreementError, match="disagree") as caught:
        require_agreement(
            {"tcb status": "Revoked"},
            quote=QUOTE,
            endorsements=BENCH.endorsements,
            anchor_der=BENCH.trusted_roots.roots[0].anchor_der,
            now=NOW,
        )
    found = {difference.name: difference for difference in caught.value.mismatches}
    assert (found["tcb status"].expected, found["tcb status"].actual) == ("Revoked", "UpToDate")
    assert found["mrenclave"].expected == "nothing"
    assert caught.value.code == "verifiers-disagree"
    assert "mrenclave: expected nothing" in the_alert(caplog)


def the_alert(caplog: pytest.LogCaptureFixture) -> str:
    """Return the one alert, which names the quote."""
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.getMessage().startswith("verifiers-disagree: ")
    assert record.getMessage().endswith(f"quote {hashlib.sha256(QUOTE).hexdigest()}")
    return record.getMessage()


def test_what_dcap_qvl_alone_refuses_is_refused_with_an_alert(caplog: pytest.LogCaptureFixture) -> None:
    endorsements = BENCH.endorsements.model_copy(
        update={"tcb_info": json.dumps({**json.loads(BENCH.endorsements.tcb_info), "tcbType": 1})}
    )
    with pytest.raises(DisagreementError, match="dcap-qvl refuses"):
        require_agreement(
            {},
            quote=QUOTE,
            endorsements=endorsements,
            anchor_der=BENCH.trusted_roots.roots[0].anchor_der,
            now=NOW,
        )
    assert "dcap-qvl refuses this evidence" in the_alert(caplog)


def test_what_ours_refuses_is_no_disagreement(caplog: pytest.LogCaptureFixture) -> None:
    """Evidence of which only dcap-qvl thinks well can be made by anybody: it must not fill the log with alerts."""
    edited = bytearray(QUOTE)
    edited[QUOTE.rfind(b"-----BEGIN CERTIFICATE-----") + 100] ^= 1
    with pytest.raises(StrongroomError) as refused:
        BENCH.verify(bytes(edited))
    assert not isinstance(refused.value, DisagreementError)
    assert not caplog.records
