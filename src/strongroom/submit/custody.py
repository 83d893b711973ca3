"""Unlocking an attested key service, and pinning it: its evidence is verified before a share is sealed to it."""

from dataclasses import dataclass
from typing import Final

from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import verify_sgx
from strongroom.base.clock import Clock
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import RefusedError, VerificationError, differences
from strongroom.base.secret import SecretBytes
from strongroom.base.workflow import Step
from strongroom.clients.custody import CustodyClient
from strongroom.crypto.jose import seal
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import public_key, to_pem
from strongroom.keys.custody import parse_share, roster_digest
from strongroom.submit.services import platform_differences, trusted_roots, verify_service_evidence
from strongroom.wire.custody import CustodyEvidence, CustodyProgress, CustodyRoster, CustodyStatement, sealing_context
from strongroom.wire.service import MasterKeyHolder, ServiceStatement
from strongroom.wire.trust import Trust, TrustedService

_NONCE_BYTES: Final = 24
_ACTION: Final = "Give no share to it. Compare its measurement and configuration with the owner's."


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedService:
    """What a custodian or an owner knows of an attested key service before it has an identity.

    Attributes:
        trust: The hardware's roots.
        url: Where this client reaches the service.
        measurement: Its code's MRENCLAVE.
        configuration: The digest of the configuration it shall have.
        roster: The custodians; None where the master key is held otherwise.
        master_key: How it is held.
        cluster_url: Where pods reach it, if elsewhere (`TrustedService`).
    """

    trust: Trust
    url: str
    measurement: str
    configuration: str
    roster: CustodyRoster | None
    master_key: MasterKeyHolder
    cluster_url: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LockedKeyService:
    """A locked key service whose evidence was verified.

    Attributes:
        statement: What it says.
        roster: The custodians.
        given: The numbers of the shares that it says it has.
    """

    statement: CustodyStatement
    roster: CustodyRoster
    given: tuple[int, ...]


def new_nonce() -> str:
    """Return a nonce for a service's evidence."""
    return to_b64url(random_bytes(_NONCE_BYTES))


def verify_locked(
    evidence: CustodyEvidence, *, expected: ExpectedService, nonce: str, clock: Clock
) -> LockedKeyService:
    """Verify what a locked service says of itself.

    1. Its quote verifies under the trusted roots and binds the statement.
    2. Its code is the expected one, and its platform is not out of date.
    3. The statement is fresh, and of the expected configuration and custodians.

    Args:
        evidence: As it arrived.
        expected: What it must be.
        nonce: What was asked with.
        clock: The time.

    Returns:
        The service; a share may be sealed to its key.

    Raises:
        FormatError: Malformed.
        VerificationError: The evidence does not hold.
        RefusedError: It is another service; all mismatches are named.
    """
    statement_bytes = from_b64url(evidence.statement)
    verified = verify_sgx(  # 1
        UnverifiedEvidence(kind="sgx", quote=from_b64url(evidence.quote), runtime_data=statement_bytes),
        trusted_roots=trusted_roots(expected.trust),
        endorsements=parse_endorsements(evidence.endorsements.encode()),
        now=clock.now(),
    )
    statement = CustodyStatement.from_json(statement_bytes)
    roster = "none" if expected.roster is None else roster_digest(expected.roster)
    found = platform_differences(verified) + differences(  # 2
        {
            "hardware": (expected.trust.hardware, verified.hardware),
            "code (mrenclave)": (expected.measurement, verified.quote.report.mrenclave.hex()),
            "nonce": (nonce, statement.nonce),  # 3
            "configuration": (expected.configuration, statement.configuration),
            "custodians": (roster, statement.roster),
        }
    )
    if found:
        raise RefusedError(
            "this is not the key service whose custodian you are", action=_ACTION, step=Step.POLICY, mismatches=found
        )
    assert expected.roster is not None
    return LockedKeyService(statement=statement, roster=expected.roster, given=evidence.given)


def give_share(
    client: CustodyClient, share: SecretBytes, *, expected: ExpectedService, clock: Clock
) -> CustodyProgress:
    """Verify a locked service, and give it a share that only this start of it can read.

    Raises:
        FormatError: Not a share.
        VerificationError: The service's evidence does not hold, or the share is of another master key.
        RefusedError: It is another service.
        ConflictError: The share is there already.
    """
    nonce = new_nonce()
    locked = verify_locked(client.evidence(nonce), expected=expected, nonce=nonce, clock=clock)
    parse_share(share, roster=locked.roster)
    context = sealing_context(roster=locked.statement.roster, configuration=locked.statement.configuration)
    return client.give(seal(share, recipient_jwk=locked.statement.sealing_key, context=context))


def pin_service(client: CustodyClient, *, expected: ExpectedService, clock: Clock) -> TrustedService:
    """Verify an unlocked attested key service by its measurement and configuration, and return what to trust it by.

    Its identity was made inside the TEE: it comes from evidence that holds, and from nowhere else.

    Raises:
        VerificationError: The evidence does not hold.
        RefusedError: It is another service, or runs in another mode; all mismatches are named.
        UnavailableError: It is locked, or does not answer.
    """
    nonce = new_nonce()
    evidence = client.service_evidence(nonce)
    statement = ServiceStatement.from_json(from_b64url(evidence.statement))
    certificate = from_b64url(evidence.identity_certificate)
    service = TrustedService(
        service="key-service",
        url=expected.url,
        cluster_url=expected.cluster_url,
        identity=public_key(certificate).thumbprint,
        certificate_pem=to_pem(certificate),
        mode="attested",
        measurement=expected.measurement,
        configuration=expected.configuration,
        log_key=None,
        master_key=expected.master_key,
    )
    verify_service_evidence(evidence, service=service, trust=expected.trust, nonce=nonce, clock=clock)
    if statement.log_key is None:
        raise VerificationError("the key service's evidence names no log", step=Step.POLICY)
    return service.model_copy(update={"log_key": statement.log_key})
