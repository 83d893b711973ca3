"""Configuration, identity and the trust in attestation services."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.key_service import KeyBench
from tests.support.platform import NOW
from tests.support.workloads import FakeCluster

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import ConfigurationError, FormatError, VerificationError
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import LeafUsage, spki_sha256, verify_leaf
from strongroom.services.files import prepare_folder
from strongroom.services.http import Call
from strongroom.services.identity import open_identity
from strongroom.services.issuers import TrustedIssuers
from strongroom.services.key_service import KeyServiceSettings, configuration_of, read_settings

OWNER = SigningKey.generate("ES256").verifying_key.to_jwk()


def settings(**changed: Any) -> dict[str, Any]:
    return {
        "version": 1,
        "url": "https://127.0.0.1:8443",
        "host": "127.0.0.1",
        "port": 8443,
        "names": [],
        "state": "/state",
        "master_key": "file:///mek",
        "owners": [OWNER],
        "attestation_services": [{"url": "https://a.test", "identity": "0" * 64, "certificate_pem": "x"}],
        "mode": "owner-operated",
        "hardware": "simulated",
        "platform": None,
        **changed,
    }


def test_the_configuration_digest_follows_what_decides_and_nothing_else() -> None:
    def digest(**changed: Any) -> str:
        return configuration_of(KeyServiceSettings.from_object(settings(**changed)))

    same = {digest(), digest(port=1), digest(state="/other"), digest(master_key="file:///elsewhere")}
    assert len(same) == 1
    other_service = [{"url": "https://a.test", "identity": "1" * 64, "certificate_pem": "x"}]
    other_owner = [OWNER, SigningKey.generate("ES256").verifying_key.to_jwk()]
    changed = {digest(hardware="real"), digest(attestation_services=other_service), digest(owners=other_owner)}
    assert len(changed | same) == 4


def test_the_configuration_digest_covers_the_clusters_that_are_believed_wherever_their_keys_lie(tmp_path: Path) -> None:
    cluster, other = FakeCluster(key_service="ab" * 32), FakeCluster(key_service="ab" * 32, issuer="https://other.test")
    file = tmp_path / "jwks.json"
    file.write_text(cluster.jwks())

    def digest(*issuers: dict[str, Any]) -> str:
        return configuration_of(KeyServiceSettings.from_object(settings(workload_issuers=list(issuers))))

    in_place = {"issuer": cluster.issuer, "jwks": cluster.jwks()}
    from_file = {"issuer": cluster.issuer, "jwks_file": str(file)}
    assert digest(in_place) == digest(from_file)
    assert len({digest(), digest(in_place), digest(in_place, {"issuer": other.issuer, "jwks": other.jwks()})}) == 3
    assert digest() == configuration_of(KeyServiceSettings.from_object(settings()))
    file.unlink()
    with pytest.raises(ConfigurationError, match="cannot be read"):
        digest(from_file)


@pytest.mark.parametrize(
    "changed",
    [
        {"mode": "trusted"},
        {"owners": []},
        {"attestation_services": []},
        {"url": "http://127.0.0.1"},
        {"port": 0},
        {"hardware": "any"},
        {"extra": 1},
        {"recoverable_days": 6},
        {"recoverable_days": 91},
        {"purge_protection": 1},
    ],
)
def test_refuses_a_configuration_that_says_too_little_or_too_much(tmp_path: Path, changed: dict[str, Any]) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(canonical_json(settings(**changed)))
    with pytest.raises(ConfigurationError):
        read_settings(path)


def test_an_identity_is_made_once_and_certifies_its_keys(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    made = open_identity(folder, common_name="x", sans=["127.0.0.1", "a.test"], now=NOW)
    again = open_identity(folder, common_name="x", sans=["127.0.0.1"], now=NOW)
    assert made.identity == again.identity == spki_sha256(made.certificate_der)
    assert made.statement.thumbprint == again.statement.thumbprint
    assert made.signing.thumbprint == again.signing.thumbprint
    assert made.tls.thumbprint != again.tls.thumbprint
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.iterdir()])
    leaf = verify_leaf(list(made.tls.chain_der), identity=made.identity, usage=LeafUsage.TLS, now=NOW)
    assert leaf.sans == ("127.0.0.1", "a.test")
    with pytest.raises(VerificationError):
        verify_leaf(list(made.statement.chain_der), identity=made.identity, usage=LeafUsage.TLS, now=NOW)


@pytest.mark.parametrize("name", ["identity.key", "statement.key", "signing.key"])
def test_refuses_keys_that_others_may_read_or_that_are_damaged(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "state"
    open_identity(folder, common_name="x", sans=["a.test"], now=NOW)
    (folder / name).chmod(0o644)
    with pytest.raises(ConfigurationError, match="read by others"):
        open_identity(folder, common_name="x", sans=["a.test"], now=NOW)
    (folder / name).chmod(0o600)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ConfigurationError):
        open_identity(folder, common_name="x", sans=["a.test"], now=NOW)


def test_refuses_an_identity_certificate_of_another_key(tmp_path: Path) -> None:
    for name in ("one", "two"):
        open_identity(tmp_path / name, common_name="x", sans=["a.test"], now=NOW)
    (tmp_path / "one" / "identity.pem").write_bytes((tmp_path / "two" / "identity.pem").read_bytes())
    with pytest.raises(ConfigurationError, match="not the certificate"):
        open_identity(tmp_path / "one", common_name="x", sans=["a.test"], now=NOW)


def test_refuses_a_state_folder_that_is_open_to_others(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(ConfigurationError, match="open to others"):
        prepare_folder(folder)


class Clock:
    def now(self) -> Any:
        return NOW


def refuse_all(_header: object, _now: object) -> VerifyingKey:
    raise VerificationError("no key")


SEGMENTS = st.binary(max_size=60).map(lambda data: base64.urlsafe_b64encode(data).rstrip(b"=").decode())


@given(st.text(max_size=60) | st.tuples(SEGMENTS, SEGMENTS, SEGMENTS).map(".".join))
def test_any_text_is_no_result(token: str) -> None:
    with pytest.raises((FormatError, VerificationError)):
        TrustedIssuers({"https://a.test": refuse_all}, clock=Clock()).verify(token)


@pytest.mark.parametrize("claims", [{}, {"iss": 1}, {"iss": ["https://a.test"]}, {"iss": "https://b.test"}])
def test_believes_nobody_who_is_not_configured(claims: dict[str, Any]) -> None:
    key = SigningKey.generate("RS256")
    issuers = TrustedIssuers({"https://a.test": lambda _header, _now: key.verifying_key}, clock=Clock())
    with pytest.raises(VerificationError, match="trusts"):
        issuers.verify(sign_jws(canonical_json(claims), key=key, header={"typ": "JWT", "kid": "k"}))


@given(st.text(max_size=30))
def test_any_query_text_is_a_number_or_raises_format_error(text: str) -> None:
    call = Call(path={}, query={"n": text}, authorization="", body=b"")
    try:
        assert 0 <= call.number("n") < 1 << 53
    except FormatError:
        assert not (text.isascii() and text.isdigit() and int(text) < 1 << 53 and len(text) <= 16)


@given(st.binary(max_size=60))
def test_any_body_reads_or_raises_format_error(body: bytes) -> None:
    call = Call(path={}, query={}, authorization="", body=body)
    for read in (call.text, call.json_object):
        try:
            read()
        except FormatError:
            continue


@pytest.mark.parametrize("kty", [None, [], {}, ["RSA"], 1, "RSA1", "\ud800"])
def test_a_key_of_no_known_type_is_a_format_error(tmp_path: Path, kty: Any) -> None:
    bench = KeyBench(tmp_path)
    body = json.dumps({"key": {"kty": kty}}).encode()
    call = Call(
        path={"name": "a-key"}, query={"api-version": "7.4"}, authorization=f"Bearer {bench.token()}", body=body
    )
    with pytest.raises(FormatError):
        bench.vault.run("put", call)
