"""Who calls a key service: only people it knows, as the issuers mean them, with their own roles, now.

Tokens come from a real OpenID Provider, or are signed with its keys over what it would never say; each test changes one
thing about a token that is accepted.
"""

import base64
import contextlib
import hmac
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from tests.support.identity_provider import (
    AUDIENCE,
    CLIENT,
    CLOCK,
    OTHER_AUDIENCE,
    OTHER_CLIENT,
    Authority,
    IdentityProvider,
    ProviderKey,
    running,
    segments,
)
from tests.support.key_service import KeyBench

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.secret import SecretBytes
from strongroom.clients.oidc import SignIn
from strongroom.crypto.jose import insecure_unsigned_jws
from strongroom.crypto.keys import SigningKey
from strongroom.keys import nonce as nonces
from strongroom.services.http import Call
from strongroom.services.people import People, PersonSettings, Role, configured_people, subject_identity
from strongroom.services.sign_in import OidcIssuerSettings, TokenIssuers
from strongroom.wire import key_service as wire

ALICE, BOB, EVE = "alice-7f3a", "bob-19c2", "eve-0000"


@pytest.fixture(scope="module")
def provider(tmp_path_factory: pytest.TempPathFactory) -> Iterator[IdentityProvider]:
    keys = [ProviderKey.new("first"), ProviderKey.new("rsa", "RS256")]
    emails = {ALICE: "alice@example.org", EVE: "alice@example.org"}
    folder = tmp_path_factory.mktemp("provider")
    with running(folder, keys=keys, emails=emails, groups={BOB: ["auditors"]}) as made:
        yield made


@pytest.fixture
def key() -> SigningKey:
    """Alice's registered key."""
    return SigningKey.generate("ES256")


class Door:
    """A key service whose people sign in at issuers."""

    def __init__(self, bench: KeyBench, issuers: list[OidcIssuerSettings], people: list[dict[str, Any]]) -> None:
        self.bench = bench
        bench.clock.moment = datetime.now(tz=UTC)
        self.configure(issuers, people)

    def configure(self, issuers: list[OidcIssuerSettings], people: list[dict[str, Any]]) -> None:
        """Start the service with another configuration."""
        self.people = People(
            configured_people(
                [self.bench.owner.verifying_key.to_jwk()], [PersonSettings.from_object(each) for each in people]
            ),
            audience=self.bench.identity.identity,
            issuers=TokenIssuers(issuers, clock=self.bench.clock),
            clock=self.bench.clock,
        )

    def who(self, token: str, *roles: Role) -> str:
        call = Call(path={}, query={}, authorization=f"Bearer {token}", body=b"")
        return self.people.caller(call, *(roles or tuple(Role))).name


def person(name: str, issuer: str, subject: str, *roles: str, **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "roles": list(roles),
        "signs_in": {"issuer": issuer, "subject": subject},
        **more,
    }


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


@pytest.fixture
def door(bench: KeyBench, provider: IdentityProvider, key: SigningKey) -> Door:
    people = [
        person("alice", provider.url, ALICE, "owner", "approver", key=key.verifying_key.to_jwk()),
        person("bob", provider.url, BOB, "auditor"),
    ]
    return Door(bench, [provider.settings()], people)


# --- the good path ---------------------------------------------------------------------------------------------------


def test_a_person_signs_in_at_a_real_provider(door: Door, provider: IdentityProvider) -> None:
    assert door.who(provider.access_token(ALICE)) == "alice"
    assert door.who(provider.access_token(BOB), Role.AUDITOR) == "bob"


def test_a_person_is_the_same_by_key_and_by_sign_in(door: Door, provider: IdentityProvider, key: SigningKey) -> None:
    by_key = door.bench.token(key)
    calls = [
        Call(path={}, query={}, authorization=f"Bearer {token}", body=b"")
        for token in (by_key, provider.access_token(ALICE))
    ]

    assert len({door.people.caller(call, Role.OWNER).identity for call in calls}) == 1


