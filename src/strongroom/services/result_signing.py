"""Signs attestation results, with keys that are replaced while what the old ones signed stays good.

The newest key signs. `/certs` also lists every older one until the last token it signed has expired: before a key signs
a token that lives longer than any before, the store notes until when. A key is trusted because the service's identity
certified it; relying parties that pin the identity need nothing new when it changes. Replicas that share a store sign
each with a key of its own.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from strongroom.attestation.result import RESULT_TYP
from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, canonical_json, to_b64url
from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.crypto.jose import insecure_unsigned_jws, sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import LeafUsage, public_key, sha1_thumbprint, to_x5c
from strongroom.policy.claims import ClaimValue
from strongroom.services.attestation_store import AttestationStore, SigningKeyRecord
from strongroom.services.identity import CertifiedKey, ServiceIdentity, replace_signing_key

RESULT_LIFETIME: Final = timedelta(hours=8)
_MAX_MINUTES: Final = 365 * 24 * 60
_OWN_BASELINE: Final = "azuredefault"
_BASELINE_DIGITS: Final = 6
_NOTED_AHEAD_S: Final = 3600
"""The store notes a key's last expiry this much ahead, so that it writes once an hour and not once a token."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """How tokens of this service are made.

    Attributes:
        issuer: Their `iss`; the keys are published below it.
        signing_key_max_age: After it a new key is made.
    """

    issuer: str
    signing_key_max_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultProperties:
    """How one token is to be made.

    Attributes:
        lifetime: How long it is valid.
        omit_x5c: Name the certificate (`x5t`) instead of carrying it with its issuer's (`x5c`).
    """

    lifetime: timedelta = RESULT_LIFETIME
    omit_x5c: bool = False

    @classmethod
    def of_policy(cls, properties: Mapping[str, ClaimValue], *, tcb_evaluation_data_number: Json) -> "ResultProperties":
        """Read what an evidence policy issued with `issueproperty`; refuse what is not honoured here.

        Args:
            properties: Names and values.
            tcb_evaluation_data_number: Of the baseline that the evidence was verified with; None for a kind of evidence
                that has none.

        Raises:
            RefusedError: A property is unknown, or has a value that is not possible here.

        Source: Azure Attestation, "Policy version 1.1", "1.2": configuration rules.
        """
        lifetime, omit_x5c = RESULT_LIFETIME, False
        for name, value in properties.items():
            match name, value:
                case "report_validity_in_minutes", int(minutes) if _is_number(value) and 0 < minutes <= _MAX_MINUTES:
                    lifetime = timedelta(minutes=minutes)
                case "omit_x5c", bool(omit):
                    omit_x5c = omit
                case "x-ms-sgx-tcbidentifier", str(baseline):
                    _demand_baseline(baseline, tcb_evaluation_data_number)
                case _:
                    raise RefusedError(
                        f"the evidence policy sets {name} to a value that this service does not honour",
                        action="see the reference of the attestation service for the properties and their values",
                        step=Step.ATTEST,
                    )
        return cls(lifetime=lifetime, omit_x5c=omit_x5c)


_DEFAULT: Final = ResultProperties()


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenForm:
    """A form in which a result's claims are written.

    Attributes:
        typ: What the token's header calls it; relying parties of one form refuse the others.
        write: Returns the claims in this form.
    """

    typ: str
    write: Callable[[Mapping[str, Json]], Mapping[str, Json]]


AZURE_FORM: Final = TokenForm(typ=RESULT_TYP, write=lambda claims: claims)


class ResultSigner:
    """Signs tokens in the service's name. Threads may share it.

    Args:
        tokens: How tokens are made.
        identity: The service's keys; its signing key becomes the newest one, if it is not.
        folder: Where the identity's key files are.
        store: Keeps what is public of the keys.
        clock: For the tokens' times and the keys' age.

    Raises:
        UnavailableError: The store cannot be written.
    """

    def __init__(
        self, tokens: Tokens, *, identity: ServiceIdentity, folder: Path, store: AttestationStore, clock: Clock
    ) -> None:
        self._tokens = tokens
        self._identity = identity
        self._folder = folder
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._rotating = threading.Lock()
        self._records: tuple[SigningKeyRecord, ...] = ()
        self._current, self._own = self._adopt(identity.signing, clock.now())

    @property
    def thumbprint(self) -> str:
        """SHA-256 of the public key that signs now, hexadecimal: its `kid`."""
        with self._lock:
            return self._current.thumbprint

    def sign(
        self, claims: Mapping[str, Json], properties: ResultProperties = _DEFAULT, *, form: TokenForm = AZURE_FORM
    ) -> str:
        """Return a JWT with these claims.

        Args:
            claims: What it says; `iss`, the times, `jti` and `x-ms-ver` are set here and win.
            properties: How it is to be made.
            form: In which form the claims are written, and how such tokens are called.

        Raises:
            UnavailableError: The store cannot be written.

        Source: RFC 7519; Azure Attestation, "Attestation token", policy property `omit_x5c`.
        """
        now = self._clock.now()
        body = _envelope(claims, issuer=self._tokens.issuer, now=now, lifetime=properties.lifetime)
        if self._is_old(now):
            self.rotate(if_old=True)
        with self._lock:
            self._note_expiry(int((now + properties.lifetime).timestamp()))
            key = self._current
        header: dict[str, Json] = {"typ": form.typ, "jku": f"{self._tokens.issuer}/certs", "kid": key.thumbprint}
        if properties.omit_x5c:
            header["x5t"] = to_b64url(sha1_thumbprint(key.chain_der[0]))
        else:
            header["x5c"] = key.x5c
        return sign_jws(canonical_json(form.write(body)), key=key.key, header=header)

    def draft(self, claims: Mapping[str, Json], properties: ResultProperties = _DEFAULT) -> str:
        """Return what `sign` would say, unsigned: `alg` none, an empty signature. No relying party may accept it.

        Source: RFC 7519, section 6; Azure Attestation REST, `draftPolicyForAttestation`.
        """
        body = _envelope(claims, issuer=self._tokens.issuer, now=self._clock.now(), lifetime=properties.lifetime)
        return insecure_unsigned_jws(canonical_json(body))

    def rotate(self, *, if_old: bool = False) -> str:
        """Make a new signing key. Tokens of the old one stay good until they expire.

        Args:
            if_old: Only if the present one is too old by now; somebody else may just have replaced it.

        Returns:
            The new key's `kid`.

        Raises:
            UnavailableError: Disk or store cannot be written; whichever key signs then, it is published.
        """
        with self._rotating:
            now = self._clock.now()
            if not if_old or self._is_old(now):
                key = SigningKey.generate("RS256")  # takes long: meanwhile the old key signs
                with self._lock:
                    self._identity = self._replaced(key, now)
                    self._current, self._own = self._adopt(self._identity.signing, now)
                _log.info("signing key replaced", extra={"fields": {"kid": self._current.thumbprint}})
            return self._current.thumbprint

    def published(self) -> list[Json]:
        """Return the public JWKs of all keys whose tokens may still be good, this process's first: x5c, n and e.

        Keys that another identity certified are not among them: nobody who pins the present one could verify them.
        """
        now = int(self._clock.now().timestamp())
        with self._lock:
            own, records = self._own, self._records
        if self._store.is_shared:
            records = self._store.signing_keys()
        issuer = own.chain_der[1:]
        others = (each for each in records if each.kid != own.kid and each.last_expiry >= now)
        return [_jwk(own), *(_jwk(each) for each in others if each.chain_der[1:] == issuer)]

    def _is_old(self, now: datetime) -> bool:
        with self._lock:
            made_at = self._own.made_at
        return now.timestamp() - made_at > self._tokens.signing_key_max_age.total_seconds()

    def _replaced(self, key: SigningKey, now: datetime) -> ServiceIdentity:
        if not self._store.is_shared:
            return replace_signing_key(self._folder, self._identity, key, now=now)
        return with_signing_key(self._identity, key, now=now)

    def _adopt(self, key: CertifiedKey, now: datetime) -> tuple[CertifiedKey, SigningKeyRecord]:
        """Make a key the newest of the store, and return it with the certificate it has there.

        Between the key's file and the store there is no common transaction: what a crash left undone is done here at
        the next start, because the key in the file is the one that counts.
        """
        known = self._store.signing_keys()
        if known and known[0].kid == key.thumbprint and known[0].chain_der[1:] == key.chain_der[1:]:
            self._records = known
            return CertifiedKey(key=key.key, chain_der=known[0].chain_der), known[0]
        seconds = int(now.timestamp())
        own = SigningKeyRecord(kid=key.thumbprint, chain_der=key.chain_der, made_at=seconds, last_expiry=seconds)
        return key, self._put(own, forget_before=seconds)

    def _note_expiry(self, expires_at: int) -> None:
        own = self._own
        if expires_at <= own.last_expiry:
            return
        if self._store.is_shared:  # another replica may have forgotten this key, which had signed nothing for long
            now = int(self._clock.now().timestamp())
            self._own = self._put(replace(own, last_expiry=expires_at + _NOTED_AHEAD_S), forget_before=now)
            return
        self._store.extend_signing_key(own.kid, last_expiry=expires_at + _NOTED_AHEAD_S)
        self._records = self._store.signing_keys()
        self._own = self._records[0]

    def _put(self, own: SigningKeyRecord, *, forget_before: int) -> SigningKeyRecord:
        self._store.put_signing_key(own, forget_before=forget_before)
        self._records = self._store.signing_keys()
        return next((each for each in self._records if each.kid == own.kid), own)


def with_signing_key(identity: ServiceIdentity, key: SigningKey, *, now: datetime) -> ServiceIdentity:
    """Return an identity that signs with another key, which is written nowhere."""
    return replace(identity, signing=identity.authority.certify(key, usage=LeafUsage.SIGNING, now=now))


def _is_number(value: ClaimValue) -> bool:
    return not isinstance(value, bool)


def _demand_baseline(baseline: str, used: Json) -> None:
    """Refuse evidence that was verified with an older baseline than the policy names; a newer one is stricter."""
    number = int(baseline) if baseline.isdecimal() and len(baseline) <= _BASELINE_DIGITS else None
    if baseline != _OWN_BASELINE and (number is None or not isinstance(used, int) or used < number):
        raise RefusedError(
            "the evidence policy names a TCB baseline that this evidence was not verified with",
            action="GET /tcbbaselines/{type} lists the baselines; azuredefault is whichever is in force",
            step=Step.ATTEST,
            mismatches=(Mismatch(name="x-ms-sgx-tcbidentifier", expected=baseline, actual=f"{used}"),),
        )


def _envelope(claims: Mapping[str, Json], *, issuer: str, now: datetime, lifetime: timedelta) -> dict[str, Json]:
    issued_at = int(now.timestamp())
    return {
        **claims,
        "iss": issuer,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + int(lifetime.total_seconds()),
        "jti": random_bytes(32).hex(),
        "x-ms-ver": "1.0",
    }


def _jwk(record: SigningKeyRecord) -> dict[str, Json]:
    key = public_key(record.chain_der[0])
    return {**key.to_jwk(), "alg": key.algorithm, "use": "sig", "kid": record.kid, "x5c": to_x5c(record.chain_der)}
