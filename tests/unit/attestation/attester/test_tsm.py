import errno
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.devices import (
    BENCH,
    TsmTree,
    certificate_table,
    chip_certificates,
    make_tree,
    pem_chain,
    snp_report,
    snp_tree,
    table_entry,
    tdx_maker,
)
from tests.support.platform import CONFIG_ID, NOW, RUNTIME_DATA

from strongroom.attestation.attester import Machine, QuoteDevice, collect_evidence, open_device
from strongroom.attestation.attester.tsm import FOLDER, ask_tsm
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    LimitError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.wire.descriptor import DeviceSetting


def tsm(root: Path, tree: TsmTree) -> QuoteDevice:
    make_tree(root, f"{FOLDER}/")
    return open_device(DeviceSetting(kind="tsm"), machine=Machine(root=root, files=tree))


# --- both kinds ------------------------------------------------------------------------------------------------------


def test_a_trust_domain_is_quoted_and_verifies(tmp_path: Path) -> None:
    device = tsm(tmp_path, TsmTree())
    device.launch(CONFIG_ID)
    evidence = collect_evidence(device, runtime_data=RUNTIME_DATA)
    assert (evidence.kind, evidence.certificate_chain) == ("tdx", None)
    assert BENCH.verify_td(evidence.quote).quote.report.mrconfigid == CONFIG_ID[:48]


def test_a_guest_is_reported_on_and_verifies_with_what_its_host_hands_out(tmp_path: Path) -> None:
    device = tsm(tmp_path, snp_tree())
    device.launch(CONFIG_ID)
    evidence = collect_evidence(device, runtime_data=RUNTIME_DATA)
    assert evidence.kind == "snp"
    assert evidence.certificate_chain == pem_chain(*chip_certificates().values())
    crl = amd_bench().endorsements().crl
    verified = amd_bench().verify(
        evidence.quote, endorsements=SnpEndorsements(certificate_chain=evidence.certificate_chain, crl=crl), now=NOW
    )
    assert (verified.report.host_data, verified.report.vmpl) == (CONFIG_ID[:32], 0)


def test_zeros_behind_a_quote_are_left_out(tmp_path: Path) -> None:
    tree = TsmTree(report=lambda request: tdx_maker()(request.inblob) + bytes(3000))
    evidence = collect_evidence(tsm(tmp_path, tree), runtime_data=RUNTIME_DATA)
    assert BENCH.verify_td(evidence.quote).quote.to_bytes() == evidence.quote


TREES = {"tdx": TsmTree, "snp": snp_tree}


@pytest.mark.parametrize("kind", TREES)
def test_every_request_has_a_folder_of_its_own_that_is_removed(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind]()
    device = tsm(tmp_path, tree)
    for _ in range(3):
        device.quote(bytes(64))
    assert len(set(tree.made)) == 3
    assert tree.requests == {}


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("name", ["provider", "generation", "inblob", "outblob"])
def test_the_folder_is_removed_when_something_fails(tmp_path: Path, kind: str, name: str) -> None:
    tree = TREES[kind](errors={name: errno.EIO})
    with pytest.raises(UnavailableError, match="Input/output error"):
        tsm(tmp_path, tree).quote(bytes(64))
    assert (len(tree.made), tree.requests) == (1, {})


def test_a_folder_that_cannot_be_removed_does_not_hide_what_failed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        tsm(tmp_path, TsmTree(errors={"rmdir": errno.EBUSY})).quote(bytes(64))
    assert "could not be removed" in caplog.text
    with pytest.raises(LimitError):
        tsm(tmp_path, TsmTree(errors={"rmdir": errno.EBUSY, "outblob": errno.EFBIG})).quote(bytes(64))


@pytest.mark.parametrize(
    ("name", "number", "kind", "hint"),
    [
        ("mkdir", errno.ENOENT, ConfigurationError, "Linux 6.7"),
        ("mkdir", errno.ENXIO, ConfigurationError, "Linux 6.7"),
        ("mkdir", errno.EPERM, ConfigurationError, "root"),
        ("mkdir", errno.EACCES, ConfigurationError, "root"),
        ("outblob", errno.ENOTTY, ConfigurationError, "Linux 6.7"),
        ("outblob", errno.EFBIG, LimitError, "kernel"),
        ("outblob", errno.EINVAL, ConfigurationError, "try again"),
        ("outblob", errno.EBUSY, UnavailableError, "again"),
        ("outblob", errno.EWOULDBLOCK, ConflictError, "try again"),
        ("outblob", errno.ETIMEDOUT, UnavailableError, "QGS"),
        ("outblob", errno.ENOMEM, UnavailableError, "kernel log"),
    ],
)
def test_every_refusal_of_the_kernel_says_what_to_do(
    tmp_path: Path, name: str, number: int, kind: type[StrongroomError], hint: str
) -> None:
    with pytest.raises(kind) as refusal:
        tsm(tmp_path, TsmTree(errors={name: number})).quote(bytes(64))
    assert hint in refusal.value.action


@pytest.mark.parametrize("kind", TREES)
def test_report_data_that_the_kernel_dropped_are_noticed(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind](drops_inblob=True)
    tree.report = lambda _: tdx_maker()(bytes(64))
    with pytest.raises(ConflictError, match="not only changed by this process") as refusal:
        tsm(tmp_path, tree).quote(bytes(64))
    assert refusal.value.mismatches[0].name == "generation"


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("name", ["outblob", "provider"])
def test_a_write_of_somebody_else_is_noticed(tmp_path: Path, kind: str, name: str) -> None:
    tree = TREES[kind](others_write=name)
    if name == "provider":  # before the first generation is read: nothing of it can be in the report
        tsm(tmp_path, tree).quote(bytes(64))
        return
    with pytest.raises(ConflictError, match="not only changed by this process"):
        tsm(tmp_path, tree).quote(bytes(64))


