"""A key of an Azure vault in the place of a key service: what a dataset binding pins, and how the host reaches it."""

from typing import Annotated, Final, Literal, Self, TypeAlias

from pydantic import Field, StringConstraints, field_validator, model_validator

from strongroom.base.errors import FormatError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import VerifyingKey
from strongroom.wire.model import CompactJws, DatasetName, Hex16, Hex32, Message, OriginUrl, Url

VaultKind: TypeAlias = Literal["azure-key-vault", "azure-managed-hsm"]
"""Which service it is: they differ in the tokens they ask for and in whose attestation results they believe."""
KeyName = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,127}\Z")]
ClientId = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z._~-]{1,128}\Z")]
MetadataUrl = Annotated[str, StringConstraints(pattern=r"^http://(169\.254\.169\.254|127\.0\.0\.1:[0-9]{1,5})\Z")]
"""Azure's instance metadata service, or what stands in for it on this machine: no other address has plain HTTP."""


class VaultKey(Message):
    """One version of a key in a vault. Its digest stands in a dataset binding as `key_service`.

    That the vault, or the host in its place, gives the right key is not believed: what it gives must be the private
    half of `public_jwk`, or have the check value.

    Attributes:
        url: The vault's address, as its key identifiers spell it; its host is the name in the certificate that signs
            releases.
        key, key_version: The key's name and the one version that is used.
        kty: Its type, as the vault writes it.
        public_jwk: Of RSA keys the public half (`kty`, `n`, `e`); else None.
        check_value: Of symmetric keys: SHA-256 of what the key makes of a fixed value
            (`crypto.released_keys.check_value`); else None.
        roots: SHA-256 of the root certificates that a release's signature may end at.
        owners: Thumbprints of the keys that sign approvals and versions of the dataset.
    """

    version: Literal[1] = 1
    kind: VaultKind
    url: OriginUrl
    key: KeyName
    key_version: Hex16
    kty: Literal["RSA", "RSA-HSM", "oct", "oct-HSM"]
    public_jwk: dict[str, str] | None
    check_value: Hex32 | None
    roots: tuple[Hex32, ...] = Field(min_length=1, max_length=16)
    owners: tuple[Hex32, ...] = Field(min_length=1, max_length=64)

    @field_validator("public_jwk")
    @classmethod
    def _public_key_is_rsa(cls, jwk: dict[str, str] | None) -> dict[str, str] | None:
        if jwk is not None:
            key = VerifyingKey.from_jwk(jwk)
            if key.algorithm != "RS256" or key.to_jwk() != jwk:
                raise FormatError("a vault key's public half is an RSA JWK with nothing but kty, n and e")
        return jwk

    @model_validator(mode="after")
    def _something_identifies_the_key(self) -> Self:
        if (self.public_jwk is not None) != self.is_rsa or (self.check_value is not None) == self.is_rsa:
            msg = "an RSA key names its public half, a symmetric one its check value"
            raise ValueError(msg)
        return self

    @property
    def is_rsa(self) -> bool:
        """Whether it is an RSA key."""
        return self.kty.startswith("RSA")

    @property
    def identity(self) -> str:
        """What bindings pin: SHA-256 of this statement's canonical JSON."""
        return sha256_hex(self.to_json())

    @property
    def kid(self) -> str:
        """The key's identifier, as the vault writes it."""
        return f"{self.url}/keys/{self.key}/{self.key_version}"

    @property
    def fingerprint(self) -> str:
        """What identifies the key's value wherever it is kept: public thumbprint, or check value; 32 bytes in hex."""
        if self.public_jwk is not None:
            return VerifyingKey.from_jwk(self.public_jwk).thumbprint
        return str(self.check_value)


def parse_vault_key(text: str) -> VaultKey:
    """Read a statement about a vault's key.

    Raises:
        FormatError: Not one, or not in canonical form: one statement has one digest.
    """
    key = VaultKey.from_json(text)
    if key.to_json() != text.encode():
        raise FormatError("the vault key's statement is not in canonical form (RFC 8785, every field written out)")
    return key


class WorkloadIdentity(Message):
    """A token that Kubernetes projects into a file, exchanged for one of Entra's.

    Attributes:
        token_url: Entra's token endpoint, `https://login.microsoftonline.com/TENANT/oauth2/v2.0/token`.
        client_id: The application's or managed identity's id (`AZURE_CLIENT_ID`).
        token_file: Where the projected token is (`AZURE_FEDERATED_TOKEN_FILE`).
        authorities_pem: Whose certificates are accepted there; None for the authorities that this machine trusts.
    """

    kind: Literal["workload-identity"] = "workload-identity"
    token_url: Url
    client_id: ClientId
    token_file: str
    authorities_pem: str | None = None


class ManagedIdentity(Message):
    """A token of the virtual machine's own identity, from the metadata service.

    Attributes:
        url: The metadata service.
        client_id: Which of several identities; None for the only one.
    """

    kind: Literal["managed-identity"] = "managed-identity"
    url: MetadataUrl = "http://169.254.169.254"
    client_id: ClientId | None = None


Credential: TypeAlias = Annotated[WorkloadIdentity | ManagedIdentity, Field(discriminator="kind")]

DEFAULT_RESOURCES: Final[dict[VaultKind, str]] = {
    "azure-key-vault": "https://vault.azure.net",
    "azure-managed-hsm": "https://managedhsm.azure.net",
}
"""For whom tokens are asked; sovereign clouds have others.

Source: Azure Key Vault, "Authentication, requests and responses".
"""


class VaultAddress(Message):
    """How to use a vault's key: the host's word; a wrong one means no key, never another one.

    Attributes:
        statement: Canonical JSON of the `VaultKey` whose digest the binding pins.
        roots_pem: The certificates whose digests the statement names.
        credential: What the vault lets this machine in with. It is no secret of the data's: it opens nothing without
            evidence that meets the key's release policy.
        resource: For whom the token is asked; None for the global cloud's.
        authorities_pem: Whose certificates are accepted at the vault's address; None for those this machine trusts.
        approvals: The owner's signed approvals, by dataset; a dataset that is not in it is not opened.
    """

    statement: Annotated[str, StringConstraints(max_length=64 << 10)]
    roots_pem: str
    credential: Credential
    resource: Url | None = None
    authorities_pem: str | None = None
    approvals: dict[DatasetName, CompactJws] = Field(default={}, max_length=64)
