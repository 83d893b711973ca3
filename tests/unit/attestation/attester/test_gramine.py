import errno
from pathlib import Path

import pytest
from tests.support.devices import BENCH, GramineTree, make_tree, sgx_maker
from tests.support.platform import CONFIG_ID, RUNTIME_DATA

from strongroom.attestation.attester import Machine, QuoteDevice, collect_evidence, open_device
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    RefusedError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.wire.descriptor import DeviceSetting


def gramine(root: Path, tree: GramineTree) -> QuoteDevice:
    make_tree(root, "dev/attestation/attestation_type")
    return open_device(DeviceSetting(kind="gramine"), machine=Machine(root=root, files=tree))


def test_an_enclave_under_gramine_is_quoted_and_verifies(tmp_path: Path) -> None:
    device = gramine(tmp_path, GramineTree())
    device.launch(CONFIG_ID)
    evidence = collect_evidence(device, runtime_data=RUNTIME_DATA)
    assert BENCH.verify(evidence.quote).quote.report.config_id == CONFIG_ID
    assert evidence.kind == "sgx"


def test_an_enclave_made_for_another_application_is_refused(tmp_path: Path) -> None:
    device = gramine(tmp_path, GramineTree(make=sgx_maker(config_id=bytes(64))))
    with pytest.raises(RefusedError, match="another application"):
        device.launch(CONFIG_ID)


@pytest.mark.parametrize("kind", [b"none", b"epid", b"", b"dcap2", b"\xff"])
def test_another_attestation_type_is_refused(tmp_path: Path, kind: bytes) -> None:
    with pytest.raises(ConfigurationError, match="attestation type") as refusal:
        gramine(tmp_path, GramineTree(attestation_type=kind)).quote(bytes(64))
    assert "sgx.remote_attestation" in refusal.value.action


def test_the_attestation_type_may_end_its_line(tmp_path: Path) -> None:
    gramine(tmp_path, GramineTree(attestation_type=b"dcap\n")).quote(bytes(64))


def test_report_data_that_were_not_taken_are_noticed(tmp_path: Path) -> None:
    device = gramine(tmp_path, GramineTree(keeps_first=True))
    device.quote(bytes(64))
    with pytest.raises(VerificationError, match="other report data"):
        device.quote(b"\x01" * 64)


@pytest.mark.parametrize("size", [0, 47, 4000])
def test_a_short_quote_is_a_format_error(tmp_path: Path, size: int) -> None:
    with pytest.raises(FormatError):
        gramine(tmp_path, GramineTree(edit=lambda quote: quote[:size])).quote(bytes(64))


def test_a_huge_quote_is_refused(tmp_path: Path) -> None:
    huge = GramineTree(edit=lambda quote: quote + bytes(LIMITS.evidence_bytes))
    with pytest.raises(LimitError):
        gramine(tmp_path, huge).quote(bytes(64))


@pytest.mark.parametrize("name", ["user_report_data", "quote"])
def test_a_quoting_service_that_does_not_answer_is_unavailable(tmp_path: Path, name: str) -> None:
    with pytest.raises(UnavailableError, match="Permission denied") as refusal:
        gramine(tmp_path, GramineTree(errors={name: errno.EACCES})).quote(bytes(64))
    assert "quoting service" in refusal.value.action


def test_an_interface_that_went_away_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no attestation interface"):
        gramine(tmp_path, GramineTree(errors={"attestation_type": errno.ENOENT})).quote(bytes(64))
