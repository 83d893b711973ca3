"""Where a dataset has a roster, its keys are destroyed only when as many of its members agree as it demands."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import Mismatch, RefusedError, VerificationError, differences
from strongroom.base.limits import LIMITS
from strongroom.crypto.jose import verify_jws
from strongroom.keys.store import Transaction
from strongroom.policy.roster import Roster, missing_signatures
from strongroom.policy.signatures import signer_of
from strongroom.services.consents import roster_now
from strongroom.services.key_desk import KeyDesk
from strongroom.wire.data_keys import SHREDDING_CONSENT_TYP, ShreddingConsent

_LIFETIME: Final = timedelta(days=7)


def demand_consents(
    desk: KeyDesk, tx: Transaction, dataset: str, consents: Sequence[str], *, now: datetime
) -> tuple[str, ...]:
    """Return who agrees that a dataset's keys are destroyed, by key thumbprint; nobody where it has no roster.

    1. Each consent is signed by a member of the roster that holds now.
    2. It is for this dataset, this roster and this key service, and at most a week old.
    3. As many different members agree as the roster demands.

    Raises:
        FormatError: Not such a consent.
        VerificationError: It is signed by nobody who may sign it.
        RefusedError: It is for something else, or too few agree; or the dataset has no roster.
    """
    roster = roster_now(tx, dataset)
    if roster is None:
        if consents:
            raise RefusedError(f"dataset {dataset} has no roster: its owner alone destroys its keys")
        return ()
    signers = {_signer(desk, roster, dataset, token, now=now) for token in consents}
    if len(signers) < roster.threshold:
        raise RefusedError(
            f"too few members of the roster of dataset {dataset} agree that its keys are destroyed",
            action=f"Each member runs: strongroom dataset consent-shredding {dataset}",
            mismatches=(missing_signatures(signers, roster.threshold),),
        )
    return tuple(sorted(signers))


def _signer(desk: KeyDesk, roster: Roster, dataset: str, token: str, *, now: datetime) -> str:
    signer = signer_of(token)
    key = roster.keys.get(signer)
    if key is None:  # 1
        raise VerificationError(
            "a consent is signed by nobody of the dataset's roster",
            mismatches=(Mismatch(name="signer", expected=" or ".join(sorted(roster.keys)), actual=signer),),
        )
    consent = ShreddingConsent.from_json(verify_jws(token, key=key, typ=SHREDDING_CONSENT_TYP).payload)
    found = {
        "dataset": (dataset, consent.dataset),
        "roster": (roster.digest, consent.roster),
        "key_service": (desk.identity.identity, consent.key_service),
    }
    mismatches = [*differences(found)]
    skew = timedelta(seconds=LIMITS.clock_skew_s)
    if not to_rfc3339(now - _LIFETIME) <= consent.issued_at <= to_rfc3339(now + skew):
        mismatches.append(Mismatch(name="issued_at", expected="at most a week ago", actual=consent.issued_at))
    if mismatches:  # 2
        raise RefusedError("a consent is for something else, or too old", mismatches=tuple(mismatches))
    return signer
