"""Who calls: people, their roles, and the two ways in which they prove who they are.

A person signs short-lived tokens with a key that the service knows (the embedded way), or signs in at an OIDC issuer
that the service trusts; who has both is the same person either way. What needs a person's signature (approvals,
rosters, tickets) needs the key.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, StringConstraints, model_validator

from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    Mismatch,
    RoleError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.services.http import Call
from strongroom.services.sign_in import OidcIssuerSettings, SignedIn, TokenIssuers
from strongroom.wire.key_service import PERSON_TOKEN_TYP, PersonToken
from strongroom.wire.model import Message, Url

PersonName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?\Z")]
"""How a service calls a person: lower-case letters, digits, inner dots, hyphens and underscores. No e-mail address:
those change hands."""


class Role(StrEnum):
    """What a person may do. Roles are held side by side; none implies another.

    Attributes:
        OWNER: Has datasets: makes and fills them, opens them, approves and revokes, has keys.
        APPROVER: Approves and revokes for datasets whose roster names him; sees nothing that is in them.
        SUBMITTER: Signs run tickets; sees his own runs.
        AUDITOR: Sees everything that is not secret, the whole log too, and changes nothing.
    """

    OWNER = "owner"
    APPROVER = "approver"
    SUBMITTER = "submitter"
    AUDITOR = "auditor"


_OWNERS_ROLES: Final = frozenset({Role.OWNER, Role.APPROVER, Role.SUBMITTER})
_REMEMBERED_CLAIMS: Final = 1024
_REMEMBERED_BYTES: Final = 1024
_SUBJECT_CONTEXT: Final = "strongroom/subject/v1"


class SubjectSettings(Message):
    """Whom an issuer means.

    Attributes:
        issuer: The issuer's address, exactly as its tokens say it (`iss`).
        subject: What its tokens say in the claim that names people there (`sub`, unless configured otherwise).
    """

    issuer: Url
    subject: Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]+\Z", max_length=255)]


class PersonSettings(Message):
    """A person whom a service knows.

    Attributes:
        name: How the service calls him.
        roles: What he may do.
        key: The public JWK of his signing key; None: he signs in at an issuer only, and signs nothing.
        signs_in: Whom an issuer means by him; None: he has his key only.
    """

    name: PersonName
    roles: tuple[Role, ...] = Field(min_length=1, max_length=len(Role))
    key: dict[str, str] | None = None
    signs_in: SubjectSettings | None = None

    @model_validator(mode="after")
    def _can_prove_who_he_is(self) -> Self:
        if self.key is None and self.signs_in is None:
            raise ValueError("a person has a key, or signs in at an issuer, or both")
        return self


class PeopleSettings(Message):
    """What a service's configuration says of people.

    Attributes:
        owners: Public JWKs of owners without further ado: each owns, approves and submits.
        people: Further people, with names and roles.
        issuers: The OIDC issuers at which people may sign in.
    """

    owners: tuple[dict[str, str], ...] = ()
    people: tuple[PersonSettings, ...] = ()
    issuers: tuple[OidcIssuerSettings, ...] = ()

    @model_validator(mode="after")
    def _somebody_owns_what_is_here(self) -> Self:
        if not self.owners and not any(Role.OWNER in person.roles for person in self.people):
            raise ValueError("the configuration names no owner")
        return self


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person whom a service knows.

    Attributes:
        identity: What records and the log call him: his key's thumbprint, or a digest of issuer and subject.
        name: How the service calls him.
        roles: What he may do.
        key: His signing key, if the service knows one.
        subject: Whom an issuer means by him: issuer and subject.
    """

    identity: str
    name: str
    roles: frozenset[Role]
    key: VerifyingKey | None = None
    subject: tuple[str, str] | None = None

    def may(self, *roles: Role) -> bool:
        """Return whether he has one of these roles."""
        return not self.roles.isdisjoint(roles)


