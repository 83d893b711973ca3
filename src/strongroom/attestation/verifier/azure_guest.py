"""Verification of what Azure's guest attestation sends: a confidential VM, its vTPM, and the key to answer to.

Source: Azure guest attestation client library; TCG TPM 2.0 Library, Parts 2 and 3; TCG PC Client Platform Firmware
Profile.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from datetime import datetime
from typing import Final, Literal

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_guest import GuestSystem, UnverifiedAzureGuest
from strongroom.attestation.evidence.azure_vtpm import HclReport, TpmQuote, parse_tpm_quote
from strongroom.attestation.evidence.tcg_log import parse_event_log, replay
from strongroom.attestation.evidence.tpm import (
    DECRYPT,
    FIXED_PARENT,
    FIXED_TPM,
    RESTRICTED,
    SENSITIVE_DATA_ORIGIN,
    SIGN,
    USER_WITH_AUTH,
    parse_tpm_certification,
    parse_tpm_public,
    policy_of_registers,
)
from strongroom.attestation.verifier.azure_vm import verify_hardware, verify_registers
from strongroom.attestation.verifier.roots import TrustedRoots
from strongroom.attestation.verifier.verified import VERIFIER, VerifiedSnp, VerifiedTdx, demand_verifier
from strongroom.base.encoding import from_any_b64
from strongroom.base.errors import FormatError, Mismatch, VerificationError, differences
from strongroom.crypto import x509
from strongroom.crypto.keys import VerifyingKey
from strongroom.wire.azure_guest import RUNTIME_DATA

_NEEDED: Final = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | DECRYPT
_LONG_SEQUENCE: Final = b"\x30\x82"
_FORBIDDEN: Final = USER_WITH_AUTH | RESTRICTED | SIGN


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedAzureGuest:
    """A guest of an Azure confidential VM whose every signature holds. Its claims MUST still be appraised.

    Attributes:
        hardware_evidence: The verified SEV-SNP report or TDX quote. Its measurements are those of the paravisor.
        hcl: What the paravisor says: VM configuration, attestation key.
        tpm_quote: The vTPM's quote.
        pcr_values: The quoted registers' values by number.
        ephemeral_key: Where the result is to be sealed: a key that this vTPM uses only in the quoted state.
        client_payload: As the guest sent it. Nothing vouches for it but for the runtime data, and for those only if
            `runtime_data` is there.
        runtime_data: The client payload's entry of that name if the vTPM attests its SHA-256; None if the guest had
            the vTPM attest nothing, as Azure's own client does: then nothing in the evidence is fresh.
        log_replayed: Whether an event log came; if so, it leads to the quoted values.
        system: What the guest says of its operating system; nothing vouches for it.
        hardware: "simulated" protects nothing.
        earliest_expiration: When the first of the certificates, lists and documents used runs out.
    """

    hardware_evidence: VerifiedSnp | VerifiedTdx
    hcl: HclReport
    tpm_quote: TpmQuote
    pcr_values: Mapping[int, bytes]
    ephemeral_key: VerifyingKey
    client_payload: Mapping[str, str]
    runtime_data: bytes | None
    log_replayed: bool
    system: GuestSystem
    hardware: Literal["simulated", "real"]
    earliest_expiration: datetime
    made_by: InitVar[object]

    def __post_init__(self, made_by: object) -> None:
        demand_verifier(made_by)


def verify_azure_guest(
    evidence: UnverifiedAzureGuest,
    *,
    trusted_roots: TrustedRoots,
    endorsements: SnpEndorsements | DcapEndorsements,
    now: datetime,
) -> VerifiedAzureGuest:
    """Verify what Azure's guest attestation sends.

    1. Verify the hardware's evidence, and that it stands for the paravisor's document, which names the vTPM's key (AK).
    2. Check that the public key and the certificate that the guest sends are that key's.
    3. Check the AK's signature over the quote, and that the quote stands for exactly the given register values.
    4. Check that the ephemeral key lives in this vTPM, cannot leave it, and works only while the registers have the
       quoted values: the AK certified it, in the boot of the quote.
    5. Check what the vTPM attested for the guest: SHA-256 of the runtime data in the client payload, or nothing.
    6. Replay the event log, if one came: it leads to the quoted values.

    The AK's certificate is not followed to an issuer: the hardware vouches for the key, which is more. The caller MUST
    still appraise the claims against an evidence policy, and MUST answer to the ephemeral key only.

    Args:
        evidence: From `parse_attestation_info`.
        trusted_roots: The roots trusted here; empty refuses.
        endorsements: For SEV-SNP the certificates and the revocation list, for TDX the vendor's documents.
        now: The time of the check.

    Returns:
        The verified guest.

    Raises:
        FormatError: A part is malformed, or the endorsements are for other hardware.
        UntrustedRootError: The hardware's evidence was made under another root.
        VerificationError: One of the steps does not hold.

    Source: Azure guest attestation client library; TCG TPM 2.0 Library, Part 1, 31 (attestation).
    """
    hcl = evidence.hcl
    # 1.
    hardware = verify_hardware(hcl, evidence.td_quote, trusted_roots=trusted_roots, endorsements=endorsements, now=now)
    # 2.
    _check_attestation_key(evidence)
    # 3.
    quote = parse_tpm_quote(evidence.tpm_quote)
    hcl.attestation_key.verify(evidence.tpm_quote, evidence.tpm_signature)
    pcr_values = verify_registers(quote, [value for _, value in sorted(evidence.pcr_values.items())])
    if set(pcr_values) != set(evidence.pcr_values):
        raise VerificationError("the vTPM quoted other registers than those whose values came")
    # 4.
    ephemeral_key = _certified_key(evidence, quote)
    # 5.
    runtime_data = _attested_runtime_data(evidence, quote)
    # 6.
    if evidence.event_log:
        _check_log(evidence.event_log, pcr_values)
    return VerifiedAzureGuest(
        hardware_evidence=hardware,
        hcl=hcl,
        tpm_quote=quote,
        pcr_values=pcr_values,
        ephemeral_key=ephemeral_key,
        client_payload=evidence.client_payload,
        runtime_data=runtime_data,
        log_replayed=bool(evidence.event_log),
        system=evidence.system,
        hardware=hardware.hardware,
        earliest_expiration=hardware.earliest_expiration,
        made_by=VERIFIER,
    )


def _check_attestation_key(evidence: UnverifiedAzureGuest) -> None:
    expected = evidence.hcl.attestation_key.thumbprint
    found = {"AikPub": (expected, parse_tpm_public(evidence.aik_public).key.thumbprint)}
    if evidence.aik_certificate.rstrip(b"\0"):
        found["AikCert"] = (expected, x509.spki_sha256(_without_padding(evidence.aik_certificate)))
    mismatches = differences(found)
    if mismatches:
        raise VerificationError(
            "the attestation key is not the one that the hardware vouches for", mismatches=mismatches
        )


def _without_padding(certificate: bytes) -> bytes:
    """Return a certificate without the zeros behind it, with which its NV index is filled up."""
    size = 4 + int.from_bytes(certificate[2:4], "big")
    if certificate[:2] != _LONG_SEQUENCE or any(certificate[size:]):
        raise FormatError("AikCert is not a certificate in DER form")
    return certificate[:size]


def _certified_key(evidence: UnverifiedAzureGuest, quote: TpmQuote) -> VerifyingKey:
    """Return the ephemeral key, if the vTPM says that it is its own and how it may be used."""
    certification = parse_tpm_certification(evidence.certification)
    evidence.hcl.attestation_key.verify(evidence.certification, evidence.certification_signature)
    public = parse_tpm_public(evidence.ephemeral_public)
    header = certification.header
    mismatches = list(
        differences(
            {
                "name": (certification.name.hex(), public.name.hex()),
                "reset count": (str(quote.reset_count), str(header.reset_count)),
                "restart count": (str(quote.restart_count), str(header.restart_count)),
                "qualifying data": (quote.extra_data.hex(), header.extra_data.hex()),
                "policy": (policy_of_registers(quote.pcrs, quote.pcr_digest).hex(), public.auth_policy.hex()),
            }
        )
    )
    if public.attributes & (_NEEDED | _FORBIDDEN) != _NEEDED:
        mismatches.append(Mismatch(name="attributes", expected=f"{_NEEDED:#010x}", actual=f"{public.attributes:#010x}"))
    if mismatches:
        raise VerificationError(
            "the vTPM does not vouch for the ephemeral key, or the key is of another state or use",
            action="Create the key anew in the running state, and certify it with the attestation key.",
            mismatches=tuple(mismatches),
        )
    return public.key


def _attested_runtime_data(evidence: UnverifiedAzureGuest, quote: TpmQuote) -> bytes | None:
    if not quote.extra_data:
        return None
    encoded = evidence.client_payload.get(RUNTIME_DATA)
    runtime_data = b"" if encoded is None else from_any_b64(encoded)
    if encoded is None or hashlib.sha256(runtime_data).digest() != quote.extra_data:
        raise VerificationError(
            "the vTPM's quote does not bind this client payload",
            action=f"Quote anew with SHA-256 of the client payload's entry {RUNTIME_DATA}.",
        )
    return runtime_data


def _check_log(event_log: bytes, pcr_values: Mapping[int, bytes]) -> None:
    replayed = replay(parse_event_log(event_log), pcrs=tuple(pcr_values))
    mismatches = differences({f"pcr {pcr}": (value.hex(), replayed[pcr].hex()) for pcr, value in pcr_values.items()})
    if mismatches:
        raise VerificationError("the event log does not lead to the quoted register values", mismatches=mismatches)
