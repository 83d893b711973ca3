"""The attester: asks the hardware to quote. What runs in the TEE loads this and nothing of the verifier."""

from strongroom.attestation.attester.choice import Machine, detect_devices, open_device
from strongroom.attestation.attester.device import BindingDevice, Device, Quote, QuoteDevice, collect_evidence
from strongroom.attestation.attester.simulated import SimulatedDevice

__all__ = [
    "BindingDevice",
    "Device",
    "Machine",
    "Quote",
    "QuoteDevice",
    "SimulatedDevice",
    "collect_evidence",
    "detect_devices",
    "open_device",
]