def test_a_signed_in_owner_has_datasets(door: Door, bench: KeyBench, provider: IdentityProvider) -> None:
    bench.restart_with(door.people)
    call = Call(
        path={},
        query={},
        authorization=f"Bearer {provider.access_token(ALICE)}",
        body=wire.NewDataset(dataset="visits").to_json(),
    )

    assert bench.datasets.create_dataset(call).status == 201
    listed = parse_json_object(bench.datasets.datasets(call).body)["datasets"]
    assert [each["dataset"] for each in listed] == ["visits"]


# --- tokens that the provider never gave -----------------------------------------------------------------------------


def forged(provider: IdentityProvider) -> str:
    return ProviderKey(kid="first", key=SigningKey.generate("ES256")).sign(provider.claims(ALICE))


def key_confusion(provider: IdentityProvider) -> str:
    """HS256 with the public key as the secret."""
    header = {"alg": "HS256", "typ": "at+jwt", "kid": "rsa"}
    signed = f"{to_b64url(canonical_json(header))}.{to_b64url(canonical_json(provider.claims(ALICE)))}"
    secret = provider.keys[1].key.verifying_key.spki
    return f"{signed}.{to_b64url(hmac.digest(secret, signed.encode(), 'sha256'))}"


def unsigned(provider: IdentityProvider) -> str:
    return insecure_unsigned_jws(canonical_json(provider.claims(ALICE)))


def unsigned_of_type(provider: IdentityProvider) -> str:
    header = {"alg": "none", "typ": "at+jwt", "kid": "first"}
    return f"{to_b64url(canonical_json(header))}.{to_b64url(canonical_json(provider.claims(ALICE)))}.AA"


def changed_after_signing(provider: IdentityProvider) -> str:
    header, _, signature = segments(provider.access_token(BOB))
    return f"{header}.{to_b64url(canonical_json(provider.claims(ALICE)))}.{signature}"


def named_twice(provider: IdentityProvider) -> str:
    """A signed payload that says two subjects: which one counts depends on the reader."""
    claims = json.dumps(provider.claims(BOB))
    payload = claims[:-1] + f', "sub": "{ALICE}"}}'
    header = to_b64url(canonical_json({"alg": "ES256", "typ": "at+jwt", "kid": "first"}))
    signed = f"{header}.{to_b64url(payload.encode())}"
    return f"{signed}.{to_b64url(provider.keys[0].key.sign(signed.encode()))}"


def named_twice_in_the_header(provider: IdentityProvider) -> str:
    text = '{"alg":"ES256","typ":"at+jwt","kid":"unknown","kid":"first"}'
    signed = f"{to_b64url(text.encode())}.{to_b64url(canonical_json(provider.claims(ALICE)))}"
    return f"{signed}.{to_b64url(provider.keys[0].key.sign(signed.encode()))}"


def key_in_the_header(provider: IdentityProvider) -> str:
    """A token that brings its own key."""
    own = SigningKey.generate("ES256")
    return ProviderKey(kid="own", key=own).sign(provider.claims(ALICE), jwk=own.verifying_key.to_jwk())


def critical_extension(provider: IdentityProvider) -> str:
    header = to_b64url(canonical_json({"alg": "ES256", "typ": "at+jwt", "kid": "first", "crit": ["exp"], "exp": 1}))
    signed = f"{header}.{to_b64url(canonical_json(provider.claims(ALICE)))}"
    return f"{signed}.{to_b64url(provider.keys[0].key.sign(signed.encode()))}"


