"""Which hardware vendors' roots are trusted, and which of them are simulated."""

from dataclasses import dataclass, field
from typing import Literal

from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.base.errors import ConfigurationError, UntrustedRootError
from strongroom.crypto import x509


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoot:
    """A root certificate that this installation trusts.

    Attributes:
        certificate_der: The root.
        simulated: True: it is the root of a simulated platform, and evidence under it protects nothing. The
            certificate must say the same in its critical extension: neither word alone is enough.
        anchor_der: The same name and key for dcap-qvl, which refuses to read the simulated root's critical extension.

    Raises:
        ConfigurationError: Configuration and certificate do not say the same.
        FormatError: Not a certificate.
    """

    certificate_der: bytes
    simulated: bool
    anchor_der: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        marked = x509.extension(self.certificate_der, SIMULATED_HARDWARE) is not None
        if marked and not self.simulated:
            raise ConfigurationError(
                "a root of simulated hardware is configured as a real one",
                action="Simulated hardware protects nothing: remove this root, or mark the entry as simulated.",
            )
        if self.simulated and not marked:
            raise ConfigurationError(
                "a root is configured as simulated, but does not say so itself",
                action="Take the root from the simulated platform's endorsements folder (roots.pem).",
            )
        anchor = self.certificate_der
        if marked:
            anchor = x509.anchor_without_extension(self.certificate_der, SIMULATED_HARDWARE)
        object.__setattr__(self, "anchor_der", anchor)

    @property
    def hardware(self) -> Literal["simulated", "real"]:
        """The word that receipts, results and `show` carry."""
        return "simulated" if self.simulated else "real"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedRoots:
    """All roots that this installation trusts. Empty refuses everything."""

    roots: tuple[TrustedRoot, ...]

    def find(self, certificate_der: bytes) -> TrustedRoot:
        """Return the trusted root that is this certificate, byte for byte.

        Raises:
            UntrustedRootError: None is.
        """
        for root in self.roots:
            if root.certificate_der == certificate_der:
                return root
        raise UntrustedRootError(
            "the evidence was made under a root that is not trusted here",
            action="If this hardware is meant to be trusted, add its vendor's root to the trusted roots.",
        )
