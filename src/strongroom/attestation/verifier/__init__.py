"""The verifier: makes verified evidence of unverified, or raises. Never loaded where evidence is made."""

from strongroom.attestation.verifier.roots import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.sgx import verify_sgx
from strongroom.attestation.verifier.verified import VerifiedEvidence

__all__ = ["TrustedRoot", "TrustedRoots", "VerifiedEvidence", "verify_sgx"]
