"""A simulated Azure confidential VM: a paravisor and its vTPM on top of a simulated chip or platform.

Source: Azure confidential VM guest attestation; TCG TPM 2.0 Library, Part 2, 10.12.
"""

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from strongroom.attestation.evidence.azure_vtpm import AK_KID, TDREPORT_BYTES, HclKind
from strongroom.attestation.evidence.snp_report import REPORT_BYTES as SNP_REPORT_BYTES
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.crypto.keys import SigningKey
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.platform import SimulatedPlatform

PCRS: Final = tuple(range(8))
PARAVISOR: Final = hashlib.sha384(b"the simulated paravisor").digest()
_HARDWARE: Final[Mapping[HclKind, int]] = {"snp": 2, "tdx": 4}
_HCL_BYTES: Final = 2600
_SHA256: Final = 1


@dataclass(frozen=True, kw_only=True)
class SimulatedAzureVm:
    """A VM whose hardware is simulated.

    Attributes:
        machine: The chip (SEV-SNP) or the platform (TDX) it runs on.
        key: The vTPM's attestation key.
        configuration: What the paravisor says about the VM.
        pcr_values: The registers that a quote covers.
    """

    machine: SimulatedAmd | SimulatedPlatform
    key: SigningKey = field(repr=False)
    configuration: Mapping[str, Any]
    pcr_values: tuple[bytes, ...]

    @classmethod
    def create(cls, machine: SimulatedAmd | SimulatedPlatform) -> "SimulatedAzureVm":
        """Make a VM with a new vTPM, secure boot on."""
        return cls(
            machine=machine,
            key=SigningKey.generate("RS256", rsa_bits=2048),
            configuration={
                "secure-boot": True,
                "tpm-enabled": True,
                "console-enabled": False,
                "vmUniqueId": "simulated",
            },
            pcr_values=tuple(hashlib.sha256(bytes([number])).digest() for number in PCRS),
        )

    def evidence(self, runtime_data: bytes, *, user_data: bytes | None = None) -> UnverifiedAzureVm:
        """Collect evidence, as the guest does: write its data, read the report, have the vTPM quote.

        Args:
            runtime_data: What the evidence shall stand for.
            user_data: 64 bytes for the report; without them SHA-512 of the runtime data.
        """
        hcl_report, td_quote = self.hcl_report(
            hashlib.sha512(runtime_data).digest() if user_data is None else user_data
        )
        tpm_quote = self.tpm_quote(hashlib.sha256(runtime_data).digest())
        return UnverifiedAzureVm(
            hcl_report=hcl_report,
            td_quote=td_quote,
            tpm_quote=tpm_quote,
            tpm_signature=self.key.sign(tpm_quote),
            pcr_values=self.pcr_values,
            runtime_data=runtime_data,
        )

    def hcl_report(self, user_data: bytes) -> tuple[bytes, bytes | None]:
        """Return the vTPM's NV index with the hardware's report, and on TDX the quote of it."""
        runtime = self.paravisor_document(user_data)
        report_data = hashlib.sha256(runtime).digest() + bytes(32)
        kind: HclKind
        if isinstance(self.machine, SimulatedAmd):
            kind, td_quote = "snp", None
            hardware = self.machine.sign(self.machine.report(version=2, report_data=report_data))
        else:
            kind, td_quote = "tdx", self.machine.quote(self.machine.td_report(mrtd=PARAVISOR, report_data=report_data))
            hardware = (bytes(128) + report_data).ljust(TDREPORT_BYTES, b"\0")
        header = struct.pack("<4sIIII12x", b"HCLA", 2, _HCL_BYTES, 2, 0)
        request = struct.pack("<IIIII", 20 + len(runtime), 1, _HARDWARE[kind], _SHA256, len(runtime))
        index = header + hardware.ljust(SNP_REPORT_BYTES, b"\0") + request + runtime
        return index.ljust(_HCL_BYTES, b"\0"), td_quote

    def paravisor_document(self, user_data: bytes) -> bytes:
        """Return the JSON document whose hash stands in the hardware's report data."""
        key = {"kid": AK_KID, "key_ops": ["sign"], **self.key.verifying_key.to_jwk()}
        document = {"keys": [key], "vm-configuration": dict(self.configuration), "user-data": user_data.hex().upper()}
        return json.dumps(document, separators=(",", ":")).encode()

    def tpm_quote(self, nonce: bytes, *, pcrs: Sequence[int] = PCRS) -> bytes:
        """Return TPMS_ATTEST of a quote, not signed."""
        name = b"\x00\x0b" + hashlib.sha256(self.key.verifying_key.spki).digest()
        selected = sum(1 << number for number in pcrs).to_bytes(3, "little")
        digest = hashlib.sha256(b"".join(self.pcr_values)).digest()
        return b"".join(
            (
                struct.pack(">4sH", b"\xffTCG", 0x8018),
                *(struct.pack(">H", len(part)) + part for part in (name, nonce)),
                struct.pack(">QIIBQ", 123_456, 1, 0, 1, 0x20160511),
                struct.pack(">IHB", 1, 0x000B, len(selected)) + selected,
                struct.pack(">H", len(digest)) + digest,
            )
        )
