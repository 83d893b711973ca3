"""Promises 1, 7 and 9 of keys that Azure Key Vault's contract manages: who may, what frees them, what stays as it was.

Every test takes the good path, a key that is released to an attested enclave, and changes one thing.
"""

import hashlib
import hmac
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tests.support.asgi import send
from tests.support.key_service import ISSUER, KeyBench, Tee, signing_key
from tests.support.platform import MRENCLAVE

from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConflictError,
    FormatError,
    IntegrityError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.secret import SecretBytes
from strongroom.crypto import vault_keys
from strongroom.crypto.jose import insecure_unsigned_jws, sign_jws, unverified_payload
from strongroom.crypto.key_wrap import unwrap_with_rsa
from strongroom.crypto.keys import SigningKey
from strongroom.keys.backup import open_backup, seal_backup
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.vault_records import KeyBackup
from strongroom.services.http import Call, application
from strongroom.wire.key_service import APPROVAL_TYP, PERSON_TOKEN_TYP

VERSION = {"api-version": "7.6"}
OTHERS = "SELECT {} FROM keys WHERE name = 'other'"


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[KeyBench]:
    made = KeyBench(tmp_path)
    yield made
    made.store.close()


def ask(bench: KeyBench, operation: str, body: Any = None, **path: str) -> Any:
    return bench.vault.run(operation, bench.person({} if body is None else body, query=VERSION, **path))


def policy(bench: KeyBench, *, immutable: bool = False, **changed: Any) -> dict[str, Any]:
    claims = {"x-ms-sgx-mrenclave": MRENCLAVE.hex(), "x-ms-runtime.application": bench.description().digest}
    conditions = [{"claim": name, "equals": value} for name, value in {**claims, **changed}.items()]
    return encoded({"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": conditions}]}, immutable=immutable)


def encoded(document: Any, *, immutable: bool = False) -> dict[str, Any]:
    return {"data": to_b64url(json.dumps(document).encode()), "immutable": immutable}


def create(bench: KeyBench, name: str = "a-key", *, release_policy: Any = None, **changed: Any) -> Any:
    body = {
        "kty": "oct-HSM",
        "key_size": 256,
        "attributes": {"exportable": True},
        "release_policy": release_policy or policy(bench),
        **changed,
    }
    return ask(bench, "create", body, name=name)


def attested(bench: KeyBench, tee: Tee, **changed: Any) -> str:
    """The attestation service's result about a TEE; further arguments are claims in place of its own."""
    return bench.attest(bench.runtime(tee, bench.ticket()), claims=changed)[0]


def release(bench: KeyBench, result: str, *, name: str = "a-key", **more: str) -> dict[str, Any]:
    """Ask for a key, and return what the service signed."""
    token = ask(bench, "release", {"target": result, **more}, name=name)["value"]
    return parse_json_object(unverified_payload(token))


def opened(released: Mapping[str, Any], tee: Tee) -> SecretBytes:
    hsm = parse_json_object(from_b64url(released["response"]["key"]["key"]["key_hsm"]))
    return unwrap_with_rsa(from_b64url(hsm["ciphertext"]), key=tee.receiving, algorithm=released["request"]["enc"])


def leaves(bench: KeyBench) -> list[dict[str, Any]]:
    with bench.store.transaction() as tx:
        return [parse_json_object(leaf) for leaf in tx.leaves(0, 10_000)]


def edit(bench: KeyBench, statement: str, *values: object) -> None:
    """Change the database behind the service's back, and start again."""
    bench.store.close()
    with sqlite3.connect(bench.database) as connection:
        changed = connection.execute(statement, values).rowcount
    connection.close()
    assert changed > 0
    bench.start()


def confused(claims: bytes, key: SigningKey, *, header: Mapping[str, Any]) -> str:
    """A token that is authenticated with the public key as if it were a shared secret."""
    signed = f"{to_b64url(canonical_json({**header, 'alg': 'HS256'}))}.{to_b64url(claims)}"
    return f"{signed}.{to_b64url(hmac.digest(key.verifying_key.spki, signed.encode(), hashlib.sha256))}"


