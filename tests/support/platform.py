"""A simulated platform in this process, and evidence made with it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from strongroom.attestation.endorsements.sgx import SgxEndorsements
from strongroom.attestation.evidence.sgx_quote import SgxReportBody
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSgx, verify_sgx
from strongroom.simulation.platform import PlatformCondition, SimulatedPlatform

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNTIME_DATA = b'{"version":1}'
MRENCLAVE = hashlib.sha256(b"an enclave").digest()
CONFIG_ID = hashlib.sha256(b"an application").digest() + bytes(32)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Platform, vendor and verifier; every field and argument is one edit away from an attack."""

    platform: SimulatedPlatform
    endorsements: SgxEndorsements
    trusted_roots: TrustedRoots

    @classmethod
    def new(cls, **condition: Any) -> "Bench":
        platform = SimulatedPlatform.create(now=NOW, condition=PlatformCondition(**condition))
        return cls.around(platform)

    @classmethod
    def around(cls, platform: SimulatedPlatform) -> "Bench":
        root = TrustedRoot(certificate_der=platform.root_der, simulated=True)
        return cls(
            platform=platform, endorsements=platform.endorsements(now=NOW), trusted_roots=TrustedRoots(roots=(root,))
        )

    def with_condition(self, **condition: Any) -> "Bench":
        """The same platform, with another word of its vendor about it."""
        return Bench.around(replace(self.platform, condition=PlatformCondition(**condition)))

    def report(self, **fields: Any) -> SgxReportBody:
        report = self.platform.report(
            mrenclave=MRENCLAVE,
            isv_prod_id=1,
            config_id=CONFIG_ID,
            report_data=hashlib.sha256(RUNTIME_DATA).digest() + bytes(32),
        )
        return replace(report, **fields)

    def quote(self, **fields: Any) -> bytes:
        return self.platform.quote(self.report(**fields))

    def verify(
        self,
        quote: bytes | None = None,
        *,
        runtime_data: bytes = RUNTIME_DATA,
        endorsements: SgxEndorsements | None = None,
        edit: Callable[[SgxEndorsements], SgxEndorsements] = lambda same: same,
        now: datetime = NOW,
    ) -> VerifiedSgx:
        evidence = UnverifiedEvidence(kind="sgx", quote=quote or self.quote(), runtime_data=runtime_data)
        return verify_sgx(
            evidence,
            trusted_roots=self.trusted_roots,
            endorsements=edit(endorsements or self.endorsements),
            now=now,
        )
