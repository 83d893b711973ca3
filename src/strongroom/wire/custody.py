"""A master key in the custody of several people: who they are, what each holds, and how a service is unlocked."""

from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from strongroom.wire.model import B64Url, CompactJwe, Hex16, Hex32, Message

MAX_CUSTODIANS: Final = 64
_CustodianName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?\Z")]


class Custodian(Message):
    """One of those who hold a share.

    Attributes:
        number: Which share, from 1.
        name: What the others call this custodian.
        commitment: SHA-256 that binds the share's number and value; see `keys.custody`.
    """

    number: int = Field(ge=1, le=MAX_CUSTODIANS)
    name: _CustodianName
    commitment: Hex32


class CustodyRoster(Message):
    """What everyone may know of a master key in custody. Its SHA-256 stands in the service's configuration.

    Attributes:
        custody: Names this master key.
        threshold: How many custodians it takes.
        custodians: All of them, by number.
        key_check: SHA-256 that only the whole master key meets.
    """

    version: Literal[1] = 1
    custody: Hex16
    threshold: int = Field(ge=2, le=MAX_CUSTODIANS)
    custodians: tuple[Custodian, ...] = Field(min_length=2, max_length=MAX_CUSTODIANS)
    key_check: Hex32

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if [each.number for each in self.custodians] != list(range(1, len(self.custodians) + 1)):
            raise ValueError("the custodians are not numbered from 1 without a gap")
        if len({each.name for each in self.custodians}) != len(self.custodians):
            raise ValueError("two custodians have the same name")
        if self.threshold > len(self.custodians):
            raise ValueError("it takes more custodians than there are")
        return self


class CustodyShare(Message):
    """A custodian's share. Only ever sealed: to the custodian at rest, to the service when it is unlocked."""

    version: Literal[1] = 1
    custody: Hex16
    number: int = Field(ge=1, le=MAX_CUSTODIANS)
    share: B64Url


class CustodyStatement(Message):
    """What a locked service says about itself; a quote covers its SHA-256, and nothing else vouches for it.

    Attributes:
        configuration: SHA-256 of the effective configuration, as in `ServiceStatement`.
        roster: SHA-256 of the roster, canonical JSON.
        sealing_key: The public JWK of an RSA key that this very process made: shares are sealed to it.
        nonce: The custodian's, so that the statement is fresh.
    """

    version: Literal[1] = 1
    service: Literal["key-service"]
    mode: Literal["attested"]
    configuration: Hex32
    roster: Hex32
    sealing_key: dict[str, Any]
    nonce: str


class CustodyEvidence(Message):
    """Answer to `GET /strongroom/v1/custody?nonce=` of a locked service.

    Attributes:
        statement: The exact bytes of the `CustodyStatement`, base64url.
        quote: Over the statement's SHA-256.
        endorsements: The collateral that verifies the quote, JSON text.
        roster: Which custodians there are.
        given: The numbers of the shares that were given since the service started.
    """

    version: Literal[1] = 1
    statement: B64Url
    quote: B64Url
    endorsements: str
    roster: CustodyRoster
    given: tuple[int, ...]


class GivenShare(Message):
    """A custodian unlocks: `POST /strongroom/v1/custody`. `sealed` opens to a `CustodyShare`."""

    version: Literal[1] = 1
    sealed: CompactJwe


class CustodyProgress(Message):
    """Answer to `GivenShare`: how far it is.

    Attributes:
        needed: How many shares it takes.
        given: The numbers of those that are there.
        unlocked: Whether the service opens its store now.
    """

    version: Literal[1] = 1
    needed: int
    given: tuple[int, ...]
    unlocked: bool


def sealing_context(*, roster: str, configuration: str) -> dict[str, str]:
    """Return what a share is sealed for: this custody, at a service of this configuration.

    Args:
        roster: The roster's SHA-256.
        configuration: The SHA-256 of the service's effective configuration.
    """
    return {"purpose": "custody-share", "roster": roster, "configuration": configuration}