class People:
    """Everybody whom a service knows. Threads may share it.

    Args:
        people: The people; names, keys and subjects are theirs alone.
        audience: The service's identity, which tokens signed with keys must name.
        issuers: Whose sign-in is believed.
        clock: For the validity of tokens.

    Raises:
        ConfigurationError: Two people have the same name, key or subject.
    """

    def __init__(self, people: Iterable[Person], *, audience: str, issuers: TokenIssuers, clock: Clock) -> None:
        everybody = tuple(people)
        self._audience = audience
        self._issuers = issuers
        self._clock = clock
        _demand_distinct([person.name for person in everybody], "a name")
        _demand_distinct([person.identity for person in everybody], "a key")
        _demand_distinct([person.subject for person in everybody if person.subject], "a subject of an issuer")
        self._by_key = {person.key.thumbprint: person for person in everybody if person.key}
        self._by_subject = {person.subject: person for person in everybody if person.subject}

    @property
    def issuers(self) -> TokenIssuers:
        """Whose sign-in is believed."""
        return self._issuers

    def keys(self, *roles: Role) -> dict[str, VerifyingKey]:
        """Return the keys, by thumbprint, of the people who have one of these roles."""
        return {
            name: person.key for name, person in self._by_key.items() if person.key is not None and person.may(*roles)
        }

    def caller(self, call: Call, *roles: Role) -> Person:
        """Return the person who calls, with the roles that he has in this call.

        Args:
            call: The call, with a bearer token.
            roles: One of these he must have; deny by default: none named, nobody passes.

        Raises:
            AuthenticationError: No token, or one that does not hold.
            RoleError: A known person, who has none of these roles.
            UnavailableError: The issuer's keys are needed and it does not answer.
        """
        person = self._authenticate(call)
        if not person.may(*roles):
            raise RoleError(
                f"{person.name} may not do this here",
                action="Ask whoever runs the service for the role.",
                mismatches=(Mismatch(name="role", expected=_words(roles), actual=_words(person.roles)),),
            )
        return person

    def _authenticate(self, call: Call) -> Person:
        scheme, _, token = call.authorization.partition(" ")
        if scheme.lower() != "bearer" or not token:
            raise AuthenticationError(
                "a bearer token is needed",
                action="Sign a token with your key (the commands do), or sign in: strongroom login",
            )
        try:
            header = unverified_header(token)
            if header.get("typ") == PERSON_TOKEN_TYP:
                return self._by_key_token(token, kid=header.get("kid"))
            return self._signed_in(self._issuers.verify(token))
        except (FormatError, VerificationError) as error:
            raise AuthenticationError(
                "the bearer token does not hold", action="Sign a new token with your key, or sign in again."
            ) from error

    def _by_key_token(self, token: str, *, kid: object) -> Person:
        """Return the person whose key signed a token.

        1. The token's header names a known person's key (`kid`), and the signature holds.
        2. Its subject is that key, its audience is this service.
        3. It lives at most five minutes, and lives now.
        """
        person = self._by_key.get(kid) if isinstance(kid, str) else None
        if person is None or person.key is None:
            raise AuthenticationError(
                "the token is not signed by anybody this service knows",
                action="Use the key of a person whom the service's configuration names.",
            )
        payload = verify_jws(token, key=person.key, typ=PERSON_TOKEN_TYP).payload
        claims = _claims_in(payload) if len(payload) <= _REMEMBERED_BYTES else PersonToken.from_json(payload)
        now = self._clock.now().timestamp()
        if claims.aud != self._audience or claims.sub != kid:
            raise AuthenticationError(
                "the bearer token is for another service or of another person", action="Sign a token for this service."
            )
        if claims.exp - claims.iat > LIMITS.person_token_lifetime_s or claims.exp < claims.iat:
            raise AuthenticationError("the bearer token lives longer than five minutes")
        if not claims.iat - LIMITS.clock_skew_s <= now < claims.exp:
            raise AuthenticationError(
                "the bearer token is expired or not yet valid", action="Check this machine's clock and try again."
            )
        return person

    def _signed_in(self, signed_in: SignedIn) -> Person:
        """Return the person whom an issuer means, with at most the roles that the issuer says."""
        person = self._by_subject.get((signed_in.issuer, signed_in.subject))
        if person is None:
            raise AuthenticationError(
                "whoever signed in is nobody this service knows",
                action="Have your issuer and subject put into the service's configuration.",
            )
        if signed_in.roles is None:
            return person
        roles = frozenset(role for role in person.roles if role.value in signed_in.roles)
        return Person(identity=person.identity, name=person.name, roles=roles, key=person.key, subject=person.subject)


