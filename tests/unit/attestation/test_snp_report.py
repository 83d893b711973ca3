import contextlib
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.amd import REPORT_DATA, amd_bench

from strongroom.attestation.evidence.snp_report import (
    REPORT_BYTES,
    CpuId,
    GuestPolicy,
    PlatformInfo,
    Product,
    TcbVersion,
    parse_snp_report,
    parse_tcb_version,
    tcb_version_bytes,
)
from strongroom.base.errors import FormatError

BENCH = amd_bench()
REPORT = BENCH.amd.sign(BENCH.report())
RESERVED = [0x4C, 0x4F, 0x18B, 0x19F, 0x1EB, 0x1EF, 0x208, 0x29F]
HCL_REPORT = slice(32, 32 + REPORT_BYTES)


def report_of(version: int) -> bytes:
    bench = amd_bench(version=version)
    return bench.amd.sign(bench.report())


@given(st.binary(max_size=64) | st.binary(min_size=REPORT_BYTES, max_size=REPORT_BYTES))
def test_any_bytes_parse_or_raise_format_error(report_bytes: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_snp_report(report_bytes)


@given(st.integers(0, REPORT_BYTES - 1), st.integers(1, 255), st.sampled_from([2, 3, 5]))
def test_edited_reports_parse_to_the_same_bytes_or_raise_format_error(at: int, flip: int, version: int) -> None:
    edited = bytearray(report_of(version))
    edited[at] ^= flip
    with contextlib.suppress(FormatError):
        assert parse_snp_report(bytes(edited)).to_bytes() == bytes(edited)


@pytest.mark.parametrize("version", [2, 3, 5])
def test_reads_what_the_firmware_wrote(version: int) -> None:
    bench = amd_bench(version=version)
    report = bench.report(guest_svn=7, vmpl=2, family_id=b"f" * 16, image_id=b"i" * 16, host_data=b"h" * 32)
    read = parse_snp_report(bench.amd.sign(report))
    assert replace(read, signature=report.signature) == report
    assert (read.cpuid is None) == (version < 3)
    assert (read.launch_mit_vector is None) == (version < 5)


def test_fields_stand_where_the_firmware_writes_them() -> None:
    raw = BENCH.amd.sign(BENCH.report(host_data=b"h" * 32, vmpl=3))
    assert raw[0x30] == 3
    assert raw[0x50:0x90] == REPORT_DATA
    assert raw[0x90:0xC0] == bytes(range(48))
    assert raw[0xC0:0xE0] == b"h" * 32
    assert raw[0x1A0:0x1E0] == BENCH.amd.chip_id


@pytest.mark.parametrize("name", ["snp/snp_milan_report.bin", "snp/aci_report.bin", "azure-vtpm/az_hcl_snp.bin"])
def test_real_reports_survive(shared: Path, name: str) -> None:
    content = (shared / "vectors" / name).read_bytes()
    report_bytes = content if len(content) == REPORT_BYTES else content[HCL_REPORT]
    assert parse_snp_report(report_bytes).to_bytes() == report_bytes


def test_the_real_milan_guest_is_a_debug_guest_and_azures_are_not(shared: Path) -> None:
    folder = shared / "vectors" / "snp"
    assert parse_snp_report((folder / "snp_milan_report.bin").read_bytes()).policy.debug
    azures = parse_snp_report((folder / "aci_report.bin").read_bytes())
    assert not azures.policy.debug
    assert azures.policy == GuestPolicy(abi_minor=31, smt=True)


@pytest.mark.parametrize("offset", RESERVED)
def test_refuses_reserved_bytes_that_are_not_zero(offset: int) -> None:
    edited = bytearray(REPORT)
    edited[offset] = 1
    with pytest.raises(FormatError, match="reserved"):
        parse_snp_report(bytes(edited))


@pytest.mark.parametrize(("version", "offset"), [(2, 0x188), (2, 0x1F8), (3, 0x1F8), (3, 0x200)])
def test_refuses_fields_of_a_newer_version(version: int, offset: int) -> None:
    edited = bytearray(report_of(version))
    edited[offset] = 1
    with pytest.raises(FormatError, match="reserved"):
        parse_snp_report(bytes(edited))


@pytest.mark.parametrize(
    ("offset", "value", "says"),
    [
        (0x00, 1, "version"),
        (0x00, 4, "version"),
        (0x00, 6, "version"),
        (0x34, 2, "signature algorithm"),
        (0x48, 2 << 2, "signing key"),
        (0x49, 1, "signing key"),
        (0x0A, 0x01, "guest policy"),
        (0x0B, 0x04, "guest policy"),
        (0x40, 1 << 6, "platform info"),
        (0x41, 1, "platform info"),
        (0x2A0 + 48, 1, "P-384"),
        (0x2A0 + 72 + 71, 1, "P-384"),
        (0x4A0 - 1, 1, "P-384"),
    ],
)
def test_refuses_what_it_does_not_know(offset: int, value: int, says: str) -> None:
    edited = bytearray(REPORT)
    edited[offset] = value
    with pytest.raises(FormatError, match=says):
        parse_snp_report(bytes(edited))


@pytest.mark.parametrize("edit", [REPORT[:-1], REPORT + b"\0", b""], ids=["cut", "longer", "empty"])
def test_refuses_another_size(edit: bytes) -> None:
    with pytest.raises(FormatError, match="1184"):
        parse_snp_report(edit)


@pytest.mark.parametrize("kind", [GuestPolicy, PlatformInfo])
def test_every_bit_has_one_name(kind: type[GuestPolicy | PlatformInfo]) -> None:
    names = [each.name for each in fields(kind) if each.type in (bool, "bool")]
    seen = set()
    for name in names:
        value = kind(**{name: True}).to_int() ^ kind().to_int()
        assert value.bit_count() == 1
        assert kind.from_int(value | kind().to_int()) == kind(**{name: True})
        seen.add(value)
    assert len(seen) == len(names)


@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_tcb_versions_keep_their_bytes(product: Product) -> None:
    tcb_bytes = bytes([1, 2, 3, 4, 0, 0, 0, 8]) if product == "Turin" else bytes([1, 2, 0, 0, 0, 0, 7, 8])
    tcb = parse_tcb_version(tcb_bytes, product=product)
    assert tcb_version_bytes(tcb) == tcb_bytes
    assert (tcb.boot_loader, tcb.fmc) == ((2, 1) if product == "Turin" else (1, None))
    with pytest.raises(FormatError, match="reserved"):
        parse_tcb_version(bytes([1, 2, 3, 4, 1, 0, 7, 8]), product=product)


def test_a_tcb_version_is_newer_when_one_part_is() -> None:
    tcb = TcbVersion(boot_loader=3, tee=0, snp=8, microcode=115)
    assert tcb.is_at_most(tcb)
    for part in ("boot_loader", "tee", "snp", "microcode"):
        newer = replace(tcb, **{part: getattr(tcb, part) + 1})
        assert tcb.is_at_most(newer)
        assert not newer.is_at_most(tcb)


def test_knows_the_product_of_a_processor() -> None:
    assert CpuId(family=0x19, model=0x01, stepping=1).product == "Milan"
    assert CpuId(family=0x19, model=0x11, stepping=1).product == "Genoa"
    assert CpuId(family=0x1A, model=0x02, stepping=0).product == "Turin"
    with pytest.raises(FormatError, match="unknown processor"):
        _ = CpuId(family=0x17, model=0x31, stepping=0).product
