"""Azure confidential VMs: HCL reports, vTPM quotes, and the chain from hardware to what a guest says."""

import contextlib
import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_vtpm import HclKind, parse_hcl_report, parse_tpm_quote
from strongroom.attestation.evidence.snp_report import GuestPolicy
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.attestation.verifier import TrustedRoots, VerifiedAzureVm, verify_azure_vm
from strongroom.base.errors import FormatError, LimitError, UntrustedRootError, VerificationError
from strongroom.crypto.keys import SigningKey
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import PCRS, SimulatedAzureVm

RUNTIME_DATA = b'{"run":"1"}'
KINDS: tuple[HclKind, ...] = ("snp", "tdx")


class Vm:
    """A VM, the vendor behind it, and the verifier; every argument is one edit away from an attack."""

    def __init__(self, kind: HclKind) -> None:
        self.endorsements: SnpEndorsements | DcapEndorsements
        if kind == "snp":
            chip = amd_bench()
            self.vm, self.trusted_roots = SimulatedAzureVm.create(chip.amd), chip.trusted_roots
            self.endorsements = chip.endorsements()
        else:
            bench = Bench.new()
            self.vm, self.trusted_roots = SimulatedAzureVm.create(bench.platform), bench.trusted_roots
            self.endorsements = bench.platform.endorsements(now=NOW, tee="TDX")
        self.evidence = self.vm.evidence(RUNTIME_DATA)

    def verify(self, evidence: UnverifiedAzureVm | None = None, **changed: Any) -> VerifiedAzureVm:
        options = {"trusted_roots": self.trusted_roots, "endorsements": self.endorsements, "now": NOW} | changed
        return verify_azure_vm(evidence or self.evidence, **options)

    def with_quote(self, tpm_quote: bytes) -> UnverifiedAzureVm:
        return replace(self.evidence, tpm_quote=tpm_quote, tpm_signature=self.vm.key.sign(tpm_quote))


