"""What an attester asks its hardware for."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias, runtime_checkable

from typing_extensions import override

from strongroom.attestation.evidence.fields import EvidenceFields, launch_field, launch_value, read_fields
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import FormatError, LimitError, Mismatch, RefusedError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.crypto.random import random_bytes
from strongroom.wire.model import TeeKind

REPORT_DATA_BYTES: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """What a device answered.

    Attributes:
        kind: The kind of evidence.
        data: The DCAP quote, or the SEV-SNP report.
        certificate_chain: On SEV-SNP, where the host hands them out: PEM of VCEK or VLEK, ASK or ASVK, ARK.
    """

    kind: TeeKind
    data: bytes
    certificate_chain: str | None = None


class QuoteDevice(Protocol):
    """Hardware (or its simulation) that quotes the TEE the caller runs in."""

    def launch(self, config_id: bytes) -> None:
        """Fix the configuration of the TEE, once, before anything else runs in it.

        On real hardware the host does this when it makes the TEE; there it is a check.

        Args:
            config_id: 64 bytes: the application digest and 32 zero bytes. TDX holds the first 48 of them, SEV-SNP 32.

        Raises:
            FormatError: Another size, or more than the hardware's field holds.
            RefusedError: This TEE may not be launched, or was launched with another configuration.
            ConfigurationError: The device is not there, or not set up.
            UnavailableError: The hardware does not answer.
        """

    def quote(self, report_data: bytes) -> Quote:
        """Return a quote of the TEE.

        Args:
            report_data: 64 bytes of the caller's choice.

        Raises:
            FormatError: Another size, or the hardware's answer is malformed.
            RefusedError: This process runs in no TEE.
            VerificationError: The hardware answered something else than what was asked.
            ConfigurationError: The device is not there, or not set up.
            UnavailableError: The hardware does not answer.
        """


@runtime_checkable
class BindingDevice(Protocol):
    """Hardware whose report data are not the TEE's to choose: it binds runtime data in a way of its own."""

    def launch(self, config_id: bytes) -> None:
        """Fix, or check, the configuration of the TEE (see `QuoteDevice`)."""

    def evidence(self, runtime_data: bytes) -> UnverifiedEvidence:
        """Return evidence of the TEE that binds these bytes.

        Raises:
            LimitError: More runtime data than a verifier accepts.
            StrongroomError: What `QuoteDevice.quote` raises.
        """


Device: TypeAlias = QuoteDevice | BindingDevice
Ask: TypeAlias = Callable[[bytes], Quote]
"""Asks an interface of real hardware to quote 64 bytes of report data."""


class HardwareDevice(QuoteDevice):
    """Real hardware. What it answers is compared with what was asked: its interfaces are the host's or the kernel's.

    Args:
        ask: The interface; it is asked by one thread at a time.
        privilege_level: On SEV-SNP the privilege level (VMPL) that the report must name.
    """

    def __init__(self, ask: Ask, *, privilege_level: int = 0) -> None:
        self._ask = ask
        self._privilege_level = privilege_level
        self._lock = threading.Lock()

    @override
    def launch(self, config_id: bytes) -> None:
        """Check that this TEE was launched with a configuration (see `QuoteDevice`)."""
        quote, fields = self._checked(random_bytes(REPORT_DATA_BYTES))
        name, expected = launch_field(quote.kind), launch_value(quote.kind, config_id)
        if fields.launched_with is None:
            raise RefusedError(
                f"this enclave fixes no {name} when it is made",
                action="Sign it with key separation and sharing (KSS) on, and let its loader set CONFIG_ID. Images "
                "that are measured together with one application are a shape that approvals do not have yet.",
            )
        if fields.launched_with != expected:
            raise RefusedError(
                "this TEE was launched for another application",
                action=f"Launch it with the application digest in {name}.",
                mismatches=(Mismatch(name=name, expected=expected.hex(), actual=fields.launched_with.hex()),),
            )

    @override
    def quote(self, report_data: bytes) -> Quote:
        """Return a quote of this TEE (see `QuoteDevice`)."""
        return self._checked(report_data)[0]

    def _checked(self, report_data: bytes) -> tuple[Quote, EvidenceFields]:
        require_size(report_data, REPORT_DATA_BYTES)
        with self._lock:
            quote = self._ask(report_data)
        fields = read_fields(quote.kind, quote.data)
        if fields.report_data != report_data:
            raise VerificationError(
                "the device quoted other report data than asked for",
                action="Let nothing else in this TEE use the device, and try again.",
            )
        if fields.vmpl not in (None, self._privilege_level):
            raise VerificationError(
                "the report is of another privilege level than asked for",
                mismatches=(Mismatch(name="VMPL", expected=str(self._privilege_level), actual=str(fields.vmpl)),),
            )
        return quote, fields


def collect_evidence(device: Device, *, runtime_data: bytes, initdata: bytes | None = None) -> UnverifiedEvidence:
    """Make evidence over runtime data.

    Args:
        device: The quoting hardware.
        runtime_data: The exact bytes to bind; the report data is their SHA-256 and 32 zero bytes.
        initdata: What a pod was launched with, to be shown beside.

    Returns:
        Quote and runtime data, with the certificates that the device handed out.

    Raises:
        LimitError: More runtime data than a verifier accepts.
        StrongroomError: What `QuoteDevice.quote` raises.

    Source: Azure Attestation, "report data of SGX quotes with runtime data".
    """
    if len(runtime_data) > LIMITS.runtime_data_bytes:
        raise LimitError("there is more runtime data than allowed")
    if isinstance(device, BindingDevice):
        return device.evidence(runtime_data)
    quote = device.quote(hashlib.sha256(runtime_data).digest().ljust(REPORT_DATA_BYTES, b"\x00"))
    return UnverifiedEvidence(
        kind=quote.kind,
        quote=quote.data,
        runtime_data=runtime_data,
        certificate_chain=quote.certificate_chain,
        initdata=initdata,
    )


def require_size(value: bytes, size_bytes: int) -> None:
    """Refuse bytes of another size.

    Raises:
        FormatError: They have another.
    """
    if len(value) != size_bytes:
        raise FormatError(f"{size_bytes} bytes were expected")
