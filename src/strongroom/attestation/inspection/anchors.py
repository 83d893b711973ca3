"""What evidence in files is verified with."""

from dataclasses import dataclass, field
from datetime import datetime

from typing_extensions import override

from strongroom.attestation.endorsements.dcap import DcapEndorsements, EndorsementSource, Tee
from strongroom.attestation.endorsements.snp import RevocationSource
from strongroom.attestation.evidence.amd_certificate import EndorsementKey
from strongroom.attestation.verifier import TrustedRoots
from strongroom.attestation.verifier.vendor_roots import Vendor, vendor_root


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchors:
    """What evidence is verified with.

    Attributes:
        roots: Roots trusted beside the vendors' own, which are built in.
        endorsements: Where DCAP collateral comes from; None: there is none.
        certificates: Certificates for SEV-SNP reports that came without, in any order.
        revocations: Where the revocation lists of SEV-SNP's roots come from; None: there are none.
        now: The time of the check.
    """

    roots: TrustedRoots = field(default_factory=lambda: TrustedRoots(roots=()))
    endorsements: EndorsementSource | None = None
    certificates: tuple[bytes, ...] = ()
    revocations: RevocationSource | None = None
    now: datetime

    def trusted(self, root_der: bytes, *, vendor: Vendor) -> TrustedRoots:
        """Return the trusted roots: those that were named, and the given one if it is the vendor's own.

        Raises:
            FormatError: Not a certificate.
        """
        built_in = vendor_root(root_der, vendor=vendor)
        return TrustedRoots(roots=(*self.roots.roots, *([built_in] if built_in else [])))


class GivenEndorsements(EndorsementSource):
    """The one collateral that was given, for whatever platform: the verifier compares the families."""

    def __init__(self, endorsements: DcapEndorsements) -> None:
        self._endorsements = endorsements

    @override
    def get(self, *, fmspc: str, ca: str, tee: Tee = "SGX") -> DcapEndorsements:
        """Return the collateral."""
        return self._endorsements


class GivenRevocations(RevocationSource):
    """The revocation lists that were given; the verifier looks for the issuer's."""

    def __init__(self, crl_der: bytes) -> None:
        self._crl = crl_der

    @override
    def crl(self, root_der: bytes, *, signing_key: EndorsementKey = "VCEK") -> bytes:
        """Return the list."""
        del root_der, signing_key
        return self._crl