@functools.lru_cache(maxsize=_REMEMBERED_CLAIMS)
def _claims_in(payload: bytes) -> PersonToken:
    """Return what a token says whose signature holds; whether it is for us and lives now is asked each time."""
    return PersonToken.from_json(payload)


def configured_people(owners: Sequence[Mapping[str, str]], people: Sequence[PersonSettings]) -> tuple[Person, ...]:
    """Return the people of a service's configuration.

    Args:
        owners: Public JWKs of owners without further ado: each owns, approves and submits. A sole one is also the
            auditor, because everything here is his; of several nobody sees the others' affairs.
        people: People with names and roles.

    Raises:
        ConfigurationError: A key is not a public JWK, or nobody is an owner.
    """
    is_alone = len(owners) == 1 and not people
    roles = _OWNERS_ROLES | {Role.AUDITOR} if is_alone else _OWNERS_ROLES
    found = [_owner(jwk, roles) for jwk in owners] + [_person(settings) for settings in people]
    if not any(person.may(Role.OWNER) for person in found):
        raise ConfigurationError("the configuration names no owner", action="Give at least one person the role owner.")
    return tuple(found)


def configuration_of_people(
    owners: Sequence[Mapping[str, str]], people: Sequence[PersonSettings], issuers: Sequence[OidcIssuerSettings]
) -> dict[str, Json]:
    """Return who is believed, as part of what a service's configuration digest covers.

    Raises:
        ConfigurationError: A key is not a public JWK, or nobody is an owner.
    """
    configured_people(owners, people)
    said: dict[str, Json] = {"owners": sorted(_key(jwk).thumbprint for jwk in owners)}
    if people:
        said["people"] = [_said(each) for each in sorted(people, key=lambda each: each.name)]
    if issuers:
        said["issuers"] = [each.model_dump(mode="json") for each in sorted(issuers, key=lambda each: each.issuer)]
    return said


def _said(person: PersonSettings) -> Json:
    return {
        "name": person.name,
        "roles": sorted(role.value for role in person.roles),
        "key": _key(person.key).thumbprint if person.key is not None else None,
        "signs_in": person.signs_in.model_dump(mode="json") if person.signs_in else None,
    }


def subject_identity(issuer: str, subject: str) -> str:
    """Return what records call a person who has no key: 64 hexadecimal digits, of issuer and subject together."""
    return hashlib.sha256(canonical_json([_SUBJECT_CONTEXT, issuer, subject])).hexdigest()


def _owner(jwk: Mapping[str, str], roles: frozenset[Role]) -> Person:
    key = _key(jwk)
    return Person(identity=key.thumbprint, name=f"owner-{key.thumbprint[:12]}", roles=roles, key=key)


def _person(settings: PersonSettings) -> Person:
    key = _key(settings.key) if settings.key is not None else None
    subject = (settings.signs_in.issuer, settings.signs_in.subject) if settings.signs_in else None
    identity = key.thumbprint if key else subject_identity(*subject) if subject else ""
    return Person(identity=identity, name=settings.name, roles=frozenset(settings.roles), key=key, subject=subject)


def _key(jwk: Mapping[str, str]) -> VerifyingKey:
    try:
        return VerifyingKey.from_jwk(jwk)
    except FormatError as error:
        raise ConfigurationError("a person's key in the configuration is not a public JWK") from error


def _demand_distinct(values: Sequence[object], what: str) -> None:
    if len(set(values)) != len(values):
        raise ConfigurationError(f"{what} belongs to two people", action="Give each person one of his own.")


def _words(roles: Iterable[Role]) -> str:
    return " or ".join(sorted(roles)) or "none"
