"""Key Vault's contract: Secure Key Release.

A release may be asked for again with the same attestation result until that ends, as the contract has it: what comes
out is encrypted to the same key of the same TEE. `nonce` is the caller's and only comes back, signed: it tells the
caller that the answer is to this request.

Source: Azure Key Vault REST API, `release`; "Secure key release policy grammar", Environment Assertion.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from strongroom.attestation.result import AttestationResult
from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.key_wrap import DEFAULT_ALGORITHM, wrap_to_rsa
from strongroom.crypto.keys import VerifyingKey
from strongroom.keys.records import KeyRecord
from strongroom.keys.release import demand_hardware
from strongroom.keys.store import StoredKey, Transaction
from strongroom.policy.release_policy import parse_release_policy
from strongroom.services.http import Call
from strongroom.services.key_vault_desk import VaultDesk, demand_usable, find, key_leaf, policy_digest
from strongroom.services.key_vault_messages import ReleaseBody


class ReleaseOperations:
    """What lets keys out."""

    def __init__(self, vault: VaultDesk) -> None:
        self._vault = vault

    def release(self, call: Call, person: str) -> Json:
        """Release an exportable key to an attested TEE (`POST /keys/{name}/{version}/release`).

        1. The key may be used and exported, and has a release policy.
        2. The attestation result is of a trusted service and holds now.
        3. It is about accepted hardware and meets the policy; the key is (still) as in 1.
        4. The key leaves encrypted to the first RSA key for encryption in the result's runtime data.
        5. The release, or that it was refused, is logged in the same transaction, before it is answered.
        """
        body = ReleaseBody.from_json(call.body)
        with self._vault.desk.store.reading() as tx:
            self._demand_releasable(find(tx, call).record)
        result = self._vault.desk.issuers.verify(body.target)
        algorithm = body.enc or DEFAULT_ALGORITHM
        refusal: RefusedError | None = None
        ciphertext, recipient = b"", dict[str, Any]()
        with self._vault.desk.store.transaction() as tx:
            stored = find(tx, call)
            what = {**key_leaf(stored.record, person=person), "result": sha256_hex(body.target.encode("ascii"))}
            try:
                recipient = self._authorize(stored, result)
                ciphertext = wrap_to_rsa(stored.material, recipient_jwk=recipient, algorithm=algorithm)
                self._log(tx, stored.record, recipient, what)
            except RefusedError as error:
                names: list[Json] = [mismatch.name for mismatch in error.mismatches]
                tx.append_leaf("refused", now=self._vault.now, what={**what, "mismatches": names})
                refusal = error
        if refusal is not None:
            raise refusal
        return {"value": self._token(call, body, stored.record, algorithm, recipient, ciphertext)}

    def _demand_releasable(self, record: KeyRecord) -> None:
        demand_usable(record, operation="release", at=self._vault.seconds, in_time=True)
        if not record.exportable or record.release_policy is None:
            raise RefusedError("the key is not exportable")

    def _authorize(self, stored: StoredKey, result: AttestationResult) -> dict[str, Any]:
        """Decide, and return the TEE's key."""
        record = stored.record
        self._demand_releasable(record)
        demand_hardware(result.claims, accepted=self._vault.desk.hardware)
        policy = record.release_policy.data if record.release_policy else ""  # "" is refused: no policy
        parse_release_policy(from_any_b64(policy)).evaluate(result.claims)
        return _recipient(result.runtime)

    def _log(self, tx: Transaction, record: KeyRecord, recipient: Mapping[str, Any], what: dict[str, Json]) -> None:
        tee_key = VerifyingKey.from_jwk(recipient).thumbprint
        details: dict[str, Json] = {"tee_key": tee_key, "policy": policy_digest(record)}
        tx.append_leaf("keys-released", now=self._vault.now, what={**what, **details})

    def _token(
        self,
        call: Call,
        body: ReleaseBody,
        record: KeyRecord,
        algorithm: str,
        recipient: Mapping[str, Any],
        ciphertext: bytes,
    ) -> str:
        """Sign the answer as Azure does: RS256 with the chain of a certificate whose name is the vault's."""
        hsm: Json = {
            "schema_version": "1.0.0",
            "header": {"kid": str(recipient.get("kid", "")), "alg": "dir", "enc": algorithm},
            "ciphertext": to_b64url(ciphertext),
        }
        bundle = self._vault.bundle(record)
        bundle["key"] = {**_object(bundle["key"]), "key_hsm": to_b64url(canonical_json(hsm))}
        request: dict[str, Json] = {
            "api-version": call.required("api-version"),
            "enc": algorithm,
            "kid": self._vault.kid(record),
        }
        if body.nonce is not None:
            request["nonce"] = body.nonce
        signing = self._vault.desk.identity.signing
        leaf_hash = to_b64url(hashlib.sha256(signing.chain_der[0]).digest())
        answer: Json = {"request": request, "response": {"key": bundle}}
        return signing.sign(canonical_json(answer), header={"typ": "JWT", "x5t#S256": leaf_hash})


def _recipient(runtime: Mapping[str, Json]) -> dict[str, Any]:
    """Return the TEE's key for encryption: the first RSA key of the runtime data that says so."""
    keys: Any = runtime.get("keys")
    candidates: list[dict[str, Any]] = [key for key in keys if isinstance(key, dict)] if isinstance(keys, list) else []
    for key in candidates:
        match key:
            case {"kty": "RSA", "key_ops": [*operations]} if "encrypt" in operations:
                return _sound(key)
            case {"kty": "RSA", "use": "enc"} | {"kty": "RSA", "key_use": "enc"}:
                return _sound(key)
            case _:
                continue
    raise _no_recipient("none")


def _sound(recipient: dict[str, Any]) -> dict[str, Any]:
    try:
        VerifyingKey.from_jwk(recipient)
    except FormatError as error:
        raise _no_recipient(error.message) from error
    return recipient


def _no_recipient(found: str) -> RefusedError:
    return RefusedError(
        "the attested runtime data have no RSA key to encrypt to",
        step=Step.RELEASE,
        mismatches=(Mismatch(name="x-ms-runtime.keys", expected='a sound RSA key for "encrypt"', actual=found),),
    )


def _object(value: Json) -> dict[str, Json]:
    return parse_json_object(canonical_json(value))