# --- the good path ----------------------------------------------------------------------------------------------------


def test_a_key_is_released_to_the_attested_enclave_alone_and_logged(bench: KeyBench) -> None:
    created = create(bench)
    tee, other = Tee(), Tee(number=1)
    released = release(bench, attested(bench, tee), nonce="once")
    with bench.store.transaction() as tx:
        assert opened(released, tee) == tx.key("a-key").material
    with pytest.raises(IntegrityError):
        opened(released, other)
    assert released["request"] == {
        "api-version": "7.6",
        "enc": "CKM_RSA_AES_KEY_WRAP",
        "kid": created["key"]["kid"],
        "nonce": "once",
    }
    assert (leaves(bench)[-1]["event"], leaves(bench)[-1]["tee_key"]) == ("keys-released", tee.tee_key)


# --- people's tokens --------------------------------------------------------------------------------------------------


def person_tokens(bench: KeyBench) -> dict[str, str]:
    stranger, now = SigningKey.generate("ES256"), int(bench.clock.now().timestamp())
    kid = bench.owner.verifying_key.thumbprint
    good = bench.token()
    header, payload, signature = good.split(".")
    claims, typed = unverified_payload(good), {"typ": PERSON_TOKEN_TYP, "kid": kid}
    return {
        "nothing": "",
        "forged": f"{header}.{payload}.{signature[:-4]}AAAA",
        "another person's claims": f"{header}.{to_b64url(claims.replace(kid.encode(), b'0' * 64))}.{signature}",
        "a stranger's": bench.token(stranger),
        "a stranger's under the owner's name": sign_jws(claims, key=stranger, header=typed),
        "expired": bench.token(iat=now - 200, exp=now - 1),
        "not valid yet": bench.token(iat=now + 120, exp=now + 240),
        "too long": bench.token(exp=now + 3600),
        "for another service": bench.token(aud="0" * 64),
        "unsigned": insecure_unsigned_jws(claims),
        "confused": confused(claims, bench.owner, header=typed),
        "of another kind": sign_jws(claims, key=bench.owner, header={"typ": APPROVAL_TYP, "kid": kid}),
    }


def test_nobody_but_an_owner_with_a_token_for_this_service_reaches_any_operation(bench: KeyBench) -> None:
    create(bench)
    before = leaves(bench)
    for fault, token in person_tokens(bench).items():
        for operation in bench.vault._operations:
            call = Call(path={"name": "a-key"}, query=VERSION, authorization=f"Bearer {token}", body=b"{}")
            with pytest.raises(AuthenticationError):
                pytest.fail(f"{fault}: {bench.vault.run(operation, call)}")
    assert leaves(bench) == before


# --- attestation results ----------------------------------------------------------------------------------------------


def results(bench: KeyBench, tee: Tee) -> dict[str, str]:
    """Results that do not hold, each for one reason."""
    stranger, now = signing_key("stranger"), int(bench.clock.now().timestamp())
    good = attested(bench, tee)
    header, payload, signature = good.split(".")
    claims, typed = unverified_payload(good), {"typ": "JWT", "kid": "issuer"}
    thief = unverified_payload(attested(bench, Tee(number=1)))
    return {
        "forged": f"{header}.{payload}.{signature[:-4]}AAAA",
        "with another TEE's key put in": f"{header}.{to_b64url(thief)}.{signature}",
        "of a stranger": sign_jws(claims, key=stranger, header=typed),
        "of a stranger who says which key": sign_jws(
            claims, key=stranger, header={**typed, "jwk": stranger.verifying_key.to_jwk()}
        ),
        "of a key that the service does not have": sign_jws(claims, key=bench.issuer, header={**typed, "kid": "x"}),
        "of another issuer": attested(bench, tee, iss="https://attestation.other"),
        "of no issuer": attested(bench, tee, iss=None),
        "expired": attested(bench, tee, exp=now),
        "not valid yet": attested(bench, tee, nbf=now + 3600),
        "unsigned": insecure_unsigned_jws(claims),
        "confused": confused(claims, bench.issuer, header=typed),
        "of another type": sign_jws(claims, key=bench.issuer, header={**typed, "typ": "strongroom-ticket"}),
        "a person's token": bench.token(),
    }


