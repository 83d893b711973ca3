"""The evidence policies of an attestation service: which ones stand, who may change them, and what the answers say.

A person shows an owner's token for every call here. In mode `isolated`, what changes anything must also be signed by a
policy signer: an owner's key of the configuration, or the key of a registered policy certificate. In mode `owner` the
owner's token is enough, as it is in Azure Attestation's mode of that kind.

The policy that stands where nobody set one denies everything. Azure Attestation's permits.

Source: Azure Attestation REST API 2025-06-01, `Policy`, `PolicyCertificates`.
"""

import hashlib
import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, Literal, TypeAlias

from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    IntegrityError,
    LimitError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import demand_valid, public_key, sha1_thumbprint
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.services.attestation_store import AttestationStore
from strongroom.services.policy_tokens import (
    PolicyToken,
    certificate_jwk,
    certificate_of,
    demand_empty,
    policy_text,
    read_policy_token,
    unsigned_policy,
)

PolicyManagement: TypeAlias = Literal["isolated", "owner"]
POLICY_TYPES: Final = ("SgxEnclave", "OpenEnclave", "TdxVm", "SevSnpVm", "AzureGuest")
"""Azure Attestation's names of the kinds of evidence that have a policy here."""
DENY_ALL: Final = "version= 1.0;\nauthorizationrules\n{\n\t=> deny();\n};\nissuancerules\n{\n};\n"
MAX_POLICY_CERTIFICATES: Final = 32
_READ_AGAIN: Final = timedelta(seconds=1)
"""So long a replica may not know of a policy that another one took."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingPolicy:
    """The policy that evidence of one type is appraised with.

    Attributes:
        jws: The token in which it came.
        policy: The policy.
        signer: The JWK of whoever signed it, or None.
    """

    jws: str
    policy: EvidencePolicy
    signer: Mapping[str, Json] | None

    @classmethod
    def of_token(cls, token: PolicyToken) -> "StandingPolicy":
        """Read the policy in a token.

        Raises:
            FormatError: It is not a policy.
            LimitError: It is too large.
        """
        return cls(jws=token.jws, policy=parse_evidence_policy(policy_text(token.payload)), signer=token.signer)


_DEFAULT: Final = StandingPolicy.of_token(read_policy_token(unsigned_policy(DENY_ALL)))


def read_draft(text: str) -> EvidencePolicy:
    """Read a draft policy: its text, or a token that holds it. Its signature does not matter, nor does its signer.

    Raises:
        FormatError: It is not a policy.
        AuthenticationError: It is a token with a signature that does not hold.
        LimitError: It is too large.
    """
    if "{" not in text:  # every policy has sections in braces, no token has one
        return StandingPolicy.of_token(read_policy_token(text)).policy
    if len(text) > LIMITS.policy_text_bytes:
        raise LimitError("the draft policy is too large")
    return parse_evidence_policy(text)


class EvidencePolicies:
    """The standing policies and the policy certificates. Threads may share it.

    Args:
        management: Whose word a change needs.
        owners: The owners' keys of the configuration, by thumbprint.
        store: Keeps policies and certificates.
        clock: For the certificates' validity.

    Raises:
        UnavailableError: The store cannot be read.
        IntegrityError: A stored policy is not what was stored.
    """

    def __init__(
        self,
        *,
        management: PolicyManagement,
        owners: Mapping[str, VerifyingKey],
        store: AttestationStore,
        clock: Clock,
    ) -> None:
        self._management = management
        self._owners = owners
        self._store = store
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = clock.now()
        self._tokens = store.policies()
        self._standing = self._all_standing(self._tokens)

    def standing(self, name: str) -> StandingPolicy:
        """Return the policy for evidence of a type.

        Raises:
            UnavailableError: Replicas share the store, and it cannot be read.
            IntegrityError: Another replica stored something that is no policy.
        """
        with self._lock:
            if self._store.is_shared:
                self._take_up_changes()
            return self._standing[name]

    def put(self, name: str, jws: str) -> dict[str, Json]:
        """Set the policy for evidence of a type.

        Returns:
            The claims of Azure's answer.

        Raises:
            FormatError: Not a policy token, or its policy has a fault; the message says where.
            AuthenticationError: It is not signed as the mode demands.
            UnavailableError: The store cannot be written; nothing changed.
        """
        token = self._authorized(jws)
        standing = StandingPolicy.of_token(token)
        with self._lock:
            self._store.put_policy(name, jws)
            self._standing[name] = standing
        _log.info("evidence policy stored", extra={"fields": {"type": name, "policy_hash": standing.policy.hash}})
        return _changed("Updated", token)

    def reset(self, name: str, jws: str) -> dict[str, Json]:
        """Remove the policy for evidence of a type: the default stands again, which denies everything.

        Returns:
            The claims of Azure's answer, and our own that says what the default does.

        Raises:
            FormatError: Not a token with an empty body.
            AuthenticationError: It is not signed as the mode demands.
            UnavailableError: The store cannot be written; nothing changed.
        """
        token = self._authorized(jws)
        demand_empty(token.payload)
        with self._lock:
            self._store.remove_policy(name)
            self._standing[name] = _DEFAULT
        _log.info("evidence policy removed", extra={"fields": {"type": name}})
        return {**_changed("Removed", token), "x-ms-strongroom-default-policy": "denies everything"}

    def certificates(self) -> dict[str, Json]:
        """Return the claims of Azure's answer that lists the policy certificates."""
        keys: list[Json] = [certificate_jwk(certificate) for certificate in self._store.policy_certificates()]
        return {"x-ms-policy-certificates": {"keys": keys}}

    def add_certificate(self, jws: str) -> dict[str, Json]:
        """Register a policy certificate, on the word of a policy signer.

        Returns:
            The claims of Azure's answer.

        Raises:
            FormatError: Not such a token, or not a certificate.
            AuthenticationError: It is not signed by a policy signer.
            VerificationError: The certificate is not valid now.
            ConflictError: There are too many.
            RefusedError: The service is not in mode `isolated`.
            UnavailableError: The store cannot be written; nothing changed.
        """
        certificate = certificate_of(self._isolated(jws).payload)
        demand_valid(certificate, now=self._clock.now())
        self._store.add_policy_certificate(certificate, limit=MAX_POLICY_CERTIFICATES)
        return _modified("IsPresent", certificate)

    def remove_certificate(self, jws: str) -> dict[str, Json]:
        """Remove a policy certificate, on the word of a policy signer. What it signed stays.

        Returns:
            The claims of Azure's answer.

        Raises:
            FormatError: Not such a token, or not a certificate.
            AuthenticationError: It is not signed by a policy signer.
            ConflictError: It is the last one.
            RefusedError: The service is not in mode `isolated`.
            UnavailableError: The store cannot be written; nothing changed.
        """
        certificate = certificate_of(self._isolated(jws).payload)
        self._store.remove_policy_certificate(certificate)
        return _modified("IsAbsent", certificate)

    def _take_up_changes(self) -> None:
        """Read what other replicas changed, a second later at most."""
        now = self._clock.now()
        if abs(now - self._read_at) < _READ_AGAIN:
            return
        tokens = self._store.policies()
        if tokens != self._tokens:
            self._standing = self._all_standing(tokens)
            self._tokens = tokens
        self._read_at = now

    def _all_standing(self, tokens: Mapping[str, str]) -> dict[str, StandingPolicy]:
        stored = {name: self._stored(name, jws) for name, jws in tokens.items()}
        return {name: stored.get(name, _DEFAULT) for name in POLICY_TYPES}

    def _isolated(self, jws: str) -> PolicyToken:
        if self._management != "isolated":
            raise RefusedError(
                "policy certificates mean nothing here: this service takes policies on an owner's word",
                action='set "policy_management": "isolated" in the configuration to demand signatures',
            )
        return self._authorized(jws)

    def _authorized(self, jws: str) -> PolicyToken:
        """Read a token; in mode `isolated`, demand a policy signer's signature."""
        token = read_policy_token(jws)
        if self._management == "isolated" and not self._is_signer(token.certificate_der):
            raise AuthenticationError(
                "the token is not signed by a policy signer of this service",
                action="sign it with an owner's key, or with the key of a registered policy certificate",
            )
        return token

    def _is_signer(self, certificate_der: bytes | None) -> bool:
        if certificate_der is None:
            return False
        shown = public_key(certificate_der).thumbprint
        return shown in self._owners or any(
            public_key(registered).thumbprint == shown and self._is_valid(registered)
            for registered in self._store.policy_certificates()
        )

    def _is_valid(self, certificate_der: bytes) -> bool:
        try:
            demand_valid(certificate_der, now=self._clock.now())
        except VerificationError:
            return False
        return True

    def _stored(self, name: str, jws: str) -> StandingPolicy:
        try:
            standing = StandingPolicy.of_token(read_policy_token(jws))
        except StrongroomError as error:
            raise IntegrityError(
                f"the stored policy for {name} is not one", action="Restore the newest copy of the state folder."
            ) from error
        if self._management == "isolated" and standing.signer is None:
            _log.warning("an unsigned policy is not used in mode isolated", extra={"fields": {"type": name}})
            return _DEFAULT
        return standing


def _changed(result: Literal["Updated", "Removed"], token: PolicyToken) -> dict[str, Json]:
    signer: dict[str, Json] = {} if token.signer is None else {"x-ms-policy-signer": token.signer}
    token_hash = to_b64url(hashlib.sha256(token.jws.encode("ascii")).digest())
    return {"x-ms-policy-result": result, "x-ms-policy-token-hash": token_hash, **signer}


def _modified(result: Literal["IsPresent", "IsAbsent"], certificate_der: bytes) -> dict[str, Json]:
    thumbprint = sha1_thumbprint(certificate_der).hex()
    return {"x-ms-policycertificates-result": result, "x-ms-certificate-thumbprint": thumbprint}
