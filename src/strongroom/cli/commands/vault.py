"""`strongroom vault`: datasets whose key is in an Azure Key Vault or Managed HSM, as their owner."""

from pathlib import Path
from typing import Literal, get_args

import click

from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.base.secret import SecretBytes
from strongroom.cli import owned_datasets, vaults
from strongroom.cli.applications import demand_binding, find_application
from strongroom.cli.applications import describe as describe_application
from strongroom.cli.options import DATASET_NAME, state_option
from strongroom.cli.owner_keys import public_key_of, read_private, thumbprint_of
from strongroom.cli.policies import azure_policy, common_policy_hash
from strongroom.cli.session import attestation_client, owner_key
from strongroom.cli.state import State, location_of, read_file
from strongroom.cli.terminal import counting, examples, say, short
from strongroom.clients.azure_key_vault import wrap_in_vault
from strongroom.clients.https import Https
from strongroom.crypto.released_keys import CHECKED_VALUE, check_value_of, pkcs8_of
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.policy.approval import MAX_RUNS, Approval, PlatformDemand
from strongroom.policy.key_back_ends import KeyBackEnd, demand_key_back_end, not_enforced
from strongroom.policy.vault_approval import vault_release_policy
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service
from strongroom.wire.model import TEE_KINDS, TeeKind
from strongroom.wire.trust import Trust
from strongroom.wire.vault_key import (
    ManagedIdentity,
    VaultAddress,
    VaultKey,
    VaultKind,
    WorkloadIdentity,
    parse_vault_key,
)

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
_TOKEN = click.option(
    "--token",
    "token_file",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="An access token for the vault, which symmetric keys need: `az account get-access-token`.",
)


@click.group()
def vault() -> None:
    """Keep datasets' keys in an Azure Key Vault or Managed HSM, as their owner.

    FILE stands for one key: its statement, how to reach the vault, and the approvals. Nothing in it is secret.
    """