def test_a_result_that_does_not_hold_frees_nothing(bench: KeyBench) -> None:
    create(bench)
    before = leaves(bench)
    for fault, result in results(bench, Tee()).items():
        with pytest.raises((VerificationError, FormatError)):
            pytest.fail(f"{fault}: {release(bench, result)}")
    assert leaves(bench) == before  # the log holds decisions about what the attestation service said, nothing else


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("x-ms-sgx-mrenclave", "00" * 32),
        ("x-ms-strongroom-hardware", "real"),
        ("x-ms-runtime", {"application": "0" * 64, "keys": []}),
    ],
)
def test_a_result_about_something_else_is_refused_and_the_refusal_is_logged(
    bench: KeyBench, claim: str, value: Any
) -> None:
    create(bench, release_policy=policy(bench, **{"x-ms-strongroom-hardware": "simulated"}))
    result = attested(bench, Tee(), **{claim: value})
    with pytest.raises(RefusedError):
        release(bench, result)
    last = leaves(bench)[-1]
    assert last["event"] == "refused"
    assert any(name.startswith(claim) for name in last["mismatches"])


def test_another_applications_result_is_refused(bench: KeyBench) -> None:
    create(bench)
    runtime = bench.runtime(Tee(), bench.ticket(), application="0" * 64)
    with pytest.raises(RefusedError) as refusal:
        release(bench, bench.attest(runtime)[0])
    assert [mismatch.name for mismatch in refusal.value.mismatches] == ["x-ms-runtime.application"]


@pytest.mark.parametrize(
    "keys",
    [
        [],
        "keys",
        [1, None],
        [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}],
        [{"kty": "RSA", "n": to_b64url(b"\xff" * 128), "e": "AQAB", "key_ops": ["encrypt"]}],
        [{"kty": "RSA", "n": "!", "e": "AQAB", "use": "enc"}],
        [{"kty": "EC", "crv": "P-256", "key_ops": ["encrypt"]}],
        [{"kty": "oct", "k": "AAAA", "key_ops": ["encrypt"]}],
    ],
    ids=repr,
)
def test_no_key_leaves_to_a_tee_without_a_sound_rsa_key(bench: KeyBench, keys: Any) -> None:
    create(bench)
    runtime = {"application": bench.description().digest, "keys": keys}
    with pytest.raises(RefusedError, match="no RSA key"):
        release(bench, attested(bench, Tee(), **{"x-ms-runtime": runtime}))
    assert leaves(bench)[-1]["event"] == "refused"


def test_a_result_that_is_shown_again_gives_the_same_tee_the_same_key_until_it_ends(bench: KeyBench) -> None:
    create(bench)
    tee, thief = Tee(), Tee(number=1)
    result = attested(bench, tee)
    first, again = release(bench, result, nonce="1"), release(bench, result, nonce="2")
    assert opened(first, tee) == opened(again, tee)
    assert (first["request"]["nonce"], again["request"]["nonce"]) == ("1", "2")
    with pytest.raises(IntegrityError):
        opened(again, thief)
    assert [leaf["event"] for leaf in leaves(bench)].count("keys-released") == 2
    bench.clock.advance(seconds=600)
    with pytest.raises(VerificationError):
        release(bench, result)


def test_a_key_that_was_disabled_or_got_another_policy_is_not_released_again(bench: KeyBench) -> None:
    create(bench)
    result = attested(bench, Tee())
    assert release(bench, result)
    ask(bench, "update", {"release_policy": policy(bench, **{"x-ms-sgx-svn": 99})}, name="a-key")
    with pytest.raises(RefusedError):
        release(bench, result)
    ask(bench, "update", {"release_policy": policy(bench), "attributes": {"enabled": False}}, name="a-key")
    with pytest.raises(RefusedError, match="disabled"):
        release(bench, result)


