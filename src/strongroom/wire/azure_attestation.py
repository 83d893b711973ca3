"""Azure Attestation as the attestation service of a run: how an agent reaches it, and what an owner pins of it."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from strongroom.wire.model import Hex32, Message, OriginUrl, Url

KeyId = Annotated[str, StringConstraints(pattern=r"^[!-~]{1,200}\Z")]
"""What a provider calls one of its keys (`kid`): printable text of its own choosing."""


class EndorsementServers(Message):
    """Where the hardware vendors' endorsements are to be had: signed documents, so that nobody has to be trusted.

    Attributes:
        pcs: Intel's certification service, or a cache that speaks like it (PCCS); None for Intel's own.
        kds: AMD's key distribution service, or a cache that speaks like it; None for AMD's own.
        authorities_pem: Whose certificates are accepted there; None for those that the machine trusts.
    """

    pcs: Url | None = None
    kds: Url | None = None
    authorities_pem: str | None = None


class AzureAttestationAddress(Message):
    """Where a provider of Azure Attestation answers. Certificate authorities vouch for it, as for any public server.

    Attributes:
        url: Its address, spelled as its results name their issuer (`iss`).
        authorities_pem: Whose certificates are accepted there; None for those that the machine trusts.
        endorsements: Where agents get what receipts need and a provider does not hand out.
    """

    kind: Literal["azure-attestation"]
    url: OriginUrl
    authorities_pem: str | None = None
    endorsements: EndorsementServers = EndorsementServers()


class TrustedAzureAttestation(Message):
    """A provider of Azure Attestation, as it was pinned.

    Attributes:
        address: How it is reached.
        certificates: SHA-256 of the certificates of its signing keys, as it published them when it was pinned; those
            that it published before stay, for the receipts of earlier runs. Nobody certifies them: a key that is not
            among them is not the provider's here.
    """

    address: AzureAttestationAddress
    certificates: tuple[Hex32, ...] = Field(min_length=1, max_length=256)

    @property
    def url(self) -> str:
        """The issuer that its results name."""
        return self.address.url

    @property
    def own_url(self) -> str:
        """The same: it has one address, from wherever it is reached (as `TrustedService.own_url`)."""
        return self.address.url