@functools.cache
def vm(kind: HclKind = "snp") -> Vm:
    return Vm(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_verifies_from_the_hardware_to_the_guests_word(kind: HclKind) -> None:
    verified = vm(kind).verify()
    assert (verified.hardware, verified.hcl.kind, verified.runtime_data) == ("simulated", kind, RUNTIME_DATA)
    assert verified.pcr_values == dict(zip(PCRS, vm(kind).vm.pcr_values, strict=True))
    assert verified.hcl.vm_configuration["secure-boot"] is True
    assert verified.earliest_expiration > NOW


@pytest.mark.parametrize("kind", KINDS)
def test_the_guest_need_not_write_user_data_but_cannot_write_others(kind: HclKind) -> None:
    each = vm(kind)
    assert each.verify(each.vm.evidence(RUNTIME_DATA, user_data=bytes(64)))
    with pytest.raises(VerificationError, match="other user data"):
        each.verify(each.vm.evidence(RUNTIME_DATA, user_data=b"u" * 64))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_the_key_of_another_vm(kind: HclKind) -> None:
    """One VM's report with another's quote: mix and match."""
    each = vm(kind)
    other = replace(each.vm, key=SigningKey.generate("RS256", rsa_bits=2048)).evidence(RUNTIME_DATA)
    mixed = replace(each.evidence, tpm_quote=other.tpm_quote, tpm_signature=other.tpm_signature)
    with pytest.raises(VerificationError, match="signature"):
        each.verify(mixed)


def test_refuses_the_real_quote_of_another_machine_than_the_real_report(shared: Path) -> None:
    folder = shared / "vectors" / "azure-vtpm"
    key = parse_hcl_report((folder / "az_hcl_snp.bin").read_bytes()).attestation_key
    with pytest.raises(VerificationError, match="signature"):
        key.verify((folder / "az_tpm_quote.msg").read_bytes(), (folder / "az_tpm_quote.sig").read_bytes())


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_a_paravisors_document_that_the_hardware_does_not_vouch_for(kind: HclKind) -> None:
    each = vm(kind)
    insecure = replace(each.vm, configuration={**each.vm.configuration, "secure-boot": False})
    document = each.vm.paravisor_document(each.verify().hcl.user_data)
    forged = each.evidence.hcl_report.replace(b'"secure-boot":true', b'"secure-boot":null')
    assert document in each.evidence.hcl_report
    with pytest.raises(VerificationError, match="does not vouch"):
        each.verify(replace(each.evidence, hcl_report=forged))
    assert each.verify(insecure.evidence(RUNTIME_DATA)).hcl.vm_configuration["secure-boot"] is False


def test_refuses_a_trust_domains_quote_for_another_report() -> None:
    each, other = vm("tdx"), vm("tdx").vm.evidence(b"another run")
    with pytest.raises(VerificationError, match="does not vouch"):
        each.verify(replace(each.evidence, td_quote=other.td_quote))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_other_runtime_data_and_replayed_quotes(kind: HclKind) -> None:
    each = vm(kind)
    with pytest.raises(VerificationError, match="does not bind this runtime data"):
        each.verify(replace(each.evidence, runtime_data=b"another"))
    old = each.vm.evidence(b"an earlier run")
    with pytest.raises(VerificationError, match="does not bind this runtime data"):
        each.verify(replace(each.evidence, tpm_quote=old.tpm_quote, tpm_signature=old.tpm_signature))


def test_refuses_other_register_values() -> None:
    each = vm()
    values = (bytes(32), *each.evidence.pcr_values[1:])
    with pytest.raises(VerificationError, match="other register values") as refused:
        each.verify(replace(each.evidence, pcr_values=values))
    assert [mismatch.name for mismatch in refused.value.mismatches] == ["pcr digest"]
    for wrong in (each.evidence.pcr_values[1:], (), (b"short", *each.evidence.pcr_values[1:])):
        with pytest.raises(FormatError, match="registers"):
            each.verify(replace(each.evidence, pcr_values=wrong))


def test_refuses_a_quote_over_fewer_registers() -> None:
    each = vm()
    with pytest.raises(FormatError, match="registers"):
        each.verify(each.with_quote(each.vm.tpm_quote(b"n" * 32, pcrs=(0, 1))))


def test_refuses_hardware_that_may_be_debugged() -> None:
    class DebugChip(SimulatedAmd):
        def report(self, **fields: Any) -> Any:
            return replace(super().report(**fields), policy=GuestPolicy(debug=True))

    amd = amd_bench().amd
    chip = DebugChip(
        product=amd.product, chip_id=amd.chip_id, tcb=amd.tcb, keys=amd.keys, certificates=amd.certificates
    )
    with pytest.raises(VerificationError, match="debugged"):
        vm().verify(SimulatedAzureVm.create(chip).evidence(RUNTIME_DATA))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_without_trusted_roots_and_with_endorsements_for_other_hardware(kind: HclKind) -> None:
    each, other = vm(kind), vm("tdx" if kind == "snp" else "snp")
    with pytest.raises(UntrustedRootError):
        each.verify(trusted_roots=TrustedRoots(roots=()))
    with pytest.raises(FormatError, match="other hardware"):
        each.verify(endorsements=other.endorsements)
    with pytest.raises(FormatError, match="other hardware"):
        each.verify(replace(each.evidence, td_quote=other.evidence.td_quote))


def test_refuses_evidence_beyond_the_limits_and_evidence_it_did_not_make() -> None:
    with pytest.raises(LimitError):
        replace(vm().evidence, tpm_quote=bytes(1 << 20))
    verified = vm().verify()
    fields = {name: getattr(verified, name) for name in VerifiedAzureVm.__dataclass_fields__ if name != "made_by"}
    with pytest.raises(VerificationError, match="only the verifier"):
        VerifiedAzureVm(**fields, made_by=None)


# --- bytes -----------------------------------------------------------------------------------------------------------


def test_reads_the_real_report(shared: Path) -> None:
    report = parse_hcl_report((shared / "vectors" / "azure-vtpm" / "az_hcl_snp.bin").read_bytes())
    assert report.kind == "snp"
    assert report.vm_configuration["secure-boot"] is True
    assert report.user_data == bytes(64)
    assert report.report_data == report.hardware_report[0x50:0x90]
    assert json.loads(report.runtime_data)["keys"][0]["kid"] == "HCLAkPub"


def test_reads_the_real_quote(shared: Path) -> None:
    quote = parse_tpm_quote((shared / "vectors" / "azure-vtpm" / "az_tpm_quote.msg").read_bytes())
    assert quote.extra_data == b"challenge"
    assert quote.pcrs == (*range(8), 14)
    assert (quote.reset_count, quote.restart_count, quote.safe) == (3, 0, True)
    assert len(quote.pcr_digest) == 32


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    for parse in (parse_hcl_report, parse_tpm_quote):
        with contextlib.suppress(FormatError):
            parse(data)


@given(st.integers(0, 2599), st.integers(1, 255))
def test_edited_reports_parse_or_raise_format_error(at: int, flip: int) -> None:
    edited = bytearray(vm().evidence.hcl_report)
    edited[at] ^= flip
    with contextlib.suppress(FormatError):
        parse_hcl_report(bytes(edited))


@given(st.integers(0, 130), st.binary(max_size=4), st.integers(0, 8))
def test_edited_quotes_parse_or_raise_format_error(at: int, inserted: bytes, removed: int) -> None:
    quote = vm().evidence.tpm_quote
    with contextlib.suppress(FormatError):
        parse_tpm_quote(quote[:at] + inserted + quote[at + removed :])


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (4, 3), (12, 1), (1224, 3), (1224, 9), (1228, 4), (2599, 1), (1235, 0xFF)]
)
def test_refuses_other_reports(offset: int, value: int) -> None:
    edited = bytearray(vm().evidence.hcl_report)
    edited[offset] = value
    with pytest.raises(FormatError):
        parse_hcl_report(bytes(edited))


@pytest.mark.parametrize(
    "edit",
    [
        lambda document: document | {"keys": []},
        lambda document: document | {"keys": document["keys"] * 2},
        lambda document: document | {"keys": [document["keys"][0] | {"key_ops": ["encrypt"]}]},
        lambda document: document | {"vm-configuration": None},
        lambda document: document | {"user-data": "00"},
        lambda document: document | {"user-data": 7},
    ],
    ids=["no key", "two keys", "another use", "no configuration", "short", "no text"],
)
def test_refuses_other_documents_of_the_paravisor(edit: Any) -> None:
    class Paravisor(SimulatedAzureVm):
        def paravisor_document(self, user_data: bytes) -> bytes:
            return json.dumps(edit(json.loads(super().paravisor_document(user_data)))).encode()

    honest = vm().vm
    paravisor = Paravisor(
        machine=honest.machine, key=honest.key, configuration=honest.configuration, pcr_values=honest.pcr_values
    )
    with pytest.raises(FormatError):
        parse_hcl_report(paravisor.hcl_report(bytes(64))[0])
