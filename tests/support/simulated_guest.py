"""What a guest sends to `/attest/AzureGuest`, made without a TPM: every field is one edit away from an attack."""

import base64
import hashlib
import json
import struct
from dataclasses import dataclass, field
from typing import Any

from tests.support.azure_guest import Cloud

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_guest import parse_attestation_info
from strongroom.attestation.evidence.azure_vtpm import HclKind, parse_hcl_report
from strongroom.attestation.evidence.tpm import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    NO_DA,
    SENSITIVE_DATA_ORIGIN,
    policy_of_registers,
)
from strongroom.attestation.verifier import TrustedRoots, VerifiedAzureGuest, verify_azure_guest
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.simulation.azure_vm import PCRS, SimulatedAzureVm

RUNTIME_DATA = b'{"run":"1"}'
ATTRIBUTES = DECRYPT | FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | NO_DA


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def tpm_public(key: VerifyingKey, *, attributes: int, policy: bytes = b"") -> bytes:
    """TPM2B_PUBLIC of an RSA key."""
    area = struct.pack(">HHI", 1, 0x0B, attributes) + sized(policy) + struct.pack(">HHHI", 0x10, 0x10, 2048, 0)
    return sized(area + sized(from_b64url(key.to_jwk()["n"])))


def tpm_certification(
    public: bytes, *, signer: VerifyingKey, nonce: bytes, reset_count: int = 1, restart_count: int = 0
) -> bytes:
    """TPMS_ATTEST of TPM2_Certify."""
    name = b"\x00\x0b" + hashlib.sha256(public[2:]).digest()
    qualified = b"\x00\x0b" + hashlib.sha256(signer.spki).digest()
    header = struct.pack(">4sH", b"\xffTCG", 0x8017) + sized(qualified) + sized(nonce)
    return header + struct.pack(">QIIBQ", 123_456, reset_count, restart_count, 1, 0x20160511) + sized(name) * 2


@dataclass(kw_only=True)
class SimulatedGuest:
    """A guest whose TPM is this process.

    Attributes:
        cloud: The hardware's vendors.
        kind: SEV-SNP or TDX.
        ephemeral: The key that results are sealed to.
    """

    cloud: Cloud
    kind: HclKind = "snp"
    ephemeral: SigningKey = field(default_factory=lambda: SigningKey.generate("RS256", rsa_bits=2048))
    vm: SimulatedAzureVm = field(init=False)

    def __post_init__(self) -> None:
        self.vm = SimulatedAzureVm.create(self.cloud.amd if self.kind == "snp" else self.cloud.intel)

    @property
    def digest(self) -> bytes:
        return hashlib.sha256(b"".join(self.vm.pcr_values)).digest()

    def certified(
        self,
        *,
        attributes: int = ATTRIBUTES,
        policy: bytes | None = None,
        by: SigningKey | None = None,
        nonce: bytes = hashlib.sha256(RUNTIME_DATA).digest(),
        **counts: int,
    ) -> dict[str, str]:
        """The ephemeral key, and the AK's word on it."""
        signer = by or self.vm.key
        policy = policy_of_registers(PCRS, self.digest) if policy is None else policy
        public = tpm_public(self.ephemeral.verifying_key, attributes=attributes, policy=policy)
        attest = tpm_certification(public, signer=self.vm.key.verifying_key, nonce=nonce, **counts)
        return {
            "EncKeyPub": b64(public),
            "EncKeyCertifyInfo": b64(attest),
            "EncKeyCertifyInfoSignature": b64(signer.sign(attest)),
        }

    def quoted(
        self, nonce: bytes = hashlib.sha256(RUNTIME_DATA).digest(), *, by: SigningKey | None = None
    ) -> dict[str, Any]:
        quote = self.vm.tpm_quote(nonce)
        return {"PcrQuote": b64(quote), "PcrSignature": b64((by or self.vm.key).sign(quote))}

    def tpm_info(self, **changed: Any) -> dict[str, Any]:
        return {
            "AikCert": "",
            "AikPub": b64(tpm_public(self.vm.key.verifying_key, attributes=0x50072)),
            **self.quoted(),
            **self.certified(),
            "PcrSet": list(PCRS),
            "PCRs": [{"Index": pcr, "Digest": b64(value)} for pcr, value in zip(PCRS, self.vm.pcr_values, strict=True)],
            **changed,
        }

    def isolation(self, *, user_data: bytes = bytes(64)) -> dict[str, Any]:
        report_bytes, td_quote = self.vm.hcl_report(user_data)
        report = parse_hcl_report(report_bytes)
        document = b64(report.runtime_data)
        if td_quote is not None:
            return {"Type": "Tdx", "Evidence": {"Proof": b64(td_quote), "RunTimeData": document}}
        chain = self.cloud.snp_endorsements().certificate_chain.encode()
        proof = {"SnpReport": to_b64url(report.hardware_report), "VcekCertChain": b64(chain)}
        return {"Type": "SevSnp", "Evidence": {"Proof": b64(json.dumps(proof).encode()), "RunTimeData": document}}

    def info(self, **changed: Any) -> dict[str, Any]:
        """The message; `tpm` changes members of TpmInfo, every other name a member of the message."""
        tpm = changed.pop("tpm", {})
        return {
            "AttestationProtocolVersion": "2.0",
            "OSType": b64(b"Linux"),
            "OSDistro": b64(b"Ubuntu"),
            "OSBuild": b64(b"NotApplication"),
            "OSVersionMajor": 24,
            "OSVersionMinor": 4,
            "TcgLogs": "",
            "ClientPayload": {"runtime-data": b64(RUNTIME_DATA)},
            "TpmInfo": self.tpm_info(**tpm),
            "IsolationInfo": self.isolation(),
            **changed,
        }

    def verify(self, info: dict[str, Any] | None = None, **changed: Any) -> VerifiedAzureGuest:
        """Have the message verified, now, with this guest's roots and endorsements."""
        options: dict[str, Any] = {
            "trusted_roots": self.cloud.trusted_roots,
            "endorsements": self.cloud.endorsements(self.kind),
            "now": self.cloud.now,
        } | changed
        return verify(json.dumps(self.info() if info is None else info).encode(), **options)


def verify(
    info: bytes, *, trusted_roots: TrustedRoots, endorsements: SnpEndorsements | DcapEndorsements, now: Any
) -> VerifiedAzureGuest:
    return verify_azure_guest(
        parse_attestation_info(info), trusted_roots=trusted_roots, endorsements=endorsements, now=now
    )