def test_a_quote_of_other_report_data_is_refused_even_if_the_generation_fits(tmp_path: Path) -> None:
    tree = TsmTree(report=lambda _: tdx_maker()(bytes(64)))
    with pytest.raises(VerificationError, match="other report data"):
        tsm(tmp_path, tree).quote(b"\x01" * 64)


@pytest.mark.parametrize("generation", [b"", b"-1", b"1.0", b"0x1", b"\xff", b"1" * 30, b"\xd9\xa1"])
def test_a_generation_that_is_no_number_is_a_format_error(tmp_path: Path, generation: bytes) -> None:
    class Odd(TsmTree):
        def read(self, path: Path, *, limit_bytes: int) -> bytes:
            data = super().read(path, limit_bytes=limit_bytes)
            return generation if path.name == "generation" else data

    with pytest.raises(FormatError, match="generation"):
        tsm(tmp_path, Odd()).quote(bytes(64))


@pytest.mark.parametrize("provider", [b"arm_cca_guest\n", b"", b"tdx_guest2", b"TDX_GUEST", b"\xff" * 4000])
def test_another_kind_of_tee_is_refused(tmp_path: Path, provider: bytes) -> None:
    with pytest.raises(RefusedError, match="not supported"):
        tsm(tmp_path, TsmTree(provider=provider)).quote(bytes(64))


@pytest.mark.parametrize("kind", TREES)
def test_a_huge_report_is_refused(tmp_path: Path, kind: str) -> None:
    tree = TREES[kind](report=lambda _: bytes(LIMITS.evidence_bytes + 1))
    with pytest.raises(LimitError, match="outblob"):
        tsm(tmp_path, tree).quote(bytes(64))
    assert tree.requests == {}


@pytest.mark.parametrize("kind", TREES)
@pytest.mark.parametrize("size", [0, 48, 1183])
def test_a_short_report_is_a_format_error(tmp_path: Path, kind: str, size: int) -> None:
    tree = TREES[kind]()
    whole = tree.report
    with pytest.raises(FormatError):
        tsm(tmp_path, replace(tree, report=lambda request: whole(request)[:size])).quote(bytes(64))


def test_a_tee_launched_for_another_application_is_refused(tmp_path: Path) -> None:
    other = TsmTree(report=lambda request: tdx_maker(mrconfigid=bytes(48))(request.inblob))
    with pytest.raises(RefusedError, match="another application"):
        tsm(tmp_path, other).launch(CONFIG_ID)
    bench = amd_bench()
    guest = snp_tree(report=lambda request: bench.amd.sign(snp_report(bench, request.inblob, host_data=bytes(32))))
    with pytest.raises(RefusedError, match="another application"):
        tsm(tmp_path, guest).launch(CONFIG_ID)


# --- SEV-SNP ---------------------------------------------------------------------------------------------------------


def test_a_kernel_at_a_lower_privilege_level_is_refused(tmp_path: Path) -> None:
    tree = snp_tree(privlevel_floor=2)
    with pytest.raises(RefusedError) as refusal:
        tsm(tmp_path, tree).quote(bytes(64))
    assert str(refusal.value.mismatches[0]) == "VMPL: expected 0, found 2 or more"
    assert tree.requests == {}


def test_the_privilege_level_is_asked_for() -> None:
    tree = snp_tree(privlevel_floor=1)
    quote = ask_tsm(bytes(64), files=tree, root=Path("/"), privilege_level=3)
    assert parse_snp_report(quote.data).vmpl == 3


def test_a_report_of_another_privilege_level_is_refused(tmp_path: Path) -> None:
    bench = amd_bench()
    tree = snp_tree(report=lambda request: bench.amd.sign(snp_report(bench, request.inblob, vmpl=1)))
    with pytest.raises(VerificationError, match="privilege level"):
        tsm(tmp_path, tree).quote(bytes(64))


@pytest.mark.parametrize("table", [b"", certificate_table({}), certificate_table({"ARK": chip_certificates()["ARK"]})])
def test_a_host_may_have_no_certificates(tmp_path: Path, table: bytes) -> None:
    assert tsm(tmp_path, snp_tree(auxblob=table)).quote(bytes(64)).certificate_chain is None


@pytest.mark.parametrize(
    "table",
    [
        table_entry("VCEK", 48, 5000) + bytes(4072),
        table_entry("VCEK", 72, 10) + table_entry("ASK", 81, 10) + bytes(4048),
        b"\xff" * 4096,
    ],
    ids=["oversized", "overlapping", "noise"],
)
def test_a_hostile_certificate_table_is_a_format_error(tmp_path: Path, table: bytes) -> None:
    tree = snp_tree(auxblob=table)
    with pytest.raises(FormatError):
        tsm(tmp_path, tree).quote(bytes(64))
    assert tree.requests == {}


def test_a_huge_certificate_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="auxblob"):
        tsm(tmp_path, snp_tree(auxblob=bytes(LIMITS.evidence_bytes + 1))).quote(bytes(64))


def test_a_trust_domains_kernel_is_not_asked_for_certificates(tmp_path: Path) -> None:
    fields: dict[str, Any] = {"errors": {"auxblob": errno.EIO, "privlevel": errno.EIO, "privlevel_floor": errno.EIO}}
    assert tsm(tmp_path, TsmTree(**fields)).quote(bytes(64)).kind == "tdx"
