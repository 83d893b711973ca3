"""Master keys: their addresses, what they wrapped, and what a locked key service is sent and answers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz.service import AnsweredNoError, answer
from tests.fuzz.target import Target, of_text
from tests.support.custody import CONFIGURATION, AsgiHttp, Custodians

from strongroom.base.errors import ConfigurationError, FormatError, IntegrityError, RefusedError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.clients.custody import CustodyClient
from strongroom.crypto.jose import seal
from strongroom.keys.custody import ShareCollector, parse_share
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.keys.providers.pkcs11 import parse_address
from strongroom.keys.providers.uri import parse_service_address
from strongroom.services.custody import LockedService
from strongroom.services.errors import strongroom_error
from strongroom.services.http import Call
from strongroom.services.master_key import read_roster
from strongroom.submit.custody import verify_locked
from strongroom.wire.custody import CustodyEvidence, CustodyRoster, CustodyStatement, GivenShare, sealing_context

_NONCE = "a nonce"
_CONTEXT = b"context"


@functools.cache
def _custodians() -> Custodians:
    return Custodians()


@functools.cache
def _locked() -> LockedService:
    """A service that nobody unlocks: each sample is a share of another master key."""
    return _custodians().start()


@functools.cache
def _master_key() -> LocalMasterKey:
    return LocalMasterKey(SecretBytes(bytes(range(32))), algorithm=WrapAlgorithm.FILE_A256GCM)


def _evidence() -> bytes:
    return CustodyClient(AsgiHttp(_locked())).evidence(_NONCE).to_json()


def _verify(data: bytes) -> Any:
    custodians = _custodians()
    evidence = CustodyEvidence.from_json(data)
    return verify_locked(evidence, expected=custodians.expected(), nonce=_NONCE, clock=custodians.clock)


def _give(data: bytes) -> bytes:
    return answer(_locked().give, Call(path={}, query={}, authorization="", body=data), strongroom_error)


def _given() -> Sequence[bytes]:
    statement = CustodyStatement.from_object(
        {
            "service": "key-service",
            "mode": "attested",
            "configuration": CONFIGURATION,
            "roster": "0" * 64,
            "sealing_key": _locked()._key.public_jwk,
            "nonce": _NONCE,
        }
    )
    context = sealing_context(roster=_locked()._digest, configuration=CONFIGURATION)
    sealed = seal(SecretBytes(b"{}"), recipient_jwk=statement.sealing_key, context=context)
    return [GivenShare(sealed=sealed).to_json()]


def _collect(data: bytes) -> None:
    ShareCollector(_custodians().roster).add(SecretBytes(data))


def _share(data: bytes) -> Any:
    return parse_share(SecretBytes(data), roster=_custodians().roster)


def _shares() -> Sequence[bytes]:
    return [share.reveal() for share in _custodians().made.shares]


def _service_address(form: str) -> Callable[[str], Any]:
    return lambda uri: parse_service_address(uri, form=form, options=("token-source", "ca", "namespace"))


CUSTODY: tuple[Target, ...] = (
    Target(
        name="pkcs11-address",
        parse=of_text(parse_address),
        samples=lambda: [
            b"pkcs11:token=a%20token;object=key;id=%01%02;type=secret-key?module-path=/m.so&pin-source=file:/pin",
            b"pkcs11:serial=0123;object=key?pin-source=/pin&module-path=/m.so",
        ],
        refusals=(ConfigurationError,),
    ),
    Target(
        name="master-key-service-address",
        parse=of_text(_service_address("vault://HOST/MOUNT/KEY")),
        samples=lambda: [
            b"vault://127.0.0.1:8200/a/transit/key?token-source=/t&ca=file:/ca.pem",
            b"vault://[::1]:8/t/k",
        ],
        refusals=(ConfigurationError,),
    ),
    Target(
        name="custody-address",
        parse=of_text(read_roster),
        samples=lambda: [b"file:///mek", b"custody:///nowhere/roster.json"],
        refusals=(ConfigurationError,),
    ),
    Target(
        name="wrapped-by-master-key",
        parse=lambda data: _master_key().unwrap(data, context=_CONTEXT),
        samples=lambda: [_master_key().wrap(SecretBytes(bytes(32)), context=_CONTEXT)],
        refusals=(IntegrityError,),
    ),
    Target(name="custody-roster", parse=CustodyRoster.from_json, samples=lambda: [_custodians().roster.to_json()]),
    Target(name="custody-share", parse=_share, samples=_shares, refusals=(FormatError, VerificationError)),
    Target(name="custody-shares", parse=_collect, samples=_shares, refusals=(FormatError, VerificationError)),
    Target(
        name="custody-evidence",
        parse=_verify,
        samples=lambda: [_evidence()],
        refusals=(FormatError, VerificationError, RefusedError),
    ),
    Target(
        name="custody-given-share",
        parse=_give,
        samples=_given,
        refusals=(AnsweredNoError,),
        has_good_input=False,
    ),
)