def test_simulated_hardware_frees_no_key_where_real_is_required(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path, hardware="real")
    create(bench)
    with pytest.raises(RefusedError, match="hardware"):
        release(bench, attested(bench, Tee()))
    bench.store.close()


def test_keys_that_are_not_exportable_are_not_released(bench: KeyBench) -> None:
    ask(bench, "create", {"kty": "oct-HSM", "key_size": 256}, name="a-key")
    with pytest.raises(RefusedError, match="not exportable"):
        release(bench, attested(bench, Tee()))


# --- policies ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        {"version": "1.0.0", "anyOf": []},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": []}]},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "anyOf": []}]},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "a", "in": ["b"]}]}]},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "a", "matches": ".*"}]}]},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "a", "exists": False}]}]},
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "a"}]}]},
        {"version": "1.0.0", "anyOf": [{"allOf": [{"claim": "a", "equals": "b"}]}]},
        {"version": "2.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "a", "equals": "b"}]}]},
        {},
    ],
    ids=json.dumps,
)
def test_a_policy_that_says_nothing_or_more_than_is_understood_is_never_set(bench: KeyBench, document: Any) -> None:
    bad = encoded(document)
    with pytest.raises(FormatError):
        create(bench, release_policy=bad)
    key = {"kty": "oct", "k": to_b64url(bytes(32))}
    body = {"key": key, "attributes": {"exportable": True}, "release_policy": bad}
    with pytest.raises(FormatError):
        ask(bench, "put", body, name="a-key")
    good = create(bench)
    with pytest.raises(FormatError):
        ask(bench, "update", {"release_policy": bad}, name="a-key")
    assert ask(bench, "get", name="a-key") == good


def test_an_immutable_policy_stays_with_its_key(bench: KeyBench) -> None:
    created = create(bench, release_policy=policy(bench, immutable=True))
    weaker = encoded(
        {"version": "1.0.0", "anyOf": [{"authority": ISSUER, "allOf": [{"claim": "iss", "exists": True}]}]}
    )
    for attempt in (weaker, {**weaker, "immutable": True}, policy(bench), {**policy(bench), "immutable": False}):
        with pytest.raises(RefusedError, match="immutable"):
            ask(bench, "update", {"release_policy": attempt}, name="a-key")
    rotated = ask(bench, "rotate", name="a-key")
    assert rotated["release_policy"] == created["release_policy"]
    with pytest.raises(RefusedError, match="immutable"):
        ask(bench, "update", {"release_policy": weaker}, name="a-key")


def test_a_backup_from_before_does_not_bring_a_policy_back_that_was_replaced_for_good(bench: KeyBench) -> None:
    create(bench, release_policy=policy(bench, **{"x-ms-sgx-mrenclave": "11" * 32}))
    before = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "update", {"release_policy": policy(bench, immutable=True)}, name="a-key")
    after = ask(bench, "backup", name="a-key")["value"]
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    with pytest.raises(RefusedError, match="immutable"):
        ask(bench, "restore", {"value": before})
    assert ask(bench, "restore", {"value": after})["release_policy"]["immutable"]


def test_whether_a_key_may_leave_is_fixed_when_it_is_made(bench: KeyBench) -> None:
    ask(bench, "create", {"kty": "oct-HSM", "key_size": 256}, name="kept")
    create(bench)
    for name, exportable in (("kept", True), ("a-key", False)):
        with pytest.raises(FormatError, match="fixed"):
            ask(bench, "update", {"attributes": {"exportable": exportable}}, name=name)
    with pytest.raises(FormatError, match="exportable"):
        ask(bench, "update", {"release_policy": policy(bench)}, name="kept")
    with pytest.raises(FormatError, match="release policy"):
        ask(bench, "create", {"kty": "oct", "attributes": {"exportable": True}}, name="kept")
    with pytest.raises(FormatError, match="release policy"):
        ask(bench, "create", {"kty": "oct", "release_policy": policy(bench)}, name="kept")


