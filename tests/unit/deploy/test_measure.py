"""The launch measurement of an SEV-SNP guest, over a firmware that the test makes."""

import json
from pathlib import Path
from typing import Any

import pytest
from sevsnpmeasure.sev_mode import SevMode
from sevsnpmeasure.vcpu_types import CPU_SIGS
from sevsnpmeasure.vmm_types import VMMType
from sevsnpmeasure.vmsa import VMSA
from tests.support.firmware import RESET_ADDRESS, SECTIONS, LaunchDigest, hash_table, make_firmware
from tests.support.scripts import load_script

from strongroom.attestation.claims import SAFE_CLAIMS
from strongroom.policy.tee_claims import TEE_CLAIMS

measure = load_script("deploy/shapes/measure.py")
KERNEL, INITRD, APPEND = b"a kernel", b"an initial file system", "console=hvc0 root=/dev/dm-0 ro"


@pytest.fixture
def firmware(tmp_path: Path) -> Path:
    return make_firmware(tmp_path / "OVMF.fd")


@pytest.fixture
def boot(tmp_path: Path) -> list[str]:
    kernel, initrd = tmp_path / "vmlinuz", tmp_path / "initrd"
    kernel.write_bytes(KERNEL)
    initrd.write_bytes(INITRD)
    return ["--kernel", str(kernel), "--initrd", str(initrd), "--append", APPEND]


def measured(firmware: Path, *arguments: str) -> dict[int, str]:
    options = measure.parser().parse_args(["--firmware", str(firmware), *arguments])
    found: dict[str, Any] = measure.measurements(options)
    return {each["vcpus"]: each["measurement"] for each in found["measurements"]}


def expected(firmware: Path, *, vcpus: int, kernel_hashes: bytes | None, features: int = 1) -> str:
    vmsa = VMSA(SevMode.SEV_SNP, RESET_ADDRESS, CPU_SIGS["EPYC-v4"], features, VMMType.QEMU)
    states = [bytes(state) for state in vmsa.pages(vcpus)]
    return LaunchDigest().measure(firmware.read_bytes(), kernel_hashes=kernel_hashes, vmsas=states)


def test_is_the_digest_of_firmware_and_processors(firmware: Path) -> None:
    assert measured(firmware) == {1: expected(firmware, vcpus=1, kernel_hashes=None)}


def test_covers_kernel_initial_file_system_and_command_line(firmware: Path, boot: list[str]) -> None:
    hashes = hash_table(KERNEL, INITRD, APPEND)

    assert measured(firmware, *boot, "--vcpus", "4") == {4: expected(firmware, vcpus=4, kernel_hashes=hashes)}


def test_covers_the_features_of_the_guest(firmware: Path) -> None:
    assert measured(firmware, "--guest-features", "0x21") == {
        1: expected(firmware, vcpus=1, kernel_hashes=None, features=0x21)
    }


def test_each_number_of_processors_is_a_measurement_of_its_own(firmware: Path, boot: list[str]) -> None:
    found = measured(firmware, *boot, "--vcpus", "2", "--vcpus", "1", "--vcpus", "8", "--vcpus", "2")

    assert list(found) == [1, 2, 8]
    assert len(set(found.values())) == 3


def test_everything_that_is_started_changes_it(tmp_path: Path, firmware: Path, boot: list[str]) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    kernel, initrd, append = boot[:2], boot[2:4], boot[4:]
    variants = [
        (firmware, [*kernel, *initrd, *append]),
        (firmware, ["--kernel", str(other), *initrd, *append]),
        (firmware, [*kernel, "--initrd", str(other), *append]),
        (firmware, [*kernel, *append]),
        (firmware, [*kernel, *initrd, "--append", f"{APPEND} "]),
        (firmware, [*kernel, *initrd]),
        (firmware, []),
        (firmware, [*kernel, *initrd, *append, "--vcpu-type", "EPYC-Milan"]),
        (make_firmware(tmp_path / "newer.fd", code=b"other code"), [*kernel, *initrd, *append]),
    ]

    assert len({measured(path, *arguments)[1] for path, arguments in variants}) == len(variants)


def test_prints_the_claim_that_policies_compare(firmware: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure.main(["--firmware", str(firmware), "--vcpus", "2"])
    printed = json.loads(capsys.readouterr().out)

    assert printed == {
        "tee": "snp",
        "claim": "x-ms-sevsnpvm-launchmeasurement",
        "measurements": [{"vcpus": 2, "measurement": expected(firmware, vcpus=2, kernel_hashes=None)}],
    }
    assert TEE_CLAIMS["snp"].attestation_type in SAFE_CLAIMS
    assert len(printed["measurements"][0]["measurement"]) == 96


def refusal(*arguments: str) -> str:
    with pytest.raises(SystemExit) as refused:
        measure.measurements(measure.parser().parse_args(list(arguments)))
    return str(refused.value)


def test_refuses_firmware_that_measures_no_kernel(tmp_path: Path, boot: list[str]) -> None:
    plain = make_firmware(tmp_path / "plain.fd", sections=[kind for kind in SECTIONS if kind != 0x10])

    assert "plain.fd cannot be measured" in refusal("--firmware", str(plain), *boot)


def test_refuses_what_is_no_firmware(tmp_path: Path) -> None:
    other = tmp_path / "other.fd"
    other.write_bytes(bytes(4096))

    assert "other.fd cannot be measured" in refusal("--firmware", str(other))


def test_refuses_a_file_that_is_not_there(tmp_path: Path, firmware: Path) -> None:
    assert "cannot be read" in refusal("--firmware", str(tmp_path / "none"))
    assert "cannot be read" in refusal("--firmware", str(firmware), "--kernel", str(tmp_path / "none"))


def test_refuses_a_command_line_that_nothing_would_measure(firmware: Path) -> None:
    assert "give --kernel" in refusal("--firmware", str(firmware), "--append", "console=hvc0")


def test_refuses_a_processor_that_qemu_does_not_know(firmware: Path) -> None:
    assert "known are" in refusal("--firmware", str(firmware), "--vcpu-type", "pentium")


@pytest.mark.parametrize("count", ["0", "-1", "513", "two", ""])
def test_refuses_numbers_of_processors_that_no_guest_has(firmware: Path, count: str) -> None:
    with pytest.raises(SystemExit):
        measure.parser().parse_args(["--firmware", str(firmware), f"--vcpus={count}"])
