import errno
from pathlib import Path

import pytest
from tests.support.devices import BENCH, OcclumDriver, make_tree, sgx_maker
from tests.support.platform import CONFIG_ID, RUNTIME_DATA

from strongroom.attestation.attester import Machine, QuoteDevice, collect_evidence, open_device
from strongroom.attestation.attester.controls import ATTEMPTS, Controls
from strongroom.attestation.attester.occlum import GEN_DCAP_QUOTE, GET_DCAP_QUOTE_SIZE
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


def occlum(root: Path, driver: OcclumDriver) -> QuoteDevice:
    make_tree(root, "dev/sgx")
    controls = Controls(ioctl=driver.ioctl, sleep=driver.slept.append)
    return open_device(DeviceSetting(kind="occlum"), machine=Machine(root=root, controls=controls))


def test_an_enclave_under_occlum_is_quoted_and_verifies(tmp_path: Path) -> None:
    driver = OcclumDriver()
    device = occlum(tmp_path, driver)
    device.launch(CONFIG_ID)
    evidence = collect_evidence(device, runtime_data=RUNTIME_DATA)
    assert BENCH.verify(evidence.quote).quote.report.config_id == CONFIG_ID
    assert driver.calls == [GET_DCAP_QUOTE_SIZE, GEN_DCAP_QUOTE] * 2


def test_an_enclave_made_for_another_application_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="another application"):
        occlum(tmp_path, OcclumDriver(make=sgx_maker(config_id=bytes(64)))).launch(CONFIG_ID)


def test_a_busy_device_is_asked_again(tmp_path: Path) -> None:
    driver = OcclumDriver(busy=ATTEMPTS - 1)
    occlum(tmp_path, driver).quote(bytes(64))
    assert len(driver.slept) == ATTEMPTS - 1


def test_a_device_that_stays_busy_is_given_up(tmp_path: Path) -> None:
    driver = OcclumDriver(busy=1_000_000)
    with pytest.raises(UnavailableError, match="busy"):
        occlum(tmp_path, driver).quote(bytes(64))
    assert driver.calls.count(GEN_DCAP_QUOTE) == ATTEMPTS


@pytest.mark.parametrize("request_", [GET_DCAP_QUOTE_SIZE, GEN_DCAP_QUOTE])
@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EINVAL, errno.ENOSYS])
def test_a_device_that_refuses_is_unavailable_and_not_asked_again(tmp_path: Path, request_: int, number: int) -> None:
    driver = OcclumDriver(errors={request_: number})
    with pytest.raises(UnavailableError, match="Occlum got no quote"):
        occlum(tmp_path, driver).quote(bytes(64))
    assert (driver.calls.count(request_), driver.slept) == (1, [])


def test_a_huge_quote_is_refused_before_there_is_memory_for_it(tmp_path: Path) -> None:
    driver = OcclumDriver(announced=LIMITS.evidence_bytes + 1)
    with pytest.raises(LimitError):
        occlum(tmp_path, driver).quote(bytes(64))
    assert GEN_DCAP_QUOTE not in driver.calls


@pytest.mark.parametrize("announced", [0, 100])
def test_a_quote_that_is_announced_too_small_is_a_format_error(tmp_path: Path, announced: int) -> None:
    with pytest.raises(FormatError):
        occlum(tmp_path, OcclumDriver(announced=announced)).quote(bytes(64))


@pytest.mark.parametrize("size", [0, 47, 0xFFFFFFFF])
def test_a_quote_of_another_size_than_announced_is_a_format_error(tmp_path: Path, size: int) -> None:
    with pytest.raises(FormatError):
        occlum(tmp_path, OcclumDriver(says_size=size)).quote(bytes(64))


def test_a_quote_of_other_report_data_is_refused(tmp_path: Path) -> None:
    driver = OcclumDriver(make=lambda _: sgx_maker()(bytes(64)))
    with pytest.raises(VerificationError):
        occlum(tmp_path, driver).quote(b"\x01" * 64)


def test_a_device_that_may_not_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    device = occlum(tmp_path, OcclumDriver())
    (tmp_path / "dev" / "sgx").unlink()
    with pytest.raises(ConfigurationError, match="sgx cannot be opened"):
        device.quote(bytes(64))