@pytest.mark.parametrize(
    "forge",
    [
        forged,
        key_confusion,
        unsigned,
        unsigned_of_type,
        changed_after_signing,
        named_twice,
        named_twice_in_the_header,
        key_in_the_header,
        critical_extension,
    ],
)
def test_refuses_a_token_that_the_issuer_did_not_sign(
    door: Door, provider: IdentityProvider, forge: Callable[[IdentityProvider], str]
) -> None:
    assert door.who(provider.keys[0].sign(provider.claims(ALICE))) == "alice"
    with pytest.raises(AuthenticationError):
        door.who(forge(provider))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"exp": -1, "iat": -200}, "expired"),
        ({"iat": 3600, "exp": 3700}, "not yet valid"),
        ({"nbf": 3600}, "not yet valid"),
        ({"exp": 86_400}, "too long"),
        ({"iat": 0, "exp": 0}, "too long"),
        ({"exp": None}, "does not hold"),
        ({"exp": True}, "does not hold"),
        ({"iat": "yesterday"}, "does not hold"),
        ({"aud": OTHER_AUDIENCE}, "for another service"),
        ({"aud": [AUDIENCE, OTHER_AUDIENCE]}, "for others too"),
        ({"aud": None}, "for another service"),
        ({"client_id": OTHER_CLIENT}, "another client"),
        ({"azp": OTHER_CLIENT}, "another client"),
        ({"client_id": None}, "another client"),
        ({"iss": "https://elsewhere.test"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"sub": ""}, "does not hold"),
        ({"sub": None}, "does not hold"),
        ({"sub": EVE}, "nobody this service knows"),
        ({"nonce": "n"}, "does not hold"),
        ({"cnf": {"jkt": "x"}}, "does not hold"),
    ],
    ids=str,
)
def test_refuses_a_token_that_says_something_else(
    door: Door, provider: IdentityProvider, changed: dict[str, Any], says: str
) -> None:
    now = int(datetime.now(tz=UTC).timestamp())
    said = {name: now + value if type(value) is int else value for name, value in changed.items()}
    with pytest.raises(AuthenticationError, match=says):
        door.who(provider.keys[0].sign(provider.claims(ALICE, **said)))


@pytest.mark.parametrize("typ", ["JWT", "dpop+jwt", None, "strongroom-approval+jws"])
def test_refuses_a_token_of_another_type(door: Door, provider: IdentityProvider, typ: str | None) -> None:
    with pytest.raises(AuthenticationError):
        door.who(provider.keys[0].sign(provider.claims(ALICE), typ=typ))


def test_refuses_an_algorithm_that_is_not_allowed(door: Door, provider: IdentityProvider) -> None:
    token = provider.keys[1].sign(provider.claims(ALICE))
    assert door.who(token) == "alice"
    door.configure([provider.settings(algorithms=["ES256"])], [person("alice", provider.url, ALICE, "owner")])
    with pytest.raises(AuthenticationError):
        door.who(token)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = ("iss", "sub", "aud", "client_id", "azp", "iat", "nbf", "exp", "nonce", "cnf", "groups")


@given(name=st.sampled_from(NAMES), value=JSON)
@hypothesis_settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_signed_claims_are_accepted_or_refused_clearly(
    door: Door, provider: IdentityProvider, name: str, value: Any
) -> None:
    with contextlib.suppress(AuthenticationError):
        assert door.who(provider.keys[0].sign({**provider.claims(ALICE), name: value})) == "alice"