def test_a_new_version_of_an_exportable_key_has_the_policy_of_the_one_before(bench: KeyBench) -> None:
    first = create(bench)
    second = ask(bench, "create", {"kty": "oct", "attributes": {"exportable": True}}, name="a-key")
    assert second["release_policy"] == first["release_policy"]


# --- backups ----------------------------------------------------------------------------------------------------------


def sealed(bench: KeyBench, change: Callable[[KeyBackup], KeyBackup]) -> str:
    """A backup of a key, changed by somebody who has the master key itself."""
    blob = from_b64url(ask(bench, "backup", name="a-key")["value"])
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    master = bench.store.master_key
    return to_b64url(seal_backup(change(open_backup(blob, master_key=master)), master_key=master))


def test_a_backup_does_not_come_back_under_another_name(bench: KeyBench) -> None:
    create(bench)
    blob = sealed(bench, lambda backup: backup.model_copy(update={"name": "b-key"}))
    with pytest.raises(FormatError, match="another key"):
        ask(bench, "restore", {"value": blob})


def test_a_backup_does_not_come_back_as_a_datasets_key(bench: KeyBench) -> None:
    create(bench)

    def as_dataset(backup: KeyBackup) -> KeyBackup:
        keys = tuple(
            each.model_copy(update={"record": each.record.model_copy(update={"name": "dataset-trips"})})
            for each in backup.keys
        )
        return backup.model_copy(update={"name": "dataset-trips", "keys": keys})

    with pytest.raises(RefusedError, match="belong to datasets"):
        ask(bench, "restore", {"value": sealed(bench, as_dataset)})


def test_a_backup_with_a_version_left_out_is_refused(bench: KeyBench) -> None:
    create(bench)
    create(bench)
    blob = sealed(bench, lambda backup: backup.model_copy(update={"keys": backup.keys[1:]}))
    with pytest.raises(FormatError, match="every version"):
        ask(bench, "restore", {"value": blob})


def test_a_backup_is_no_way_around_a_policy_or_the_flag(bench: KeyBench) -> None:
    """Without the master key nothing in it can be read or replaced; the key comes back as it was."""
    created = create(bench)
    blob = from_b64url(ask(bench, "backup", name="a-key")["value"])
    ask(bench, "delete", name="a-key")
    ask(bench, "purge", name="a-key")
    for at in range(0, len(blob), 7):
        changed = blob[:at] + bytes([blob[at] ^ 0x20]) + blob[at + 1 :]
        with pytest.raises(FormatError):
            ask(bench, "restore", {"value": to_b64url(changed)})
    stranger = LocalMasterKey(SecretBytes(bytes(32)), algorithm=WrapAlgorithm.FILE_A256GCM)
    content = open_backup(blob, master_key=bench.store.master_key)
    with pytest.raises(FormatError, match="another master key"):
        ask(bench, "restore", {"value": to_b64url(seal_backup(content, master_key=stranger))})
    assert ask(bench, "restore", {"value": to_b64url(blob)}) == created


def test_a_backup_is_not_restored_over_a_key(bench: KeyBench) -> None:
    create(bench)
    blob = ask(bench, "backup", name="a-key")["value"]
    create(bench)
    with pytest.raises(ConflictError):
        ask(bench, "restore", {"value": blob})
    ask(bench, "delete", name="a-key")
    with pytest.raises(ConflictError):
        ask(bench, "restore", {"value": blob})


# --- datasets' keys ---------------------------------------------------------------------------------------------------


