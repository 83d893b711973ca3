"""Offline bundles: endorsements in one signed file, for verification where no vendor can be asked.

The vendors' signatures make the documents genuine; the collector's signature says that these were the newest ones at
`collected_at`, which nobody can check without the vendors. So a verifier pins the collector's key.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import Field
from typing_extensions import override

from strongroom.attestation.endorsements.documents import DocumentName, DocumentSource, Edition, Entry, Found
from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import parse_canonical_json
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, UnavailableError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.crypto.jose import sign_jws, verify_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.wire.model import Message, Timestamp

BUNDLE_TYP: Final = "strongroom-endorsement-bundle+jws"
_ACTION: Final = "Make a new one where the vendors can be reached: strongroom endorsements bundle"


class BundleBody(Message):
    """What a bundle's collector signs.

    Attributes:
        collected_at: When the documents were put together.
        expires_at: Until when the bundle may be used, whatever the documents themselves say.
        entries: The documents.
    """

    version: Literal[1] = 1
    collected_at: Timestamp
    expires_at: Timestamp
    entries: Annotated[tuple[Entry, ...], Field(min_length=1)]


def sign_bundle(entries: Sequence[Entry], *, key: SigningKey, now: datetime, expires_at: datetime) -> str:
    """Return a bundle: a compact JWS over canonical JSON.

    Args:
        entries: The documents, which the caller has verified.
        key: The collector's key.
        now: The present time.
        expires_at: Until when the bundle may be used.

    Raises:
        FormatError: No document, or two of one name.
        ConfigurationError: It would be expired already.
    """
    if expires_at <= now:
        raise ConfigurationError("the bundle would be expired when it is made", action="Choose a later end.")
    _by_name(entries)
    body = BundleBody.from_object(
        {
            "collected_at": to_rfc3339(now),
            "expires_at": to_rfc3339(expires_at),
            "entries": [entry.model_dump(mode="json") for entry in sorted(entries, key=lambda each: each.name.key)],
        }
    )
    header = {"typ": BUNDLE_TYP, "kid": key.verifying_key.thumbprint}
    return sign_jws(body.to_json(), key=key, header=header)


def verify_bundle(token: str, *, signer: VerifyingKey, now: datetime) -> BundleBody:
    """Check a bundle.

    1. The pinned key signed it, as a bundle.
    2. It is canonical JSON, and names no document twice.
    3. It is not expired at `now`.

    The caller MUST still verify evidence with the documents at the same time: each has a life of its own.

    Args:
        token: The file's text.
        signer: The collector's key, which the caller pinned.
        now: The time of the check; for a stated time in the past, that time.

    Raises:
        FormatError: Not a bundle.
        VerificationError: Another key signed it, it was changed, or it is expired.
    """
    payload = verify_jws(token.strip(), key=signer, typ=BUNDLE_TYP, max_bytes=LIMITS.bundle_bytes).payload  # 1.
    body = BundleBody.from_object(parse_canonical_json(payload))  # 2.
    _by_name(body.entries)
    if to_rfc3339(now) > body.expires_at:  # 3.
        raise VerificationError(f"the bundle of endorsements expired at {body.expires_at}", action=_ACTION)
    return body


class BundleEndorsements(DocumentSource):
    """Endorsements from a bundle's file, verified when it is read, and read anew when it changes.

    Args:
        path: The file.
        signer: The collector's key.
        clock: The time, or the stated time of an audit.
        edition: Which of the vendor's evaluations to look for.

    Raises:
        ConfigurationError: The file cannot be read, or is not a bundle of this signer that holds now.
    """

    def __init__(self, path: Path, *, signer: VerifyingKey, clock: Clock, edition: Edition = "standard") -> None:
        self.edition = edition
        self._path, self._signer, self._clock = path, signer, clock
        self._known: tuple[tuple[int, int, int], BundleBody, dict[str, Entry]] | None = None
        try:
            self.body()
        except (FormatError, VerificationError, UnavailableError) as error:
            raise ConfigurationError(f"{path} cannot be used: {error.message}", action=error.action) from error

    def body(self) -> BundleBody:
        """Return what the collector signed.

        Raises:
            UnavailableError: The file is gone, or the bundle is expired.
            FormatError: The file is not a bundle any more.
            VerificationError: Somebody else signed it.
        """
        return self._read()[0]

    def names(self) -> tuple[DocumentName, ...]:
        """Return which documents the bundle holds.

        Raises:
            StrongroomError: As for `body`.
        """
        return tuple(entry.name for entry in self.body().entries)

    @override
    def find(self, name: DocumentName) -> Found:
        """Return a document of the bundle (see `DocumentSource`)."""
        _, entries = self._read()
        entry = entries.get(name.key)
        if entry is None:
            raise NotFoundError(f"the bundle of endorsements does not hold {name.key}", action=_ACTION)
        return Found(document=entry.document, fetched_at=datetime.fromisoformat(entry.fetched_at))

    def _read(self) -> tuple[BundleBody, dict[str, Entry]]:
        try:
            status = self._path.stat()
            version = (status.st_ino, status.st_size, status.st_mtime_ns)
            known = self._known
            if known is None or known[0] != version:
                if status.st_size > LIMITS.bundle_bytes:
                    raise FormatError("the bundle of endorsements is too large")
                token = self._path.read_text(encoding="ascii")
                body = verify_bundle(token, signer=self._signer, now=self._clock.now())
                known = self._known = (version, body, _by_name(body.entries))
        except (OSError, UnicodeDecodeError) as error:
            raise UnavailableError("the bundle of endorsements cannot be read", action="Restore the file.") from error
        _, body, entries = known
        if to_rfc3339(self._clock.now()) > body.expires_at:
            raise UnavailableError(f"the bundle of endorsements expired at {body.expires_at}", action=_ACTION)
        return body, entries


def _by_name(entries: Sequence[Entry]) -> dict[str, Entry]:
    named = {entry.name.key: entry for entry in entries}
    if not entries or len(named) != len(entries):
        raise FormatError("a bundle holds at least one document, and each of them once")
    return named
