"""What an owner does with a key in an Azure vault, on the owner's own machine: describe it, import under it, approve.

One file stands for one key (`wire.vault_key.VaultAddress`, JSON): the statement that applications are bound to, how to
reach the vault, and the approvals that were signed for it. Nothing in it is secret.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from strongroom.base.encoding import Json, canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, ConflictError, FormatError
from strongroom.base.secret import SecretBytes
from strongroom.cli.state import read_file
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_id, random_secret
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import Manifest, build_manifest, open_manifest, parse_header, verify_header
from strongroom.datasets.storage import Storage, write_file
from strongroom.datasets.vault_versions import (
    newest_version,
    next_version,
    publish_version,
    read_version,
    sign_version,
    verify_version,
)
from strongroom.keys.vault_hierarchy import accept_key, wrap_to_public_half, wrapped_by_vault
from strongroom.policy.approval import Approval
from strongroom.wire.key_service import APPROVAL_TYP, DatasetVersion
from strongroom.wire.vault_key import VaultAddress, VaultKey, VaultKind, parse_vault_key

if TYPE_CHECKING:
    import pyarrow as pa

    from strongroom.cli.owned_datasets import OpenedVersion

WrapInVault = Callable[[bytes], bytes]
"""Has the vault wrap 32 bytes with its symmetric key (`wrapkey`, A256KW)."""
_DESCRIBE: Final = "Make it with: strongroom vault describe"
_KINDS: Final[Mapping[str, VaultKind]] = {
    ".vault.azure.net": "azure-key-vault",
    ".vault.azure.cn": "azure-key-vault",
    ".vault.usgovcloudapi.net": "azure-key-vault",
    ".managedhsm.azure.net": "azure-managed-hsm",
    ".managedhsm.azure.cn": "azure-managed-hsm",
    ".managedhsm.usgovcloudapi.net": "azure-managed-hsm",
}


def read_vault_file(path: Path) -> VaultAddress:
    """Read the file of a vault's key.

    Raises:
        ConfigurationError: It cannot be read.
        FormatError: It is none.
    """
    address = VaultAddress.from_json(read_file(path, what="the vault key's file", action=_DESCRIBE))
    parse_vault_key(address.statement)
    return address


def write_vault_file(path: Path, address: VaultAddress) -> None:
    """Write the file of a vault's key, as a whole."""
    write_file(path, address.to_json() + b"\n")


def describe_key(
    shown: bytes,
    *,
    kind: VaultKind | None,
    roots_der: Iterable[bytes],
    owners: Iterable[str],
    check_value: str | None,
) -> VaultKey:
    """Return the statement about a key that a vault shows.

    Args:
        shown: What `az keyvault key show` prints, or the vault's own answer: JSON.
        kind: What keeps it; None to tell from its address.
        roots_der: The root certificates that releases may end at.
        owners: Thumbprints of the keys that sign approvals and versions.
        check_value: Of symmetric keys: see `crypto.released_keys.check_value_of`.

    Raises:
        FormatError: It shows no such key.
        ConfigurationError: Its address does not tell what keeps it.
    """
    kid, kty = key_shown(shown)
    url, _, place = kid.partition("/keys/")
    name, _, version = place.partition("/")
    return VaultKey.from_object(
        {
            "kind": kind or _kind_of(url),
            "url": url,
            "key": name,
            "key_version": version,
            "kty": kty,
            "public_jwk": _public_jwk(shown) if kty.startswith("RSA") else None,
            "check_value": check_value,
            "roots": [sha256_hex(each) for each in roots_der],
            "owners": list(owners),
        }
    )


def key_shown(shown: bytes) -> tuple[str, str]:
    """Return identifier and type of the key that a vault shows.

    Raises:
        FormatError: It shows none.
    """
    match parse_json_object(shown):
        case {"key": {"kid": str(kid), "kty": str(kty)}}:
            return kid, kty
        case _:
            raise FormatError("this does not show a key", action="Give what `az keyvault key show` prints.")


def sign_approval(approval: Approval, *, key: SigningKey) -> str:
    """Sign an approval so that it says itself who signed it; nobody stores it."""
    return sign_jws(approval.to_json(), key=key, header={"typ": APPROVAL_TYP, "jwk": key.verifying_key.to_jwk()})


def approvals_in(addresses: Iterable[VaultAddress]) -> list[Approval]:
    """Return the approvals in files of vaults' keys. Their signatures are their readers' to verify."""
    return [
        Approval.from_json(unverified_payload(token)) for address in addresses for token in address.approvals.values()
    ]


