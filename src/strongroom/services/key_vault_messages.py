"""The bodies of Key Vault's contract. What is not named here is refused.

Source: Azure Key Vault REST API, keys, versions 7.3 to 2025-07-01: definitions.
"""

from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints

from strongroom.keys.rotation import NEVER
from strongroom.wire.model import Message

KeyOp: TypeAlias = Literal["encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey", "import", "export"]
KeyType: TypeAlias = Literal["RSA", "RSA-HSM", "EC", "EC-HSM", "oct", "oct-HSM"]
RANDOM_BYTES: Final = 128
"""As many random bytes one call asks for."""

_NONCE_LENGTH: Final = 1 << 10
_TAG = Annotated[str, StringConstraints(max_length=512)]
_Tags = Annotated[dict[_TAG, _TAG], Field(max_length=15)]
_Seconds = Annotated[int, Field(ge=0, le=NEVER)]
_Ops = Annotated[tuple[KeyOp, ...], Field(max_length=8)]
_Text = Annotated[str, StringConstraints(max_length=64)]


class AttributesBody(Message):
    """What callers set of a key's attributes; times are Unix seconds."""

    enabled: bool | None = None
    nbf: _Seconds | None = None
    exp: _Seconds | None = None
    exportable: bool | None = None


class PolicyBody(Message):
    """A release policy: `data` is base64url of its JSON."""

    content_type: str | None = Field(default=None, alias="contentType")
    data: str | None = None
    immutable: bool | None = None


class CreateBody(Message):
    """`POST /keys/{name}/create`."""

    kty: KeyType
    key_size: int | None = None
    public_exponent: Literal[65537] | None = None
    crv: str | None = None
    key_ops: _Ops | None = None
    attributes: AttributesBody = AttributesBody()
    tags: _Tags | None = None
    release_policy: PolicyBody | None = None


class JwkBody(Message):
    """A private JWK; its numbers are base64url."""

    kid: str | None = None
    kty: KeyType
    key_ops: _Ops | None = None
    crv: str | None = None
    n: str | None = None
    e: str | None = None
    d: str | None = None
    dp: str | None = None
    dq: str | None = None
    qi: str | None = None
    p: str | None = None
    q: str | None = None
    k: str | None = None
    x: str | None = None
    y: str | None = None
    key_hsm: str | None = None


class ImportBody(Message):
    """`PUT /keys/{name}`."""

    hsm: bool | None = Field(default=None, alias="Hsm")
    key: JwkBody
    attributes: AttributesBody = AttributesBody()
    tags: _Tags | None = None
    release_policy: PolicyBody | None = None


class UpdateBody(Message):
    """`PATCH /keys/{name}/{version}`."""

    key_ops: _Ops | None = None
    attributes: AttributesBody = AttributesBody()
    tags: _Tags | None = None
    release_policy: PolicyBody | None = None


class OperationBody(Message):
    """`encrypt`, `decrypt`, `wrapkey` and `unwrapkey`; all but `alg` is base64url."""

    alg: _Text
    value: str
    iv: str | None = None
    aad: str | None = None
    tag: str | None = None


class SignBody(Message):
    """`sign`; `value` is the digest."""

    alg: _Text
    value: str


class VerifyBody(Message):
    """`verify`; `value` is the signature."""

    alg: _Text
    digest: str
    value: str


class RandomBody(Message):
    """`POST /rng`."""

    count: int = Field(ge=1, le=RANDOM_BYTES)


class ReleaseBody(Message):
    """`POST /keys/{name}/{version}/release`; `target` is an attestation result."""

    target: str
    nonce: Annotated[str, StringConstraints(max_length=_NONCE_LENGTH)] | None = None
    enc: _Text | None = None


class RestoreBody(Message):
    """`POST /keys/restore`; `value` is base64url of a backup."""

    value: str


class TriggerBody(Message):
    """When an action of a rotation policy is due; ISO 8601 durations."""

    time_after_create: _Text | None = Field(default=None, alias="timeAfterCreate")
    time_before_expiry: _Text | None = Field(default=None, alias="timeBeforeExpiry")


class ActionBody(Message):
    """What an action of a rotation policy does: "Rotate" or "Notify", in any case of letters."""

    type: _Text


class LifetimeActionBody(Message):
    """An action of a rotation policy."""

    trigger: TriggerBody
    action: ActionBody


class RotationAttributesBody(Message):
    """A rotation policy's attributes; the times in it are ours, and ignored where a client sends them back."""

    expiry_time: _Text | None = Field(default=None, alias="expiryTime")
    created: int | None = None
    updated: int | None = None


class RotationPolicyBody(Message):
    """`PUT /keys/{name}/rotationpolicy`; the id is ours, and ignored."""

    id: str | None = None
    lifetime_actions: Annotated[tuple[LifetimeActionBody, ...], Field(max_length=8)] | None = Field(
        default=None, alias="lifetimeActions"
    )
    attributes: RotationAttributesBody | None = None
