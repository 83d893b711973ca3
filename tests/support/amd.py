"""A simulated AMD chip in this process, and SEV-SNP evidence made with it."""

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tests.support.platform import NOW, RUNTIME_DATA

from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.evidence.snp_report import Product, SnpReport
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSnp, verify_snp
from strongroom.simulation.amd import SimulatedAmd

REPORT_DATA = hashlib.sha256(RUNTIME_DATA).digest() + bytes(32)


@dataclass(frozen=True, kw_only=True)
class AmdBench:
    """Chip, vendor and verifier; every field and argument is one edit away from an attack."""

    amd: SimulatedAmd
    kind: EndorsementKey = "VCEK"
    version: int = 3

    @property
    def trusted_roots(self) -> TrustedRoots:
        return TrustedRoots(roots=(TrustedRoot(certificate_der=self.amd.root_der, simulated=True),))

    def report(self, **fields: Any) -> SnpReport:
        report = self.amd.report(version=self.version, signing_key=self.kind, report_data=REPORT_DATA)
        return replace(report, **fields)

    def endorsements(self, *, leaf: bytes | None = None, revoked: Sequence[str] = ()) -> SnpEndorsements:
        """The vendor's answer, perhaps with another leaf, or with revoked CAs."""
        amd = self.amd if leaf is None else replace(self.amd, certificates={**self.amd.certificates, self.kind: leaf})
        return amd.endorsements(self.kind, now=NOW, revoked=revoked)

    def verify(
        self,
        report: SnpReport | bytes | None = None,
        *,
        runtime_data: bytes = RUNTIME_DATA,
        endorsements: SnpEndorsements | None = None,
        trusted_roots: TrustedRoots | None = None,
        **at: Any,
    ) -> VerifiedSnp:
        report = self.report() if report is None else report
        return verify_snp(
            UnverifiedEvidence(
                kind="snp",
                quote=report if isinstance(report, bytes) else self.amd.sign(report),
                runtime_data=runtime_data,
            ),
            trusted_roots=self.trusted_roots if trusted_roots is None else trusted_roots,
            endorsements=endorsements or self.endorsements(),
            now=at.get("now", NOW),
        )


@functools.cache
def amd_bench(product: Product = "Milan", kind: EndorsementKey = "VCEK", version: int = 3) -> AmdBench:
    """A bench; chips are made once in a process, because the vendor's keys take long."""
    return AmdBench(amd=_chip(product), kind=kind, version=version)


@functools.cache
def _chip(product: Product) -> SimulatedAmd:
    return SimulatedAmd.create(product, now=NOW, rsa_bits=2048)