def encrypt(
    key: VaultKey,
    tables: "Iterable[pa.Table]",
    *,
    name: str,
    location: str,
    owner: SigningKey,
    wrap: WrapInVault | None,
    now: datetime,
    progress: Callable[[int], None],
) -> DatasetVersion:
    """Encrypt tables into the next version of a dataset under a vault's key.

    1. Make a write key; wrap it to the key's public half, or have the vault wrap it.
    2. Encrypt the tables to storage, and write the manifest; nobody names it yet.
    3. Sign the version, and give it the next number: from now on it is the newest one.

    Args:
        key: The key's statement.
        tables: Tables of one schema.
        name: The dataset.
        location: Where its storage lies.
        owner: The owner's key, which the statement names.
        wrap: For symmetric keys.
        now: The time.
        progress: Told the rows that were encrypted, now and then.

    Raises:
        ConfigurationError: The statement does not name this owner, or there is no way to wrap.
        ConflictError: Somebody else made the next version first; nothing of this one is left.
    """
    from strongroom.datasets.parquet import encrypt_parquet  # noqa: PLC0415 - loads pyarrow

    if owner.verifying_key.thumbprint not in key.owners:
        raise ConfigurationError(
            "the vault key's statement names other owners than this one",
            action="Describe the key with your own key among --owner, and have applications bound to that.",
        )
    storage, write_id, secret = Storage(location), random_id(), random_secret()
    wrapped = to_b64url(_wrapped(key, secret, name=name, write_id=write_id, wrap=wrap))  # 1
    base, manifest_before = _base(storage)
    write = DatasetWrite(write_id=write_id, key=secret, wrapped=wrapped, base=None if base is None else base.number)
    files = encrypt_parquet(tables, location=location, dataset=name, write=write, progress=progress)  # 2
    manifest, digest = build_manifest(
        dataset=name, key_service=key.identity, base=manifest_before, write=write, files=files
    )
    storage.write_manifest(manifest, digest)
    version = next_version(
        key=key,
        dataset=name,
        base=base,
        manifest_digest=digest,
        write_ids=tuple(parse_header(manifest).write_keys),
        writer=f"owner:{owner.verifying_key.thumbprint}",
        created_at=now,
    )
    try:
        publish_version(storage, version.number, sign_version(version, key=owner))  # 3
    except ConflictError:
        storage.remove_folder(write_id)
        raise
    return version


def open_with_private_key(
    key: VaultKey, pkcs8: SecretBytes, *, name: str, location: str, number: int | None
) -> "OpenedVersion":
    """Open a version with the owner's own copy of the vault's key.

    Args:
        key: The key's statement.
        pkcs8: The private key: PKCS #8 DER; of symmetric keys the 32 bytes.
        name: The dataset.
        location: Where its storage lies.
        number: The version; None for the newest that storage shows.

    Raises:
        FormatError: Not such a key.
        IntegrityError: Another key, or storage was changed.
        NotFoundError: No such version.
        VerificationError: Nobody who may signed the version.
    """
    from strongroom.cli.owned_datasets import OpenedVersion  # noqa: PLC0415 - only what decrypts needs it

    released, storage = accept_key(key, pkcs8), Storage(location)
    wanted = number if number is not None else newest_version(storage) or 1
    run_key = released.version_key(name).verifying_key
    statement = verify_version(read_version(storage, wanted), key=key, run_key=run_key, dataset=name, number=wanted)
    data = storage.read_manifest(statement.manifest_digest)
    keys = {
        write_id: released.unwrap(from_any_b64(text), dataset=name, write_id=write_id)
        for write_id, text in verify_header(data, statement=statement).write_keys.items()
    }
    return OpenedVersion(
        statement=statement,
        manifest=open_manifest(data, statement=statement, write_keys=keys),
        write_keys=keys,
        column_keys={},
    )


def _kind_of(url: str) -> VaultKind:
    host = urlsplit(url).hostname or ""
    for ending, kind in _KINDS.items():
        if host.endswith(ending):
            return kind
    raise ConfigurationError(
        f"the address {url} does not tell whether it is a Key Vault or a Managed HSM", action="Say it with --kind."
    )


def _public_jwk(shown: bytes) -> dict[str, Json]:
    match parse_json_object(shown):
        case {"key": {"n": str(n), "e": str(e)}}:
            return {"kty": "RSA", "n": to_b64url(from_any_b64(n)), "e": to_b64url(from_any_b64(e))}
        case _:
            raise FormatError(
                "the key that is shown has no public half", action="Give what `az keyvault key show` prints."
            )


def _wrapped(key: VaultKey, secret: SecretBytes, *, name: str, write_id: str, wrap: WrapInVault | None) -> bytes:
    if key.is_rsa:
        return wrap_to_public_half(key, secret, dataset=name, write_id=write_id)
    if wrap is None:
        raise ConfigurationError(
            "a symmetric key takes imports through the vault alone",
            action="Give an access token for it: --token FILE.",
        )
    return wrapped_by_vault(key, wrap(secret.reveal()))


def _base(storage: Storage) -> tuple[DatasetVersion, Manifest] | tuple[None, None]:
    """Return what the next version follows.

    Only its number and digest are used, and the owner signs them anew: a false predecessor, which storage can show,
    makes a gap in the numbers and nothing else.
    """
    number = newest_version(storage)
    if number is None:
        return None, None
    statement = DatasetVersion.from_json(unverified_payload(read_version(storage, number)))
    header = verify_header(storage.read_manifest(statement.manifest_digest), statement=statement)
    return statement, Manifest(header=header, digest=statement.manifest_digest, files=())


def policy_text(policy: bytes) -> str:
    """Return a release policy as `az keyvault key` takes it from a file."""
    return canonical_json(parse_json_object(policy)).decode()