@vault.command(
    epilog=examples(
        "az keyvault key show --vault-name V --name trips > trips-key.json",
        "strongroom vault describe trips.vault trips-key.json --root DigiCertGlobalRootG2.pem",
    )
)
@_FILE
@click.argument("shown", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--kind", type=click.Choice(get_args(VaultKind)), help="What keeps the key.  [default: by its address]")
@click.option(
    "--root",
    "roots",
    multiple=True,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Root certificates (PEM) that the vault's signature on a release may end at; repeatable.",
)
@click.option("--owner", "owners", multiple=True, metavar="KEYFILE", help="Further owners' public keys; repeatable.")
@click.option("--token-url", metavar="URL", help="Workload identity: Entra's token endpoint.")
@click.option("--client-id", metavar="ID", help="Workload or managed identity: which one.")
@click.option("--token-file", "federated", metavar="FILE", help="Workload identity: where its token is in the TEE.")
@click.option("--resource", metavar="URL", help="For whom tokens are asked.  [default: the global cloud's]")
@click.option(
    "--authorities",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Whose certificates (PEM) are accepted at the vault's and Entra's address.  [default: the machine's]",
)
@_TOKEN
@state_option
def describe(  # noqa: PLR0913 - what a statement and an address consist of
    *,
    file: Path,
    shown: Path,
    kind: VaultKind | None,
    roots: tuple[Path, ...],
    owners: tuple[str, ...],
    token_url: str | None,
    client_id: str | None,
    federated: str | None,
    resource: str | None,
    authorities: Path | None,
    token_file: Path | None,
    state: State,
) -> None:
    """Describe the key that SHOWN shows, in FILE: what applications are bound to.

    SHOWN is what `az keyvault key show` prints. With --token-url and --client-id the TEE uses a workload identity,
    otherwise the machine's own. Approvals that FILE held are dropped: they were for another statement.
    """
    roots_pem = "".join(read_file(root, what="the root certificate").decode("ascii", "replace") for root in roots)
    authorities_pem = read_file(authorities, what="the certificate").decode("ascii", "replace") if authorities else None
    data = read_file(shown, what="what `az keyvault key show` printed")
    key = vaults.describe_key(
        data,
        kind=kind,
        roots_der=parse_pem_chain(roots_pem.encode()),
        owners=dict.fromkeys([owner_key(state).verifying_key.thumbprint, *map(thumbprint_of, owners)]),
        check_value=_check_value(data, token_file, authorities_pem=authorities_pem),
    )
    address = VaultAddress(
        statement=key.to_json().decode(),
        roots_pem=roots_pem,
        credential=_credential(token_url, client_id, federated, authorities_pem=authorities_pem),
        resource=resource,
        authorities_pem=authorities_pem,
    )
    vaults.write_vault_file(file, address)
    say(f"{key.kty} key {key.kid}")
    say(f"statement {key.identity}, what applications bind; wrote {file}")
    _say_weaker(key.kind)


@vault.command(epilog=examples("strongroom vault encrypt trips.vault trips trips-2018.parquet"))
@_FILE
@click.argument("name", type=DATASET_NAME)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="SOURCE...")
@click.option("--to", "location", metavar="LOCATION", help="Folder or URI for the ciphertext.  [default: state folder]")
@_TOKEN
@state_option
def encrypt(
    *, file: Path, name: str, sources: tuple[Path, ...], location: str | None, token_file: Path | None, state: State
) -> None:
    """Encrypt SOURCEs into the next version of the dataset NAME, under the key of FILE; it holds these files alone."""
    from strongroom.datasets.plain_files import read_files  # noqa: PLC0415 - loads pyarrow

    address = vaults.read_vault_file(file)
    key, place = parse_vault_key(address.statement), location_of(location) if location else state.storage(name)
    with counting(f"encrypting {name}", unit="rows") as counter:
        version = vaults.encrypt(
            key,
            read_files(sources),
            name=name,
            location=place,
            owner=owner_key(state),
            wrap=None if token_file is None else _wrapping(key, token_file, authorities_pem=address.authorities_pem),
            now=SystemClock().now(),
            progress=counter.add,
        )
    say(f"dataset {name}: version {version.number}, {counter.total:,} rows encrypted in {place}")


@vault.command()
@_FILE
@click.argument("name", type=DATASET_NAME)
@click.option(
    "--private-key",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PEM",
    help="Your own copy of the key, which you imported into the vault.",
)
@click.option("--from", "location", metavar="LOCATION", help="Where the ciphertext lies.  [default: state folder]")
@click.option("--to", "output", required=True, type=click.Path(path_type=Path), metavar="DIR", help="A new folder.")
@click.option("--version", "number", type=click.IntRange(min=1), metavar="N", help="A version.  [default: the newest]")
@state_option
def decrypt(
    *, file: Path, name: str, private_key: Path, location: str | None, output: Path, number: int | None, state: State
) -> None:
    """Decrypt the dataset NAME into plain Parquet files, with your own copy of an RSA key."""
    key = parse_vault_key(vaults.read_vault_file(file).statement)
    place = location_of(location) if location else state.storage(name)
    pkcs8 = pkcs8_of(read_private(private_key))
    opened = vaults.open_with_private_key(key, pkcs8, name=name, location=place, number=number)
    with counting(f"decrypting {name}", unit="rows") as counter:
        files = owned_datasets.decrypt(opened, location=place, path="", output=output, progress=counter.add)
    say(f"dataset {name}, version {opened.statement.number}: {counter.total:,} rows in {files} files in {output}")


@vault.command(
    epilog=examples("strongroom vault approve trips.vault 3f9c --dataset trips --read --recipient recipient.jwk")
)
@_FILE
@click.argument("digest")
@click.option("--dataset", required=True, type=DATASET_NAME, help="The dataset that is opened to the application.")
@click.option("--read", "access", flag_value="read", help="It may read the dataset.")
@click.option("--write", "access", flag_value="write", help="It may write the dataset's next version.")
@click.option("--submitter", "submitters", multiple=True, metavar="KEYFILE|THUMBPRINT", help="Who may submit it.")
@click.option("--recipient", "recipients", multiple=True, metavar="KEYFILE", help="Who may read what it prints.")
@click.option("--tee", "tees", type=click.Choice(TEE_KINDS), multiple=True, default=("sgx",), show_default=True)
@click.option(
    "--issuer",
    metavar="URL",
    help="Whose results count; a Key Vault believes Azure Attestation alone.  [default: the attestation service]",
)
@click.option(
    "--policy-hash",
    "policy_hash",
    metavar="HASH",
    help="The evidence policy's hash at --issuer.  [default: of Azure Attestation in the trust file that of what "
    "`policy azure` prints; of the attestation service that of the registered policy]",
)
@state_option
def approve(  # noqa: PLR0913 - an option for each thing that an approval says
    *,
    file: Path,
    digest: str,
    dataset: str,
    access: Literal["read", "write"] | None,
    submitters: tuple[str, ...],
    recipients: tuple[str, ...],
    tees: tuple[TeeKind, ...],
    issuer: str | None,
    policy_hash: str | None,
    state: State,
) -> None:
    """Approve that an application uses a dataset under the key of FILE, and keep the signed approval in FILE.

    It counts nothing and does not end: what a vault cannot enforce is shown, and accepted by approving. The vault acts
    on its key's release policy alone: put it there with what `strongroom vault policy` prints.
    """
    if access is None:
        raise click.UsageError("say --read or --write")
    address, description, trust = (
        vaults.read_vault_file(file),
        find_application(digest, state=state),
        load_trust(state.trust),
    )
    key = parse_vault_key(address.statement)
    demand_binding(description, dataset=dataset, access=access)
    if description.datasets[dataset].key_service != key.identity:
        raise ConfigurationError(
            f"the application binds dataset {dataset} to something else than this key",
            action=f"Pack it again with --vault {dataset}={file}.",
        )
    real = PlatformDemand.from_object(
        {"machines": "any", "min_tcb_evaluation_data_number": None, "min_crl_number": None}
    )
    approval = Approval(
        dataset=dataset,
        key_service=key.identity,
        application=description.digest,
        access=access,
        evidence_policy_hash=policy_hash or _policy_hash(state, tees, issuer=issuer, trust=trust),
        attestation_issuer=issuer or trusted_service(trust, "attestation-service").own_url,
        hardware=trust.hardware,
        platform=real if trust.hardware == "real" else None,
        tees=tuple(dict.fromkeys(tees)),
        shapes=("process",),
        max_runs=MAX_RUNS,
        submitters=tuple(map(thumbprint_of, submitters or (str(state.submitter_key),))),
        recipients=tuple(public_key_of(each).to_jwk() for each in recipients),
        back_end=key.kind,
        issued_at=to_rfc3339(SystemClock().now()),
    )
    demand_key_back_end(approval, KeyBackEnd(key.kind))
    say(f"You approve: {access} dataset {dataset} under {key.kid}")
    for name, text in (
        *describe_application(description),
        ("evidence", f"policy {approval.evidence_policy_hash} at {approval.attestation_issuer}"),
        ("hardware", f"{approval.hardware}, {' or '.join(approval.tees)}"),
        ("submitted by", ", ".join(map(short, approval.submitters))),
        ("output to", ", ".join(short(public_key_of(each).thumbprint) for each in recipients) or "nobody"),
    ):
        say(f"  {name:<12} {text}")
    _say_weaker(key.kind)
    token = vaults.sign_approval(approval, key=owner_key(state))
    vaults.write_vault_file(file, address.model_copy(update={"approvals": {**address.approvals, dataset: token}}))
    say(f"approved and signed in {file}; now put on the key what `strongroom vault policy {file}` prints")


@vault.command(epilog=examples("strongroom vault policy trips.vault > policy.json"))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE...")
def policy(*, files: tuple[Path, ...]) -> None:
    """Print the release policy that the approvals in FILEs amount to, for `az keyvault key create|set-attributes`.

    All of a key's approvals have to be among them: the policy that is on a key is replaced as a whole.
    """
    addresses = [vaults.read_vault_file(file) for file in files]
    if len({address.statement for address in addresses}) != 1:
        raise ConfigurationError("these files are about different keys", action="Give the files of one key.")
    approvals = vaults.approvals_in(addresses)
    if not approvals:
        raise ConfigurationError("there is no approval in these files", action="Approve with: strongroom vault approve")
    say(vaults.policy_text(vault_release_policy(approvals).data))


def _policy_hash(state: State, tees: tuple[TeeKind, ...], *, issuer: str | None, trust: Trust) -> str:
    if issuer is not None:
        if issuer not in [each.url for each in trust.azure_attestation]:
            raise click.UsageError("say the hash of the evidence policy at --issuer: --policy-hash HASH")
        return azure_policy(trust).hash
    client, token = attestation_client(state)
    return common_policy_hash(client, tees, token=token)


def _say_weaker(kind: VaultKind) -> None:
    say(f"{kind} does not enforce, and nobody in its place:")
    for demand in not_enforced(KeyBackEnd(kind)):
        say(f"  {demand}")


def _credential(
    token_url: str | None, client_id: str | None, federated: str | None, *, authorities_pem: str | None
) -> WorkloadIdentity | ManagedIdentity:
    if token_url is None and federated is None:
        return ManagedIdentity(client_id=client_id)
    if token_url is None or client_id is None or federated is None:
        raise click.UsageError("a workload identity has --token-url, --client-id and --token-file")
    return WorkloadIdentity(
        token_url=token_url, client_id=client_id, token_file=federated, authorities_pem=authorities_pem
    )


def _check_value(shown: bytes, token_file: Path | None, *, authorities_pem: str | None) -> str | None:
    kid, kty = vaults.key_shown(shown)
    if kty.startswith("RSA"):
        return None
    if token_file is None:
        raise ConfigurationError(
            "a symmetric key is identified by what it wraps, which the vault has to be asked for",
            action="Give an access token for it: --token FILE.",
        )
    return check_value_of(_wrap(kid, token_file, CHECKED_VALUE, authorities_pem=authorities_pem))


def _wrapping(key: VaultKey, token_file: Path, *, authorities_pem: str | None) -> vaults.WrapInVault:
    return lambda value: _wrap(key.kid, token_file, value, authorities_pem=authorities_pem)


def _wrap(kid: str, token_file: Path, value: bytes, *, authorities_pem: str | None) -> bytes:
    url, _, place = kid.partition("/keys/")
    token = SecretBytes(read_file(token_file, what="the access token").strip())
    if not token.reveal().isascii() or not token.reveal():
        raise FormatError(f"{token_file} holds no access token")
    return wrap_in_vault(
        Https(url, service="the vault", authorities_pem=authorities_pem), f"/keys/{place}", value, token=token
    )