def test_no_operation_uses_changes_or_ends_a_datasets_key(bench: KeyBench) -> None:
    bench.create_dataset("trips")
    wrap = {"alg": "A256KW", "value": to_b64url(bytes(32))}
    bodies: dict[str, Any] = {
        "create": {"kty": "oct"},
        "put": {"key": {"kty": "oct", "k": to_b64url(bytes(32))}},
        "delete": {},
        "backup": {},
        "rotate": {},
        "put_policy": {"lifetimeActions": []},
        "encrypt": {"alg": "A256GCM", "value": "AAAA"},
        "decrypt": {"alg": "A256GCM", "value": "AAAA", "iv": to_b64url(bytes(12)), "tag": to_b64url(bytes(16))},
        "wrap": wrap,
        "unwrap": {**wrap, "value": to_b64url(bytes(40))},
        "sign": {"alg": "HS256", "value": to_b64url(bytes(32))},
        "verify": {"alg": "HS256", "digest": to_b64url(bytes(32)), "value": "AAAA"},
        "release": {"target": attested(bench, Tee())},
        "attestation": {},
    }
    shown = {"get", "get_policy", "keys", "versions", "deleted", "deleted_keys", "update", "recover", "purge"}
    assert {*bodies, *shown, "restore", "random"} == set(bench.vault._operations)
    with bench.store.transaction() as tx:
        before = tx.key("dataset-trips")
    for operation, body in bodies.items():
        with pytest.raises(RefusedError):
            pytest.fail(f"{operation}: {ask(bench, operation, body, name='dataset-trips')}")
    for change in ({"key_ops": ["wrapKey"]}, {"attributes": {"exportable": True}}, {"release_policy": policy(bench)}):
        with pytest.raises((RefusedError, FormatError)):
            ask(bench, "update", change, name="dataset-trips")
    for name in ("Dataset-trips", "DATASET-other"):
        with pytest.raises(RefusedError):
            ask(bench, "create", {"kty": "oct"}, name=name)
    with bench.store.transaction() as tx:
        assert tx.key("dataset-trips") == before
    ask(bench, "update", {"attributes": {"enabled": False}}, name="dataset-trips")
    with pytest.raises(RefusedError, match="disabled"):
        bench.import_version("trips")


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b" " * (LIMITS.request_body_bytes + 1), 413),
        (b"", 400),
        (b"\xff", 400),
        (b"[]", 400),
        (b'{"kty":"oct"', 400),
        (b'{"kty":"oct","kty":"RSA"}', 400),
        (b'{"kty":"oct","attributes":{"exportable":false,"exportable":true}}', 400),
        (b'{"kty":"oct","Kty":"oct"}', 400),
        (b'{"kty":"oct","key_size":NaN}', 400),
        (b'{"kty":"oct","key_size":1e400}', 400),
        (b'{"kty":"oct","key_size":"256"}', 400),
        (b'{"kty":"oct","tags":{"a":1}}', 400),
        (b'{"kty":"oct","tags":{"a":"\\ud800"}}', 400),
        (b'{"kty":"oct","attributes":{"nbf":1.5}}', 400),
        (b'{"kty":"oct","attributes":{"exp":-1}}', 400),
        (b'{"kty":"oct","attributes":{"exp":99999999999999}}', 400),
        (b'{"a":' * 5000 + b"1" + b"}" * 5000, 400),
    ],
    ids=lambda value: hashlib.sha256(repr(value).encode()).hexdigest()[:8],
)
def test_bad_bodies_are_refused_in_azures_words(bench: KeyBench, body: bytes, status: int) -> None:
    app = application(bench.vault.routes(), shape_for=lambda _path: bench.vault.error)
    headers = {"authorization": f"Bearer {bench.token()}"}
    answer = send(app, "POST", "/keys/a-key/create?api-version=7.6", body, headers=headers)
    assert answer.status == status
    assert set(parse_json_object(answer.body)["error"]) == {"code", "message", "innererror"}
    assert leaves(bench) == []


@pytest.mark.parametrize(
    "target", ["/keys/%2e%2e/create", "/keys/a%2Fb/create", "/keys/a%00b/create", "/keys/é/create"]
)
def test_names_that_are_no_keys_names_are_refused(bench: KeyBench, target: str) -> None:
    app = application(bench.vault.routes(), shape_for=lambda _path: bench.vault.error)
    headers = {"authorization": f"Bearer {bench.token()}"}
    answer = send(app, "POST", f"{target}?api-version=7.6", b'{"kty":"oct"}', headers=headers)
    assert answer.status in {400, 404, 405}
    assert leaves(bench) == []


