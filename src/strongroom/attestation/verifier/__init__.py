"""The verifier: makes verified evidence of unverified, or raises. Never loaded where evidence is made."""

from strongroom.attestation.verifier.azure_guest import VerifiedAzureGuest, verify_azure_guest
from strongroom.attestation.verifier.azure_vm import VerifiedAzureVm, verify_azure_vm
from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.sgx import verify_sgx
from strongroom.attestation.verifier.snp import verify_snp
from strongroom.attestation.verifier.tdx import verify_tdx
from strongroom.attestation.verifier.verified import VerifiedSgx, VerifiedSnp, VerifiedTdx

__all__ = [
    "TrustedRoot",
    "TrustedRoots",
    "VerifiedAzureGuest",
    "VerifiedAzureVm",
    "VerifiedSgx",
    "VerifiedSnp",
    "VerifiedTdx",
    "verify_azure_guest",
    "verify_azure_vm",
    "verify_sgx",
    "verify_snp",
    "verify_tdx",
]
