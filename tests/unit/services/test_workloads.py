"""Service accounts' tokens: what a key service believes, and which clusters' keys its configuration names."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import MovableClock
from tests.support.platform import NOW
from tests.support.workloads import CLUSTER_URL, DRIVER, FakeCluster

from strongroom.base.encoding import to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.services.workloads import (
    WorkloadIssuers,
    WorkloadIssuerSettings,
    pinned_workload_issuers,
    with_key_sets,
)
from strongroom.wire.pod import token_audience

KEY_SERVICE = "b2" * 32
CLUSTER = FakeCluster(key_service=KEY_SERVICE)
POD = {
    "namespace": "team-a",
    "pod": {"name": "driver-pod", "uid": "u-1"},
    "serviceaccount": {"name": "driver", "uid": "u-2"},
}


def issuers(*settings: WorkloadIssuerSettings, **clock: Any) -> WorkloadIssuers:
    at = MovableClock()
    at.advance(**clock)
    return WorkloadIssuers(settings or [CLUSTER.settings()], key_service=KEY_SERVICE, clock=at)


def token(**changed: Any) -> str:
    return CLUSTER.token(now=NOW, **changed)


def test_a_token_says_who_the_pod_is() -> None:
    made = token(**{"kubernetes.io": POD})
    verified = issuers().verify(made)
    assert verified.workload.model_dump() == {
        "issuer": CLUSTER_URL,
        "subject": DRIVER,
        "pod": "driver-pod",
        "pod_uid": "u-1",
    }
    assert verified.token_id == sha256_hex(unverified_payload(made))
    assert verified.expires_at == int(NOW.timestamp()) + 600


@pytest.mark.parametrize("algorithm", ["RS256", "ES256"])
def test_the_algorithms_of_clusters_are_accepted(algorithm: Any) -> None:
    cluster = FakeCluster(key_service=KEY_SERVICE, key=SigningKey.generate(algorithm))
    assert issuers(cluster.settings()).verify(cluster.token(now=NOW)).workload.subject == DRIVER


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"iss": "https://other.example"}, AuthenticationError),
        ({"iss": f"{CLUSTER_URL}/"}, AuthenticationError),
        ({"iss": [CLUSTER_URL]}, AuthenticationError),
        ({"aud": [token_audience("c3" * 32)]}, AuthenticationError),
        ({"aud": [token_audience(KEY_SERVICE), "https://kubernetes.default.svc"]}, AuthenticationError),
        ({"aud": [token_audience(KEY_SERVICE)] * 2}, AuthenticationError),
        ({"aud": KEY_SERVICE}, AuthenticationError),
        ({"aud": []}, AuthenticationError),
        ({"aud": None}, AuthenticationError),
        ({"exp": int(NOW.timestamp())}, AuthenticationError),
        ({"exp": int(NOW.timestamp()) + 3601}, AuthenticationError),
        ({"exp": int(NOW.timestamp()) + 600.5}, FormatError),
        ({"exp": None}, FormatError),
        ({"exp": True}, FormatError),
        ({"iat": "0"}, FormatError),
        ({"iat": int(NOW.timestamp()) - 4000}, AuthenticationError),
        ({"nbf": int(NOW.timestamp()) + LIMITS.clock_skew_s + 1}, AuthenticationError),
        ({"nbf": None}, FormatError),
        ({"sub": "system:serviceaccount:team-b:driver"}, FormatError),
        ({"sub": "system:serviceaccount:team-a:driver "}, FormatError),
        ({"sub": "driver"}, FormatError),
        ({"sub": None}, FormatError),
        ({"kubernetes.io": None}, FormatError),
        ({"kubernetes.io": {name: POD[name] for name in POD if name != "pod"}}, FormatError),
        ({"kubernetes.io": POD | {"pod": {"name": "p"}}}, FormatError),
        ({"kubernetes.io": POD | {"pod": {"name": "p\n", "uid": "u"}}}, FormatError),
        ({"kubernetes.io": POD | {"pod": {"name": "p", "uid": "u" * 65}}}, FormatError),
        ({"kubernetes.io": POD | {"namespace": "team-b"}}, FormatError),
        ({"kubernetes.io": POD | {"serviceaccount": {"name": "executor", "uid": "u"}}}, FormatError),
    ],
)
def test_each_claim_of_a_token_matters(changed: dict[str, Any], error: type[StrongroomError]) -> None:
    with pytest.raises(error):
        issuers().verify(token(**changed))


@pytest.mark.parametrize(
    ("later", "is_good"),
    [
        ({"seconds": -LIMITS.clock_skew_s}, True),
        ({"seconds": -LIMITS.clock_skew_s - 1}, False),
        ({"seconds": 599}, True),
        ({"seconds": 600}, False),
    ],
)
def test_a_token_is_good_for_as_long_as_it_says(later: dict[str, int], *, is_good: bool) -> None:
    if is_good:
        assert issuers(**later).verify(token())
    else:
        with pytest.raises(AuthenticationError):
            issuers(**later).verify(token())


def test_the_longest_life_is_the_owners_to_choose() -> None:
    short = CLUSTER.settings(max_token_lifetime_s=599)
    with pytest.raises(AuthenticationError, match="too long"):
        issuers(short).verify(token())


@pytest.mark.parametrize(
    "made",
    [
        token(key=SigningKey.generate("ES256")),
        token(header={"kid": "another"}),
        token(header={"kid": None}),
        CLUSTER.unsigned(now=NOW) + "AAAA",
        CLUSTER.unsigned(now=NOW, algorithm="HS256") + "AAAA",
        CLUSTER.unsigned(now=NOW, algorithm="ES256") + to_b64url(bytes(64)),
    ],
    ids=["another key", "another kid", "no kid", "alg none", "alg HS256", "no signature"],
)
def test_refuses_what_the_clusters_key_did_not_sign(made: str) -> None:
    with pytest.raises(VerificationError):
        issuers().verify(made)


def test_a_key_in_the_tokens_own_header_is_not_looked_at() -> None:
    own = SigningKey.generate("ES256")
    with pytest.raises(VerificationError):
        issuers().verify(token(key=own, header={"jwk": own.verifying_key.to_jwk()}))


def test_one_clusters_key_signs_for_no_other() -> None:
    other = FakeCluster(key_service=KEY_SERVICE, issuer="https://other.example", key=SigningKey.generate("ES256"))
    known = issuers(CLUSTER.settings(), other.settings())
    assert known.verify(other.token(now=NOW)).workload.issuer == "https://other.example"
    with pytest.raises(VerificationError):
        known.verify(token(key=other.key))
    with pytest.raises(VerificationError):
        known.verify(other.token(now=NOW, iss=CLUSTER_URL))


@pytest.mark.parametrize("made", ["", "a", "a.b", "a.b.c", "....", f"{to_b64url(b'{}')}.{to_b64url(b'[]')}.AA"])
def test_what_is_no_token_is_a_format_error(made: str) -> None:
    with pytest.raises(FormatError):
        issuers().verify(made)


def test_no_cluster_is_known_where_none_is_configured() -> None:
    none = WorkloadIssuers([], key_service=KEY_SERVICE, clock=MovableClock())
    assert not none.knows(CLUSTER_URL)
    with pytest.raises(AuthenticationError, match="does not know"):
        none.verify(token())


# --- configuration ---------------------------------------------------------------------------------------------------


def test_a_clusters_keys_may_lie_in_a_file_which_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "jwks.json"
    file.write_text(CLUSTER.jwks())
    (read,) = with_key_sets([CLUSTER.settings(jwks=None, jwks_file=str(file))])
    file.unlink()
    assert (read.jwks, read.jwks_file) == (CLUSTER.jwks(), None)
    assert issuers(read).verify(token())


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_cannot_be_read_is_said_to_be_such(tmp_path: Path, content: bytes | None) -> None:
    file = tmp_path / "jwks.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        with_key_sets([CLUSTER.settings(jwks=None, jwks_file=str(file))])


@pytest.mark.parametrize(
    "changed",
    [
        {"jwks": None},
        {"jwks_file": "/x"},
        {"issuer": "http://plain.example"},
        {"algorithms": []},
        {"algorithms": ["none"]},
        {"algorithms": ["HS256"]},
        {"max_token_lifetime_s": 59},
        {"max_token_lifetime_s": 86401},
    ],
)
def test_settings_name_a_clusters_keys_once_and_no_weak_algorithm(changed: dict[str, Any]) -> None:
    fields = {"issuer": CLUSTER_URL, "jwks": CLUSTER.jwks()} | changed
    with pytest.raises(FormatError):
        WorkloadIssuerSettings.from_object(fields)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ("", "not a JSON Web Key Set"),
        ("[]", "not a JSON Web Key Set"),
        ('{"keys":{}}', "not a JSON Web Key Set"),
        ('{"keys":[]}', "no key that its tokens"),
        ('{"keys":[1,{"kid":"a"},{"kty":"oct","kid":"a","k":"AAAA"}]}', "no key that its tokens"),
        (json.dumps({"keys": [CLUSTER.key.verifying_key.to_jwk()]}), "no key that its tokens"),
        (json.dumps({"keys": [{**CLUSTER.key.verifying_key.to_jwk(), "kid": "a", "use": "enc"}]}), "no key that"),
        (json.dumps({"keys": [{**CLUSTER.key.verifying_key.to_jwk(), "kid": "a"}] * 2}), "two keys of one name"),
    ],
)
def test_a_cluster_without_usable_keys_is_a_mistake_that_is_told_at_the_start(keys: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        issuers(CLUSTER.settings(jwks=keys))
    with pytest.raises(ConfigurationError, match=message):
        pinned_workload_issuers([CLUSTER.settings(jwks=keys)])


def test_a_cluster_is_named_once() -> None:
    with pytest.raises(ConfigurationError, match="twice"):
        issuers(CLUSTER.settings(), CLUSTER.settings())


def test_what_the_configuration_digest_covers_changes_with_everything_that_decides_whose_tokens_count() -> None:
    said = pinned_workload_issuers([CLUSTER.settings()])
    assert pinned_workload_issuers([]) == {}
    again = json.dumps(json.loads(CLUSTER.jwks()), indent=1)
    assert pinned_workload_issuers([CLUSTER.settings(jwks=again)]) == said
    other = FakeCluster(key_service=KEY_SERVICE, key=SigningKey.generate("ES256"))
    for changed in (
        CLUSTER.settings(issuer="https://other.example"),
        CLUSTER.settings(algorithms=("ES256",)),
        CLUSTER.settings(max_token_lifetime_s=600),
        other.settings(),
    ):
        assert pinned_workload_issuers([changed]) != said
    two = [CLUSTER.settings(), CLUSTER.settings(issuer="https://other.example")]
    assert pinned_workload_issuers(two) == pinned_workload_issuers(two[::-1])


def test_clocks_that_differ_a_little_do_not_matter() -> None:
    issued = NOW + timedelta(seconds=LIMITS.clock_skew_s - 1)
    assert issuers().verify(CLUSTER.token(now=issued))
