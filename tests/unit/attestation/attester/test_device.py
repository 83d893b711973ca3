"""What every device of real hardware has in common, whichever interface it is asked through."""

from dataclasses import replace

import pytest
from tests.support.amd import amd_bench
from tests.support.devices import BENCH, sgx_maker, snp_report, tdx_maker
from tests.support.platform import CONFIG_ID

from strongroom.attestation.attester.device import HardwareDevice, Quote, collect_evidence
from strongroom.attestation.evidence.fields import launch_value, read_fields
from strongroom.attestation.evidence.sgx_report import FLAG_KSS
from strongroom.base.errors import FormatError, RefusedError, VerificationError
from strongroom.wire.model import TeeKind

OTHER = bytes(32).ljust(64, b"\0")


def snp_quote(report_data: bytes, *, vmpl: int = 0) -> bytes:
    return amd_bench().amd.sign(snp_report(amd_bench(), report_data, vmpl=vmpl))


MAKERS = {"sgx": sgx_maker(), "tdx": tdx_maker(), "snp": snp_quote}


def device(kind: TeeKind) -> HardwareDevice:
    return HardwareDevice(lambda report_data: Quote(kind=kind, data=MAKERS[kind](report_data)))


@pytest.mark.parametrize("kind", ["sgx", "tdx", "snp"])
def test_a_tee_that_was_launched_for_the_application_is_quoted(kind: TeeKind) -> None:
    tee = device(kind)
    tee.launch(CONFIG_ID)
    fields = read_fields(kind, tee.quote(b"\x07" * 64).data)
    assert (fields.report_data, fields.launched_with) == (b"\x07" * 64, launch_value(kind, CONFIG_ID))


@pytest.mark.parametrize(("kind", "name"), [("sgx", "CONFIG_ID"), ("tdx", "MRCONFIGID"), ("snp", "HOST_DATA")])
def test_a_tee_that_was_launched_for_another_application_is_refused(kind: TeeKind, name: str) -> None:
    with pytest.raises(RefusedError, match="another application") as refusal:
        device(kind).launch(OTHER)
    (mismatch,) = refusal.value.mismatches
    assert (mismatch.name, mismatch.expected) == (name, launch_value(kind, OTHER).hex())


def test_an_enclave_without_key_separation_fixes_no_application() -> None:
    report = BENCH.report()
    plain = replace(report.attributes, flags=report.attributes.flags & ~FLAG_KSS)

    def ask(report_data: bytes) -> Quote:
        return Quote(kind="sgx", data=BENCH.quote(attributes=plain, config_id=bytes(64), report_data=report_data))

    with pytest.raises(RefusedError, match="fixes no CONFIG_ID") as refusal:
        HardwareDevice(ask).launch(CONFIG_ID)
    assert "KSS" in refusal.value.action


@pytest.mark.parametrize("kind", ["sgx", "tdx", "snp"])
def test_a_quote_of_other_report_data_is_refused(kind: TeeKind) -> None:
    quote = Quote(kind=kind, data=MAKERS[kind](bytes(64)))
    tee = HardwareDevice(lambda _: quote)
    with pytest.raises(VerificationError, match="other report data"):
        tee.quote(b"\x01" * 64)
    with pytest.raises(VerificationError):  # the launch is checked on fresh bytes: an old quote does not do
        tee.launch(CONFIG_ID)


def test_a_report_of_another_privilege_level_is_refused() -> None:
    tee = HardwareDevice(lambda report_data: Quote(kind="snp", data=snp_quote(report_data, vmpl=2)))
    with pytest.raises(VerificationError) as refusal:
        tee.quote(bytes(64))
    assert str(refusal.value.mismatches[0]) == "VMPL: expected 0, found 2"


@pytest.mark.parametrize("kind", ["sgx", "tdx", "snp"])
@pytest.mark.parametrize("size", [0, 1, 600])
def test_a_truncated_answer_is_a_format_error(kind: TeeKind, size: int) -> None:
    tee = HardwareDevice(lambda report_data: Quote(kind=kind, data=MAKERS[kind](report_data)[:size]))
    with pytest.raises(FormatError):
        tee.quote(bytes(64))


def test_takes_only_64_bytes() -> None:
    for call in (device("sgx").launch, device("sgx").quote):
        with pytest.raises(FormatError):
            call(bytes(63))


def test_a_field_that_does_not_hold_the_configuration_is_refused() -> None:
    long = b"\x01" * 64
    assert launch_value("sgx", long) == long
    for kind in ("tdx", "snp"):
        with pytest.raises(FormatError, match="do not hold"):
            device(kind).launch(long)


@pytest.mark.parametrize("kind", ["sgx", "tdx", "snp"])
def test_evidence_carries_its_kind_and_the_certificates(kind: TeeKind) -> None:
    tee = HardwareDevice(lambda data: Quote(kind=kind, data=MAKERS[kind](data), certificate_chain="PEM"))
    evidence = collect_evidence(tee, runtime_data=b"runtime data")
    assert (evidence.kind, evidence.runtime_data, evidence.certificate_chain) == (kind, b"runtime data", "PEM")
