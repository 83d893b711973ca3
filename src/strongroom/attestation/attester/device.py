"""What an attester asks its hardware for."""

import hashlib
from typing import Final, Protocol

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import LimitError
from strongroom.base.limits import LIMITS

CONFIG_ID_BYTES: Final = 64
REPORT_DATA_BYTES: Final = 64


class QuoteDevice(Protocol):
    """Hardware (or its simulation) that quotes the enclave the caller runs in."""

    def launch(self, config_id: bytes) -> None:
        """Fix the configuration of the enclave, once, before anything else runs in it.

        On real hardware the host does this when it makes the enclave; there it is a check.

        Args:
            config_id: 64 bytes: the application digest and 32 zero bytes.

        Raises:
            RefusedError: This process may not be launched, or is launched already.
            UnavailableError: The hardware does not answer.
        """

    def quote(self, report_data: bytes) -> bytes:
        """Return a quote of the enclave.

        Args:
            report_data: 64 bytes of the caller's choice.

        Raises:
            RefusedError: This process runs in no enclave.
            UnavailableError: The hardware does not answer.
        """


def collect_evidence(device: QuoteDevice, *, runtime_data: bytes) -> UnverifiedEvidence:
    """Make evidence over runtime data.

    Args:
        device: The quoting hardware.
        runtime_data: The exact bytes to bind; the report data is their SHA-256 and 32 zero bytes.

    Returns:
        Quote and runtime data.

    Raises:
        LimitError: More runtime data than a verifier accepts.
        RefusedError: The hardware refuses.
        UnavailableError: The hardware does not answer.

    Source: Azure Attestation, "report data of SGX quotes with runtime data".
    """
    if len(runtime_data) > LIMITS.runtime_data_bytes:
        raise LimitError("there is more runtime data than allowed")
    report_data = hashlib.sha256(runtime_data).digest().ljust(REPORT_DATA_BYTES, b"\x00")
    return UnverifiedEvidence(kind="sgx", quote=device.quote(report_data), runtime_data=runtime_data)
