"""What a metadata service answers is the host's word: another answer is refused before anything is made of it."""

import pytest
from tests.support.amd import amd_bench
from tests.support.azure_node import NoTpm, Saying, SimulatedVtpm
from tests.support.platform import Bench

from strongroom.attestation.attester.azure_vtpm import AzureVtpm, AzureVtpmDevice
from strongroom.attestation.attester.tpm import Tpm
from strongroom.attestation.evidence.azure_vtpm import azure_vm_of, parse_hcl_report
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError, FormatError, LimitError, RefusedError
from strongroom.simulation.azure_vm import SimulatedAzureVm

REPORT = parse_hcl_report(SimulatedAzureVm.create(Bench.new().platform).hcl_report(bytes(64))[0])
LARGE = "A" * 33_000


def vtpm(**members: Json) -> AzureVtpm:
    return AzureVtpm(Tpm(NoTpm()), Saying(**members))


def test_answers_larger_than_any_evidence_are_refused() -> None:
    """They would not fit into a request."""
    with pytest.raises(LimitError):
        vtpm(quote=LARGE).td_quote(REPORT)
    with pytest.raises(LimitError):
        vtpm(vcekCert="", certificateChain=LARGE).snp_certificates()


@pytest.mark.parametrize("members", [{}, {"quote": 1, "vcekCert": 1, "certificateChain": ""}, {"quote": "?"}])
def test_other_answers_are_format_errors(members: dict[str, Json]) -> None:
    with pytest.raises(FormatError):
        vtpm(**members).td_quote(REPORT)
    with pytest.raises(FormatError):
        vtpm(**members).snp_certificates()


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_what_travels_of_a_confidential_vm_is_what_its_vtpm_said(kind: str) -> None:
    machine = amd_bench().amd if kind == "snp" else Bench.new().platform
    simulated = SimulatedVtpm(SimulatedAzureVm.create(machine))
    device = AzureVtpmDevice(simulated)
    device.launch(bytes(64))
    evidence = device.evidence(b'{"run":"1"}')
    assert evidence.kind == kind
    assert azure_vm_of(evidence) == simulated.made[0]
    assert evidence.certificate_chain == (amd_bench().amd.certificate_chain("VCEK") if kind == "snp" else None)


def test_a_confidential_vm_is_launched_for_no_application_and_another_tpm_is_none() -> None:
    vm = SimulatedAzureVm.create(Bench.new().platform)
    with pytest.raises(RefusedError, match="launched for no application"):
        AzureVtpmDevice(SimulatedVtpm(vm)).launch(b"\x01" + bytes(63))
    with pytest.raises(ConfigurationError, match="not that of an Azure confidential VM"):
        AzureVtpmDevice(SimulatedVtpm(vm, is_there=False)).launch(bytes(64))
