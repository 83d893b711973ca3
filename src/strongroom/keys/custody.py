"""A master key in the custody of k of n people: split once, put together in a measured service's memory.

A share's commitment is SHA-256 over its number and its 32 random bytes: everyone can check a share, nobody can compute
one. So a wrong share is refused when it is given, by name, instead of spoiling the key that is put together.
"""

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import ConflictError, FormatError, IntegrityError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.derive import hkdf_sha256, sha256_hex
from strongroom.crypto.random import random_id, random_secret
from strongroom.crypto.secret_sharing import SECRET_BYTES, combine_shares, split_secret
from strongroom.keys.providers.envelope import WrapAlgorithm
from strongroom.keys.providers.local import LocalMasterKey
from strongroom.wire.custody import Custodian, CustodyRoster, CustodyShare

_COMMITMENT: Final = b"strongroom custody share 1\0"
_KEY_CHECK: Final = b"strongroom custody key check 1"
_KEY: Final = b"strongroom custody master key 1"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCustody:
    """A master key that was just split; itself it is gone.

    Attributes:
        roster: Public.
        shares: One for each custodian, in the roster's order: to be sealed to them at once.
    """

    roster: CustodyRoster
    shares: tuple[SecretBytes, ...]


def make_custody(names: Sequence[str], *, threshold: int) -> NewCustody:
    """Make a master key and split it.

    Args:
        names: The custodians' names, each once.
        threshold: How many of them it takes, at least 2.

    Raises:
        FormatError: Too few or too many custodians, a threshold that makes no sense, a name given twice.
    """
    secret, custody = random_secret(SECRET_BYTES), random_id()
    if not 2 <= threshold <= len(names):  # noqa: PLR2004 - one person is no custody
        raise FormatError(f"of {len(names)} custodians, {threshold} cannot be needed: from 2 up to all of them can")
    shares = split_secret(secret, threshold=threshold, shares=len(names))
    roster = CustodyRoster.from_object(
        {
            "custody": custody,
            "threshold": threshold,
            "custodians": [
                {"number": number, "name": name, "commitment": _commitment(custody, number, shares[number])}
                for number, name in enumerate(names, start=1)
            ],
            "key_check": _key_check(secret),
        }
    )
    sealed = tuple(
        SecretBytes(CustodyShare(custody=custody, number=number, share=to_b64url(share.reveal())).to_json())
        for number, share in shares.items()
    )
    return NewCustody(roster=roster, shares=sealed)


def roster_digest(roster: CustodyRoster) -> str:
    """Return the SHA-256 of a roster, canonical JSON, as hexadecimal text."""
    return sha256_hex(roster.to_json())


def parse_share(share: SecretBytes, *, roster: CustodyRoster) -> tuple[Custodian, SecretBytes]:
    """Return whose a share is, and its value.

    Raises:
        FormatError: Not a share.
        VerificationError: Of another custody, or not the one that this custodian was given.
    """
    try:
        parsed = CustodyShare.from_json(share.reveal())
        value = SecretBytes(from_b64url(parsed.share))
    except FormatError:
        raise FormatError("this is no custodian's share") from None  # the cause could show a part of it
    custodian = next((each for each in roster.custodians if each.number == parsed.number), None)
    if parsed.custody != roster.custody or custodian is None:
        raise VerificationError(
            "the share is of another master key", action="Give the share that belongs to this service's roster."
        )
    if not hmac.compare_digest(_commitment(parsed.custody, parsed.number, value), custodian.commitment):
        raise VerificationError(
            f"the share is not the one that {custodian.name} was given",
            action="Take the share's file from its backup; nobody else's share helps.",
        )
    return custodian, value


class ShareCollector:
    """Takes shares until there are enough. Not for several threads at once."""

    def __init__(self, roster: CustodyRoster) -> None:
        self._roster = roster
        self._shares: dict[int, SecretBytes] = {}

    @property
    def given(self) -> tuple[int, ...]:
        """The numbers of the shares that are there."""
        return tuple(sorted(self._shares))

    def add(self, share: SecretBytes) -> LocalMasterKey | None:
        """Take a share.

        Returns:
            The master key, once there are enough shares.

        Raises:
            FormatError: Not a share.
            VerificationError: A forged one, or of another master key.
            ConflictError: This custodian's share is there already.
            IntegrityError: The shares do not give the roster's master key.
        """
        custodian, value = parse_share(share, roster=self._roster)
        if custodian.number in self._shares:
            raise ConflictError(
                f"the share of {custodian.name} is there already", action="Have another custodian give theirs."
            )
        self._shares[custodian.number] = value
        if len(self._shares) < self._roster.threshold:
            return None
        secret = combine_shares(self._shares)
        self._shares.clear()
        if not hmac.compare_digest(_key_check(secret), self._roster.key_check):
            raise IntegrityError(
                "the custodians' shares do not give the roster's master key", action="Split a new master key."
            )
        return LocalMasterKey(hkdf_sha256(secret, salt=b"", info=_KEY), algorithm=WrapAlgorithm.CUSTODY_A256GCM)


def _commitment(custody: str, number: int, share: SecretBytes) -> str:
    return sha256_hex(_COMMITMENT + bytes.fromhex(custody) + number.to_bytes(2, "big") + share.reveal())


def _key_check(secret: SecretBytes) -> str:
    return hkdf_sha256(secret, salt=b"", info=_KEY_CHECK).reveal().hex()