# --- an edited database -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET public = replace(public, '\"exportable\":false', '\"exportable\":true') WHERE name = 'kept'",
        f"UPDATE keys SET public = replace(({OTHERS.format('public')}), 'other', 'kept') WHERE name = 'kept'",
        f"UPDATE keys SET sealed = ({OTHERS.format('sealed')}) WHERE name = 'kept'",
        f"UPDATE keys SET (public, sealed) = ({OTHERS.format('public, sealed')}) WHERE name = 'kept'",
    ],
)
def test_a_policy_that_was_swapped_in_the_database_makes_the_key_unusable(bench: KeyBench, statement: str) -> None:
    ask(bench, "create", {"kty": "oct-HSM", "key_size": 256}, name="kept")
    create(bench, "other")
    edit(bench, statement)
    with pytest.raises(IntegrityError):
        release(bench, attested(bench, Tee()), name="kept")
    with pytest.raises(IntegrityError):
        ask(bench, "get", name="kept")


def test_a_deleted_key_is_not_brought_back_by_moving_its_row(bench: KeyBench) -> None:
    create(bench)
    ask(bench, "delete", name="a-key")
    edit(bench, "INSERT INTO keys SELECT * FROM deleted_keys")
    for operation, body in (("get", {}), ("release", {"target": attested(bench, Tee())})):
        with pytest.raises(IntegrityError):
            ask(bench, operation, body, name="a-key")


def test_nothing_is_left_of_a_key_that_was_destroyed(bench: KeyBench) -> None:
    ask(bench, "create", {"kty": "RSA", "key_size": 2048}, name="a-key")
    ask(bench, "wrap", {"alg": "RSA-OAEP-256", "value": to_b64url(bytes(32))}, name="a-key")
    ask(bench, "delete", name="a-key")
    with sqlite3.connect(f"file:{bench.database}?mode=ro", uri=True) as connection:
        sealed = connection.execute("SELECT sealed FROM deleted_keys").fetchone()[0]
    connection.close()

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in bench.database.parent.glob("keys.db*"))

    parts = [sealed[at : at + 64] for at in range(0, len(sealed), 64)]  # a long row lies on several pages
    assert any(part in files() for part in parts)
    assert vault_keys._parsed.cache_info().currsize
    ask(bench, "purge", name="a-key")
    assert [part for part in parts if part in files()] == []
    assert vault_keys._parsed.cache_info().currsize == 0


def test_a_rotation_policy_or_a_deletion_that_was_edited_is_noticed(bench: KeyBench) -> None:
    create(bench)
    create(bench, "b-key")
    actions = [{"trigger": {"timeAfterCreate": "P30D"}, "action": {"type": "Rotate"}}]
    ask(bench, "put_policy", {"lifetimeActions": actions}, name="a-key")
    ask(bench, "delete", name="b-key")
    edit(bench, "UPDATE rotations SET public = replace(public, 'P30D', 'P90Y')")
    with pytest.raises(IntegrityError):
        ask(bench, "get_policy", name="a-key")
    edit(bench, "UPDATE deletions SET purged_at = purged_at + 1")
    for operation in ("deleted", "recover", "purge"):
        with pytest.raises(IntegrityError):
            ask(bench, operation, name="b-key")


def test_an_error_never_shows_a_key(bench: KeyBench) -> None:
    secret = bytes(range(32))
    body = {"key": {"kty": "oct", "k": to_b64url(secret)}}
    ask(bench, "put", body, name="a-key")
    shown = [str(ask(bench, "get", name="a-key")), str(ask(bench, "keys")), str(leaves(bench))]
    for operation, bad in (("put", {**body, "extra": 1}), ("wrap", {"alg": "A128KW", "value": to_b64url(secret)})):
        with pytest.raises(StrongroomError) as refused:
            ask(bench, operation, bad, name="a-key")
        shown.append(refused.value.message + refused.value.action)
    for text in shown:
        assert to_b64url(secret) not in text
        assert secret.hex() not in text
