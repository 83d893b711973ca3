"""The attester: asks the hardware to quote. What runs in the TEE loads this and nothing of the verifier."""

from strongroom.attestation.attester.device import QuoteDevice, collect_evidence
from strongroom.attestation.attester.simulated_sgx import SimulatedSgxDevice

__all__ = ["QuoteDevice", "SimulatedSgxDevice", "collect_evidence"]
