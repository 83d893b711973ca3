"""What people hand the key service in Key Vault's contract: bodies, durations, backups, marks of pages."""

import functools
from collections.abc import Callable
from typing import Any

from tests.fuzz.samples import message
from tests.fuzz.service import KEY_SERVICE, AnsweredNoError
from tests.fuzz.target import Target, of_text, text_of
from tests.support.platform import NOW

from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import FormatError
from strongroom.base.secret import SecretBytes
from strongroom.keys.backup import open_backup, seal_backup
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.rotation import demand_sound, parse_duration
from strongroom.keys.vault_records import KeyBackup, RotationRule

_MASTER = LocalMasterKey(SecretBytes(bytes(range(32))), algorithm=WrapAlgorithm.FILE_A256GCM)
_VALUE, _DIGEST = to_b64url(bytes(32)), to_b64url(bytes(range(32)))
_USED = {"AES": "crypt", "RSA": "crypt-rsa", "EC": "sign-ec"}


def _call(operation: str, *, name: str) -> Callable[[bytes], Any]:
    return lambda data: KEY_SERVICE().vault(operation, data, name=name)


def _body(**members: str) -> bytes:
    return canonical_json(dict(members))


def _encrypted(name: str, alg: str) -> list[bytes]:
    """A good body of `decrypt`: what `encrypt` answered."""
    made = parse_json_object(KEY_SERVICE().vault("encrypt", _body(alg=alg, value=_VALUE), name=name))
    return [canonical_json({"alg": alg, **{part: made[part] for part in ("value", "iv", "tag") if part in made}})]


def _signed(name: str, alg: str) -> list[bytes]:
    made = parse_json_object(KEY_SERVICE().vault("sign", _body(alg=alg, value=_DIGEST), name=name))
    return [_body(alg=alg, digest=_DIGEST, value=made["value"])]


def _rotation_policies() -> list[bytes]:
    actions = [
        {"trigger": {"timeAfterCreate": "P60D"}, "action": {"type": "Rotate"}},
        {"trigger": {"timeBeforeExpiry": "P1M"}, "action": {"type": "notify"}},
    ]
    return [canonical_json({"lifetimeActions": actions, "attributes": {"expiryTime": "P1Y"}})]


def _duration(text: str) -> Any:
    duration = parse_duration(text)
    duration.before(NOW)
    assert duration.after(NOW) > NOW


def _rule(data: bytes) -> Any:
    demand_sound(RotationRule.from_json(data))


def _rules() -> list[bytes]:
    action = {"type": "Rotate", "time_after_create": "P60D", "time_before_expiry": None}
    return [canonical_json({"actions": [action], "expiry_time": "P1Y"})]


def _backups() -> list[bytes]:
    return [seal_backup(KeyBackup.from_json(message(KeyBackup)), master_key=_MASTER)]


def _restores() -> list[bytes]:
    """A body of `restore` of a key that is gone; it is good once."""
    service = KEY_SERVICE()
    service.vault("create", b'{"kty":"oct","key_size":256}', name="restored")
    blob = parse_json_object(service.vault("backup", b"", name="restored"))["value"]
    service.vault("delete", b"", name="restored")
    service.vault("purge", b"", name="restored")
    return [_body(value=blob)]


def _page(operation: str) -> Callable[[bytes], Any]:
    return lambda data: KEY_SERVICE().vault(operation, b"", name="crypt", skiptoken=text_of(data))


_ANSWERED = (AnsweredNoError,)
_CIPHERS = [(_USED["AES"], alg) for alg in ("A256GCM", "A256CBC", "A256CBCPAD")] + [(_USED["RSA"], "RSA-OAEP-256")]
_SIGNATURES = [(_USED["AES"], "HS256"), (_USED["RSA"], "PS256"), (_USED["EC"], "ES256")]

VAULT: tuple[Target, ...] = (
    Target(name="duration", parse=of_text(_duration), samples=lambda: [b"P90D", b"P1Y2M3W4DT5H6M7S", b"PT48H"]),
    Target(name="rotation-rule", parse=_rule, samples=_rules),
    Target(name="key-backup", parse=lambda data: open_backup(data, master_key=_MASTER), samples=_backups),
    Target(
        name="key-backup-content",
        parse=KeyBackup.from_json,
        samples=lambda: [message(KeyBackup)],
        refusals=(FormatError,),
        write=lambda value: bytes(value.to_json()),
    ),
    *(
        Target(
            name=f"vault-encrypt-{alg.lower()}",
            parse=_call("encrypt", name=name),
            samples=functools.partial(lambda alg: [_body(alg=alg, value=_VALUE)], alg),
            refusals=_ANSWERED,
        )
        for name, alg in _CIPHERS
    ),
    *(
        Target(
            name=f"vault-decrypt-{alg.lower()}",
            parse=_call("decrypt", name=name),
            samples=functools.partial(_encrypted, name, alg),
            refusals=_ANSWERED,
        )
        for name, alg in _CIPHERS
    ),
    *(
        Target(
            name=f"vault-sign-{alg.lower()}",
            parse=_call("sign", name=name),
            samples=functools.partial(lambda alg: [_body(alg=alg, value=_DIGEST)], alg),
            refusals=_ANSWERED,
        )
        for name, alg in _SIGNATURES
    ),
    *(
        Target(
            name=f"vault-verify-{alg.lower()}",
            parse=_call("verify", name=name),
            samples=functools.partial(_signed, name, alg),
            refusals=_ANSWERED,
        )
        for name, alg in _SIGNATURES
    ),
    Target(
        name="vault-rotation-policy",
        parse=_call("put_policy", name=_USED["AES"]),
        samples=_rotation_policies,
        refusals=_ANSWERED,
    ),
    Target(
        name="vault-restore",
        parse=_call("restore", name=""),
        samples=_restores,
        refusals=_ANSWERED,
        has_good_input=False,
    ),
    Target(
        name="vault-random",
        parse=_call("random", name=_USED["AES"]),
        samples=lambda: [b'{"count":32}'],
        refusals=_ANSWERED,
    ),
    *(
        Target(name=f"vault-page-{operation}", parse=_page(operation), samples=lambda: [b"", b"MQ"], refusals=_ANSWERED)
        for operation in ("keys", "versions", "deleted_keys")
    ),
)