@given(text=st.text(max_size=100) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
@hypothesis_settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_text_is_refused_as_a_token(door: Door, text: str) -> None:
    with pytest.raises(AuthenticationError):
        door.who(text)


# --- tokens that the provider gave, to somebody else or for something else -------------------------------------------


def test_refuses_a_token_for_another_service(door: Door, provider: IdentityProvider) -> None:
    with pytest.raises(AuthenticationError, match="another service"):
        door.who(provider.access_token(ALICE, audience=OTHER_AUDIENCE))


def test_refuses_a_token_of_another_client(door: Door, provider: IdentityProvider) -> None:
    with pytest.raises(AuthenticationError, match="another client"):
        door.who(provider.access_token(ALICE, client=OTHER_CLIENT))


def test_refuses_an_id_token_even_where_the_types_do_not_differ(door: Door, provider: IdentityProvider) -> None:
    id_token = provider.id_token(ALICE)
    for token_type in ("at+jwt", "JWT"):
        door.configure([provider.settings(token_type=token_type)], [person("alice", provider.url, ALICE, "owner")])
        with pytest.raises(AuthenticationError):
            door.who(id_token)


def test_refuses_a_configuration_in_which_id_tokens_could_pass(provider: IdentityProvider) -> None:
    with pytest.raises(StrongroomError, match="audience is not a client"):
        provider.settings(audience=CLIENT)


def test_an_e_mail_address_makes_nobody_somebody_else(door: Door, provider: IdentityProvider) -> None:
    with pytest.raises(AuthenticationError, match="nobody this service knows"):
        door.who(provider.access_token(EVE, scopes=["email"]))


def test_a_subject_is_one_issuers_alone(door: Door, provider: IdentityProvider, tmp_path: Path) -> None:
    with running(tmp_path / "other") as other:
        people = [person("alice", provider.url, ALICE, "owner"), person("eve", other.url, EVE, "auditor")]
        door.configure([provider.settings(), other.settings()], people)
        assert door.who(other.access_token(EVE)) == "eve"
        with pytest.raises(AuthenticationError, match="nobody this service knows"):
            door.who(other.access_token(ALICE))
        with pytest.raises(AuthenticationError):  # the one's word under the other's key
            door.who(other.keys[0].sign(provider.claims(ALICE)))
    assert subject_identity(provider.url, ALICE) != subject_identity(other.url, ALICE)


# --- roles -----------------------------------------------------------------------------------------------------------


def test_a_role_that_a_token_claims_is_not_had(door: Door, provider: IdentityProvider) -> None:
    token = provider.keys[0].sign(provider.claims(BOB, roles=["owner"], groups=["owner"], scope="owner"))
    with pytest.raises(RefusedError) as refusal:
        door.who(token, Role.OWNER)
    assert [(each.expected, each.actual) for each in refusal.value.mismatches] == [("owner", "auditor")]


def test_an_issuer_narrows_roles_and_widens_none(door: Door, provider: IdentityProvider) -> None:
    mapping = {"claim": "groups", "roles": {"auditors": ["auditor"], "chiefs": ["owner", "auditor"]}}
    people = [
        person("alice", provider.url, ALICE, "owner", "auditor"),
        person("bob", provider.url, BOB, "auditor"),
    ]
    door.configure([provider.settings(roles=mapping)], people)
    assert door.who(provider.access_token(BOB), Role.AUDITOR) == "bob"
    with pytest.raises(RefusedError):  # configured, and not in a group that means it
        door.who(provider.access_token(ALICE), Role.OWNER)
    chief = provider.keys[0].sign(provider.claims(BOB, groups=["chiefs"]))
    with pytest.raises(RefusedError):  # in the group, and not configured
        door.who(chief, Role.OWNER)
    assert door.who(provider.keys[0].sign(provider.claims(ALICE, groups=["chiefs"])), Role.OWNER) == "alice"


def test_nobody_passes_where_no_role_is_named(door: Door, bench: KeyBench) -> None:
    call = Call(path={}, query={}, authorization=f"Bearer {bench.token()}", body=b"")
    with pytest.raises(RefusedError):
        door.people.caller(call)


def test_a_person_who_was_taken_out_is_refused_with_a_token_that_still_lives(
    door: Door, provider: IdentityProvider, key: SigningKey
) -> None:
    token, by_key = provider.access_token(ALICE), door.bench.token(key)
    assert door.who(token) == door.who(by_key) == "alice"
    door.configure([provider.settings()], [person("bob", provider.url, BOB, "auditor")])
    for old in (token, by_key):
        with pytest.raises(AuthenticationError):
            door.who(old)


@pytest.mark.parametrize("same", ["name", "key", "subject"])
def test_refuses_a_configuration_that_mixes_two_people_up(
    door: Door, provider: IdentityProvider, key: SigningKey, same: str
) -> None:
    one = person("alice", provider.url, ALICE, "owner", key=key.verifying_key.to_jwk())
    two = person("bob", provider.url, BOB, "auditor", key=SigningKey.generate("ES256").verifying_key.to_jwk())
    two |= {"signs_in": one["signs_in"]} if same == "subject" else {same: one[same]}
    with pytest.raises(ConfigurationError, match="belongs to two people"):
        door.configure([provider.settings()], [one, two])


# --- the issuer's keys -----------------------------------------------------------------------------------------------


@pytest.fixture
def own_provider(tmp_path: Path) -> Iterator[IdentityProvider]:
    """A provider that this test alone restarts."""
    with running(tmp_path / "own") as made:
        yield made


def test_keys_are_rotated_and_a_withdrawn_one_is_believed_no_more(bench: KeyBench, own_provider: Any) -> None:
    door = Door(bench, [own_provider.settings()], [person("alice", own_provider.url, ALICE, "owner")])
    old = own_provider.access_token(ALICE)
    assert door.who(old) == "alice"
    own_provider.keys = [ProviderKey.new("second")]
    own_provider.restart()
    bench.clock.advance(seconds=11)
    assert door.who(own_provider.access_token(ALICE)) == "alice"
    with pytest.raises(AuthenticationError):
        door.who(old)


def test_a_withdrawn_key_is_believed_for_five_minutes_at_most(bench: KeyBench, own_provider: Any) -> None:
    door = Door(bench, [own_provider.settings()], [person("alice", own_provider.url, ALICE, "owner")])
    withdrawn = own_provider.keys[0]
    assert door.who(own_provider.access_token(ALICE)) == "alice"
    own_provider.keys = [ProviderKey.new("second")]
    own_provider.restart()
    bench.clock.advance(minutes=5)
    now = int(bench.clock.now().timestamp())
    with pytest.raises(AuthenticationError):
        door.who(withdrawn.sign(own_provider.claims(ALICE, iat=now, exp=now + 60)))


def test_keys_are_believed_for_a_bounded_time_without_the_issuer(bench: KeyBench, own_provider: Any) -> None:
    settings = own_provider.settings(keys_without_issuer_s=600)
    door = Door(bench, [settings], [person("alice", own_provider.url, ALICE, "owner")])
    assert door.who(own_provider.access_token(ALICE)) == "alice"
    own_provider.stop()

    def fresh() -> str:
        now = int(bench.clock.now().timestamp())
        return str(own_provider.keys[0].sign(own_provider.claims(ALICE, iat=now, exp=now + 60)))

    bench.clock.advance(minutes=14)
    assert door.who(fresh()) == "alice"
    bench.clock.advance(minutes=2)
    with pytest.raises(UnavailableError, match="does not answer"):
        door.who(fresh())
    own_provider.start()
    bench.clock.advance(seconds=11)
    assert door.who(fresh()) == "alice"


def test_nobody_signs_in_before_the_issuer_ever_answered(bench: KeyBench, own_provider: Any) -> None:
    token = own_provider.access_token(ALICE)
    own_provider.stop()
    door = Door(bench, [own_provider.settings()], [person("alice", own_provider.url, ALICE, "owner")])
    for _ in range(2):
        with pytest.raises(UnavailableError):
            door.who(token)


def test_refuses_keys_of_a_server_that_is_not_the_issuer(bench: KeyBench, own_provider: Any, tmp_path: Path) -> None:
    """Somebody else's server in the issuer's place, with keys of its own."""
    settings = own_provider.settings()
    genuine = own_provider.authority
    own_provider.authority = Authority(folder=tmp_path / "false")
    own_provider.keys = [ProviderKey.new("first")]
    own_provider.restart()
    door = Door(bench, [settings], [person("alice", own_provider.url, ALICE, "owner")])
    with pytest.raises(UnavailableError):
        door.who(own_provider.keys[0].sign(own_provider.claims(ALICE)))
    assert settings.authorities_pem == genuine.pem
    with pytest.raises(StrongroomError, match="is not the issuer"):
        SignIn(own_provider.offer(authorities_pem=genuine.pem), clock=bench.clock)


def test_refuses_a_provider_that_speaks_for_another_issuer(bench: KeyBench, own_provider: Any) -> None:
    """The right address, in another spelling than the issuer's own: mix-up."""
    settings = own_provider.settings(issuer=f"{own_provider.url}/")
    door = Door(bench, [settings], [person("alice", f"{own_provider.url}/", ALICE, "owner")])
    with pytest.raises(UnavailableError):
        door.who(own_provider.keys[0].sign(own_provider.claims(ALICE, iss=f"{own_provider.url}/")))


# --- at the command line ---------------------------------------------------------------------------------------------


def test_refuses_an_answer_that_belongs_to_another_sign_in(provider: IdentityProvider) -> None:
    mine = SignIn(provider.offer(), clock=CLOCK)
    theirs = SignIn(provider.offer(), clock=CLOCK)
    begun, other = mine.begin("http://127.0.0.1/signed-in"), theirs.begin("http://127.0.0.1/signed-in")
    answer = provider.browser(EVE).answer(other.url)
    with pytest.raises(AuthenticationError, match="another sign-in"):
        mine.redeem(begun, answer)
    with pytest.raises(AuthenticationError, match="another issuer"):
        theirs.redeem(other, {**answer, "iss": "https://elsewhere.test"})
    with pytest.raises(AuthenticationError, match="another issuer"):
        theirs.redeem(other, {name: value for name, value in answer.items() if name != "iss"})
    with pytest.raises(AuthenticationError, match="refused"):  # the code, without what proves who asked for it (PKCE)
        mine.redeem(begun, {**answer, "state": begun.state.reveal().decode()})


def test_a_refresh_token_is_good_once(provider: IdentityProvider) -> None:
    session = SignIn(provider.offer(), clock=CLOCK)
    first = provider.sign_in(ALICE)
    second = session.refresh(first)
    assert second.access != first.access
    with pytest.raises(AuthenticationError, match="refused"):
        session.refresh(first)
    with pytest.raises(AuthenticationError, match="refused"):  # and its use a second time ends the whole sign-in
        session.refresh(second)


# --- timing ----------------------------------------------------------------------------------------------------------


def test_secrets_are_compared_in_constant_time(
    bench: KeyBench, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[tuple[bytes, bytes]] = []
    genuine = hmac.compare_digest

    def watched(one: Any, other: Any) -> bool:
        compared.append((bytes(one), bytes(other)))
        return genuine(one, other)

    monkeypatch.setattr(hmac, "compare_digest", watched)
    made, _ = nonces.make_nonce(bench.store.nonce_key, now=bench.clock.now())
    nonces.verify_nonce(bench.store.nonce_key, made, now=bench.clock.now())
    assert len(compared) == 1

    session = SignIn(provider.offer(), clock=CLOCK)
    begun = session.begin("http://127.0.0.1/signed-in")
    with pytest.raises(AuthenticationError, match="another sign-in"):
        session.redeem(begun, {"state": "guess", "code": "x"})
    assert compared[-1] == (b"guess", begun.state.reveal())

    assert SecretBytes(b"one") != SecretBytes(b"two")
    assert compared[-1] == (b"one", b"two")


def test_a_token_in_another_spelling_is_not_the_token(door: Door, provider: IdentityProvider) -> None:
    token = provider.access_token(ALICE)
    header, payload, signature = segments(token)
    padded = base64.urlsafe_b64encode(base64.urlsafe_b64decode(signature + "==") + b"\0").decode().rstrip("=")
    for other in (f"{header}.{payload}.{padded}", f"{header}=.{payload}.{signature}", token + "\n", f"{token}.x"):
        with pytest.raises(AuthenticationError):
            door.who(other)


def test_tokens_lose_their_worth_with_time(door: Door, provider: IdentityProvider, bench: KeyBench) -> None:
    token = provider.access_token(ALICE)
    bench.clock.advance(seconds=provider.lifetime_s + 5)
    with pytest.raises(AuthenticationError, match="expired"):
        door.who(token)
    bench.clock.advance(hours=-2)
    with pytest.raises(AuthenticationError, match="not yet valid"):
        door.who(token)
