"""Versions of datasets whose key is in a vault: statements on storage, beside the manifests that they name.

No service countersigns there. A version is signed by an owner, whose key the vault key's statement names, or with a key
that only holders of the vault's key can make (`keys.vault_hierarchy`): a run that the vault let in. Versions are
numbered names on storage, each of which is given once: of two writers one is told to start again. Nobody but storage
says which number is the highest.
"""

import re
from datetime import datetime
from typing import Final

from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import (
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.base.workflow import Step
from strongroom.crypto.jose import sign_jws, unverified_header, verify_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.datasets.storage import Storage
from strongroom.wire.key_service import VERSION_TYP, DatasetVersion
from strongroom.wire.vault_key import VaultKey

_FOLDER: Final = "_strongroom/versions"
_NAME: Final = re.compile(r"^_strongroom/versions/([1-9][0-9]{0,8})\.jws\Z")
_RESTORE: Final = "Restore the file from the owner's copy, or ask the operator where the dataset's storage lies."


def newest_version(storage: Storage) -> int | None:
    """Return the highest number that storage shows; None where there is none. It is storage's word."""
    numbers = [int(found[1]) for found in map(_NAME.match, storage.names(_FOLDER)) if found]
    return max(numbers, default=None)


def read_version(storage: Storage, number: int) -> str:
    """Return the statement in a version's place; `verify_version` says what it is worth.

    Raises:
        NotFoundError: Storage shows no such version.
        IntegrityError: What stands there is no text of a statement's length.
    """
    try:
        return storage.read(_name(number), max_bytes=LIMITS.token_bytes).decode("ascii")
    except NotFoundError as error:
        raise NotFoundError(
            f"storage has no version {number} of the dataset", action=_RESTORE, step=Step.DECRYPT
        ) from error
    except UnicodeDecodeError as error:
        raise IntegrityError("a version's statement was changed", action=_RESTORE, step=Step.DECRYPT) from error


def publish_version(storage: Storage, number: int, statement: str) -> None:
    """Make a statement the dataset's version of this number; its manifest is on storage already.

    Raises:
        ConflictError: Somebody else made this version first.
    """
    try:
        storage.create(_name(number), statement.encode("ascii"))
    except ConflictError as error:
        raise ConflictError(
            f"the dataset has a version {number} already",
            action="Submit again: the run builds on the newest version then.",
            step=Step.WRITE,
        ) from error


def sign_version(version: DatasetVersion, *, key: SigningKey) -> str:
    """Sign a version, as an owner or as a run that holds the vault's key."""
    return sign_jws(version.to_json(), key=key, header={"typ": VERSION_TYP, "jwk": key.verifying_key.to_jwk()})


def verify_version(
    statement: str, *, key: VaultKey, run_key: VerifyingKey | None, dataset: str, number: int | None = None
) -> DatasetVersion:
    """Verify a version's statement.

    1. An owner of the vault key's statement signed it, or `run_key` did; the writer it names is of that kind.
    2. It is about this dataset under this vault key, and of this number.

    Args:
        statement: From storage.
        key: The vault key's statement.
        run_key: The public half of `ReleasedKey.version_key`; None where nobody knows it.
        dataset: The dataset.
        number: The version that is wanted; None for any.

    Raises:
        FormatError: Not a statement.
        VerificationError: One of these does not hold.
    """
    try:
        signer = _signer(statement)
        is_run = run_key is not None and signer.thumbprint == run_key.thumbprint
        if signer.thumbprint not in key.owners and not is_run:
            raise VerificationError(
                f"a version of dataset {dataset} is signed neither by an owner nor by a run that holds the vault's key"
            )
        version = DatasetVersion.from_json(verify_jws(statement, key=signer, typ=VERSION_TYP).payload)
        expected = "run:" if is_run else f"owner:{signer.thumbprint}"
        found = (version.dataset, version.key_service, version.writer.startswith(expected))
        if found != (dataset, key.identity, True) or number not in {None, version.number}:
            raise VerificationError(f"the version statement is not about this version of dataset {dataset}")
    except StrongroomError as error:
        raise error.at(Step.DECRYPT) from error.__cause__
    return version


def next_version(
    *,
    key: VaultKey,
    dataset: str,
    base: DatasetVersion | None,
    manifest_digest: str,
    write_ids: tuple[str, ...],
    writer: str,
    created_at: datetime,
) -> DatasetVersion:
    """Return the statement about a dataset's next version, to be signed.

    Args:
        key: The vault key's statement.
        dataset: The dataset.
        base: The version before; None for the first.
        manifest_digest: SHA-256 of its manifest.
        write_ids: The writes that its files belong to.
        writer: `owner:THUMBPRINT` or `run:RUN`.
        created_at: When.
    """
    return DatasetVersion(
        key_service=key.identity,
        dataset=dataset,
        number=base.number + 1 if base else 1,
        previous=base.manifest_digest if base else None,
        manifest_digest=manifest_digest,
        write_ids=write_ids,
        writer=writer,
        created_at=to_rfc3339(created_at),
    )


def _signer(statement: str) -> VerifyingKey:
    match unverified_header(statement):
        case {"jwk": dict(jwk)}:
            return VerifyingKey.from_jwk(jwk)
        case _:
            raise FormatError("the version's statement carries no public key (jwk)")


def _name(number: int) -> str:
    return f"{_FOLDER}/{number}.jws"
