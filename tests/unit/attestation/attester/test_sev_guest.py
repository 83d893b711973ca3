import ctypes
import errno
from pathlib import Path

import pytest
from tests.support.amd import amd_bench
from tests.support.devices import SevGuestDriver, chip_certificates, make_tree, pem_chain, snp_report, table_entry
from tests.support.platform import CONFIG_ID, RUNTIME_DATA

from strongroom.attestation.attester import Machine, QuoteDevice, collect_evidence, open_device
from strongroom.attestation.attester.controls import ATTEMPTS, Controls
from strongroom.attestation.attester.sev_guest import (
    SNP_GET_EXT_REPORT,
    SNP_GET_REPORT,
    ExtendedReportRequest,
    GuestRequest,
    ReportRequest,
    ask_sev_guest,
)
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    LimitError,
    RefusedError,
    UnavailableError,
    VerificationError,
)
from strongroom.wire.descriptor import DeviceSetting


def machine(root: Path, driver: SevGuestDriver) -> Machine:
    make_tree(root, "dev/sev-guest")
    return Machine(root=root, controls=Controls(ioctl=driver.ioctl, sleep=driver.slept.append))


def sev_guest(root: Path, driver: SevGuestDriver) -> QuoteDevice:
    return open_device(DeviceSetting(kind="sev-guest"), machine=machine(root, driver))


def test_the_structures_have_the_kernels_sizes() -> None:
    assert [ctypes.sizeof(each) for each in (ReportRequest, ExtendedReportRequest, GuestRequest)] == [96, 112, 32]
    assert (ReportRequest.vmpl.offset, ExtendedReportRequest.certs_address.offset) == (64, 96)
    assert [GuestRequest.req_data.offset, GuestRequest.exitinfo2.offset] == [8, 24]


def test_a_guest_is_reported_on_and_verifies(tmp_path: Path) -> None:
    device = sev_guest(tmp_path, SevGuestDriver())
    device.launch(CONFIG_ID)
    evidence = collect_evidence(device, runtime_data=RUNTIME_DATA)
    assert evidence.certificate_chain == pem_chain(*chip_certificates().values())
    assert amd_bench().verify(evidence.quote).report.host_data == CONFIG_ID[:32]


@pytest.mark.parametrize("number", [errno.ENOTTY, errno.EOPNOTSUPP])
def test_a_kernel_without_extended_reports_gives_plain_ones(tmp_path: Path, number: int) -> None:
    driver = SevGuestDriver(errors={SNP_GET_EXT_REPORT: number})
    quote = sev_guest(tmp_path, driver).quote(bytes(64))
    assert (quote.kind, quote.certificate_chain) == ("snp", None)
    assert driver.calls == [SNP_GET_EXT_REPORT, SNP_GET_REPORT]


def test_the_privilege_level_is_asked_for(tmp_path: Path) -> None:
    driver = SevGuestDriver()
    system = machine(tmp_path, driver)
    quote = ask_sev_guest(bytes(64), controls=system.controls, root=system.root, privilege_level=2)
    assert parse_snp_report(quote.data).vmpl == 2


def test_a_report_of_another_privilege_level_is_refused(tmp_path: Path) -> None:
    bench = amd_bench()
    driver = SevGuestDriver(report=lambda data, _: bench.amd.sign(snp_report(bench, data, vmpl=3)))
    with pytest.raises(VerificationError, match="privilege level"):
        sev_guest(tmp_path, driver).quote(bytes(64))


def test_a_guest_launched_for_another_application_is_refused(tmp_path: Path) -> None:
    bench = amd_bench()
    driver = SevGuestDriver(report=lambda data, _: bench.amd.sign(snp_report(bench, data, host_data=bytes(32))))
    with pytest.raises(RefusedError, match="another application"):
        sev_guest(tmp_path, driver).launch(CONFIG_ID)


def test_a_busy_host_is_asked_again(tmp_path: Path) -> None:
    driver = SevGuestDriver(busy=3)
    sev_guest(tmp_path, driver).quote(bytes(64))
    assert len(driver.slept) == 3


@pytest.mark.parametrize("number", [errno.EBUSY, errno.EAGAIN])
def test_a_device_that_stays_busy_is_given_up(tmp_path: Path, number: int) -> None:
    for driver in (SevGuestDriver(busy=1_000_000), SevGuestDriver(errors={SNP_GET_EXT_REPORT: number})):
        with pytest.raises(UnavailableError, match="busy"):
            sev_guest(tmp_path, driver).quote(bytes(64))
        assert len(driver.calls) == ATTEMPTS


def test_a_host_with_too_many_certificates_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="more certificates"):
        sev_guest(tmp_path, SevGuestDriver(vmm_error=1)).quote(bytes(64))


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOTTY, errno.EINVAL])
def test_firmware_that_refuses_is_unavailable(tmp_path: Path, number: int) -> None:
    driver = SevGuestDriver(errors={SNP_GET_EXT_REPORT: number, SNP_GET_REPORT: number})
    with pytest.raises(UnavailableError, match="gave no report"):
        sev_guest(tmp_path, driver).quote(bytes(64))


def test_a_status_of_the_firmware_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="status 22"):
        sev_guest(tmp_path, SevGuestDriver(status=0x16)).quote(bytes(64))


@pytest.mark.parametrize("size", [0, 1183, 1185, 0xFFFFFFFF])
def test_a_report_of_another_size_is_a_format_error(tmp_path: Path, size: int) -> None:
    with pytest.raises(FormatError, match="bytes, not 1184"):
        sev_guest(tmp_path, SevGuestDriver(says_size=size)).quote(bytes(64))


def test_a_hostile_certificate_table_is_a_format_error(tmp_path: Path) -> None:
    table = table_entry("VCEK", 48, 0x4000) + bytes(100)
    with pytest.raises(FormatError, match="certificate"):
        sev_guest(tmp_path, SevGuestDriver(table=table)).quote(bytes(64))


def test_a_device_that_may_not_be_opened_is_a_configuration_error(tmp_path: Path) -> None:
    device = sev_guest(tmp_path, SevGuestDriver())
    (tmp_path / "dev" / "sev-guest").unlink()
    with pytest.raises(ConfigurationError, match="sev-guest cannot be opened"):
        device.quote(bytes(64))
