"""A confidential node on Azure whose vTPM is this process."""

from collections.abc import Sequence

from strongroom.attestation.attester.azure_vtpm import AzureVtpm, MetadataService
from strongroom.attestation.attester.tpm import Tpm, TpmChannel
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.base.encoding import Json, canonical_json
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import SimulatedAzureVm


class NoTpm(TpmChannel):
    def transact(self, command: bytes) -> bytes:
        raise AssertionError(command)


class Saying(MetadataService):
    """A metadata service that answers everything with the same members."""

    def __init__(self, **members: Json) -> None:
        self._answer = canonical_json(members)

    def get(self, path: str) -> bytes:
        assert path
        return self._answer

    def post(self, path: str, body: bytes) -> bytes:
        assert path
        assert body
        return self._answer


class SimulatedVtpm(AzureVtpm):
    """The vTPM of a simulated VM.

    Attributes:
        made: The evidence it made.
    """

    def __init__(self, vm: SimulatedAzureVm, *, is_there: bool = True) -> None:
        chain = vm.machine.certificate_chain("VCEK") if isinstance(vm.machine, SimulatedAmd) else ""
        leaf, end, rest = chain.partition("-----END CERTIFICATE-----\n")
        super().__init__(Tpm(NoTpm()), Saying(vcekCert=leaf + end, certificateChain=rest))
        self._vm, self._is_there = vm, is_there
        self.made: list[UnverifiedAzureVm] = []

    def is_there(self) -> bool:
        return self._is_there

    def evidence(self, runtime_data: bytes, *, pcrs: Sequence[int] = ()) -> UnverifiedAzureVm:
        assert not pcrs
        self.made.append(self._vm.evidence(runtime_data))
        return self.made[-1]
