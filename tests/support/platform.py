"""A simulated platform in this process, and evidence made with it."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.sgx_report import SgxReportBody
from strongroom.attestation.evidence.td_report import TdReportBody
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSgx, VerifiedTdx, verify_sgx, verify_tdx
from strongroom.simulation.platform import PlatformCondition, SimulatedPlatform

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RUNTIME_DATA = b'{"version":1}'
MRENCLAVE = hashlib.sha256(b"an enclave").digest()
MRTD = hashlib.sha384(b"a trust domain").digest()
CONFIG_ID = hashlib.sha256(b"an application").digest() + bytes(32)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Platform, vendor and verifier; every field and argument is one edit away from an attack."""

    platform: SimulatedPlatform
    endorsements: DcapEndorsements
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

    def td_report(self, **fields: Any) -> TdReportBody:
        report = self.platform.td_report(
            mrtd=MRTD, mrconfigid=CONFIG_ID[:48], report_data=hashlib.sha256(RUNTIME_DATA).digest() + bytes(32)
        )
        return replace(report, **fields)

    def td_quote(self, **fields: Any) -> bytes:
        return self.platform.quote(self.td_report(**fields))

    def verify_td(
        self,
        quote: bytes | None = None,
        *,
        runtime_data: bytes = RUNTIME_DATA,
        edit: Callable[[DcapEndorsements], DcapEndorsements] = lambda same: same,
        now: datetime = NOW,
    ) -> VerifiedTdx:
        return verify_tdx(
            UnverifiedEvidence(kind="tdx", quote=quote or self.td_quote(), runtime_data=runtime_data),
            trusted_roots=self.trusted_roots,
            endorsements=edit(self.platform.endorsements(now=NOW, tee="TDX")),
            now=now,
        )

    def verify(
        self,
        quote: bytes | None = None,
        *,
        runtime_data: bytes = RUNTIME_DATA,
        endorsements: DcapEndorsements | None = None,
        edit: Callable[[DcapEndorsements], DcapEndorsements] = lambda same: same,
        now: datetime = NOW,
    ) -> VerifiedSgx:
        evidence = UnverifiedEvidence(kind="sgx", quote=quote or self.quote(), runtime_data=runtime_data)
        return verify_sgx(
            evidence,
            trusted_roots=self.trusted_roots,
            endorsements=edit(endorsements or self.endorsements),
            now=now,
        )
