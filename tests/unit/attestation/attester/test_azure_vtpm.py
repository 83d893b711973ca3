"""What a metadata service answers is the host's word: another answer is refused before anything is made of it."""

import pytest
from tests.support.platform import Bench

from strongroom.attestation.attester.azure_vtpm import AzureVtpm, MetadataService
from strongroom.attestation.attester.tpm import Tpm, TpmChannel
from strongroom.attestation.evidence.azure_vtpm import parse_hcl_report
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import FormatError, LimitError
from strongroom.simulation.azure_vm import SimulatedAzureVm

REPORT = parse_hcl_report(SimulatedAzureVm.create(Bench.new().platform).hcl_report(bytes(64))[0])
LARGE = "A" * 33_000


class NoTpm(TpmChannel):
    def transact(self, command: bytes) -> bytes:
        raise AssertionError(command)


class Saying(MetadataService):
    def __init__(self, **members: object) -> None:
        self._answer = canonical_json(members)  # type: ignore[arg-type]

    def get(self, path: str) -> bytes:
        assert path
        return self._answer

    def post(self, path: str, body: bytes) -> bytes:
        assert path
        assert body
        return self._answer


def vtpm(**members: object) -> AzureVtpm:
    return AzureVtpm(Tpm(NoTpm()), Saying(**members))


def test_answers_larger_than_any_evidence_are_refused() -> None:
    """They would not fit into a request."""
    with pytest.raises(LimitError):
        vtpm(quote=LARGE).td_quote(REPORT)
    with pytest.raises(LimitError):
        vtpm(vcekCert="", certificateChain=LARGE).snp_certificates()


@pytest.mark.parametrize("members", [{}, {"quote": 1, "vcekCert": 1, "certificateChain": ""}, {"quote": "?"}])
def test_other_answers_are_format_errors(members: dict[str, object]) -> None:
    with pytest.raises(FormatError):
        vtpm(**members).td_quote(REPORT)
    with pytest.raises(FormatError):
        vtpm(**members).snp_certificates()
