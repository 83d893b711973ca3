"""`strongroom dataset`: make, fill, look at, decrypt and destroy datasets, as their owner."""

from pathlib import Path

import click

from strongroom.base.encoding import Json
from strongroom.base.errors import RefusedError
from strongroom.cli import dataset_keys, owned_datasets
from strongroom.cli.approving import read_rosters
from strongroom.cli.commands.keys import COLUMN, FINISH, print_rotated
from strongroom.cli.options import DATASET_NAME, NameList, json_option, state_option
from strongroom.cli.session import owner_client
from strongroom.cli.state import State, location_of, read_file
from strongroom.cli.terminal import counting, examples, print_json, print_records, say, short
from strongroom.datasets.storage import write_file
from strongroom.receipts.shredding import verify_shredding
from strongroom.submit.run import load_trust
from strongroom.submit.services import trusted_service

_FROM = click.option(
    "--from", "location", metavar="LOCATION", help="Where the ciphertext lies.  [default: in the state folder]"
)
_VERSION = click.option(
    "--version", "number", type=click.IntRange(min=1), metavar="N", help="A version.  [default: the newest]"
)


@click.group()
def dataset() -> None:
    """Make, fill, look at, decrypt and destroy datasets, as their owner."""


@dataset.command(
    epilog=examples("strongroom dataset create trips", "strongroom dataset create people --column-keys ssn,iban")
)
@click.argument("name", type=DATASET_NAME)
@click.option(
    "--column-keys",
    "columns",
    type=NameList(),
    default=(),
    metavar="COLUMNS",
    help="Columns that get keys of their own, separated by commas; an approval opens them by name only.  "
    "[default: none]",
)
@state_option
def create(*, name: str, columns: tuple[str, ...], state: State) -> None:
    """Make the dataset NAME: a key of its own at the key service, and no data yet.

    With --column-keys, each of these columns has a key as well. An application reads such a column only if its approval
    names it (`strongroom approve --column`). Which columns they are is fixed for good.
    """
    owner_client(state).create_dataset(name, columns=columns)
    own = f", columns with keys of their own: {', '.join(columns)}" if columns else ""
    say(f"dataset {name} made{own}; fill it with: strongroom dataset encrypt {name} FILES")


@dataset.command(epilog=examples("strongroom dataset encrypt trips trips-2018.parquet trips-2019.csv.gz"))
@click.argument("name", type=DATASET_NAME)
@click.argument("sources", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path), metavar="SOURCE...")
@click.option(
    "--to", "location", metavar="LOCATION", help="Folder or URI for the ciphertext.  [default: in the state folder]"
)
@click.option("--append", is_flag=True, help="Keep the files of the version before.")
@state_option
def encrypt(*, name: str, sources: tuple[Path, ...], location: str | None, append: bool, state: State) -> None:
    """Encrypt SOURCEs into the next version of the dataset NAME.

    A SOURCE is a CSV, CSV.gz or Parquet file, or a folder of such files. Without --append, the new version holds
    these files alone; versions before it stay where they are.
    """
    from strongroom.datasets.plain_files import read_files  # noqa: PLC0415 - loads pyarrow

    place = location_of(location) if location else state.storage(name)
    key_service = trusted_service(load_trust(state.trust), "key-service").identity
    with counting(f"encrypting {name}", unit="rows") as counter:
        version = owned_datasets.encrypt(
            owner_client(state),
            read_files(sources),
            name=name,
            key_service=key_service,
            location=place,
            append=append,
            progress=counter.add,
        )
    say(f"dataset {name}: version {version.number}, {counter.total:,} rows encrypted in {place}")


@dataset.command(epilog=examples("strongroom dataset decrypt report --to report-plain --path by_month"))
@click.argument("name", type=DATASET_NAME)
@_FROM
@click.option(
    "--to",
    "output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="A folder that does not exist yet.",
)
@click.option("--path", default="", metavar="SUB", help="Only what stands at or below this place in the dataset.")
@_VERSION
@state_option
def decrypt(*, name: str, location: str | None, output: Path, path: str, number: int | None, state: State) -> None:
    """Decrypt the dataset NAME into plain Parquet files, after checking each against the manifest."""
    place = location_of(location) if location else state.storage(name)
    with counting(f"decrypting {name}", unit="rows") as counter:
        version = owned_datasets.open_version(owner_client(state), name=name, location=place, number=number)
        files = owned_datasets.decrypt(
            version, location=place, path=path.strip("/"), output=output, progress=counter.add
        )
    say(
        f"dataset {name}, version {version.statement.number}: "
        f"{counter.total:,} rows in {files} files, in the clear, in {output}"
    )


@dataset.command(epilog=examples("strongroom dataset show trips", "strongroom dataset show trips --version 2 --json"))
@click.argument("name", type=DATASET_NAME)
@_FROM
@_VERSION
@json_option
@state_option
def show(*, name: str, location: str | None, number: int | None, as_json: bool, state: State) -> None:
    """Show what is in a version of the dataset NAME: its files, as its manifest lists them."""
    place = location_of(location) if location else state.storage(name)
    version = owned_datasets.open_version(owner_client(state), name=name, location=place, number=number)
    files: list[dict[str, Json]] = [
        {"path": file.path, "rows": file.rows, "length_bytes": file.length_bytes, "write": file.write_id}
        for file in version.manifest.files
    ]
    statement = version.statement
    if as_json:
        print_json({"statement": statement.model_dump(mode="json"), "location": place, "files": files})
        return
    say(f"dataset {name}, version {statement.number}, written {statement.created_at} by {short(statement.writer)}")
    say(f"encrypted in {place}, manifest {short(statement.manifest_digest)}")
    columns = {"path": "file", "rows": "rows", "length_bytes": "bytes (encrypted)", "write": "write"}
    print_records(files, columns=columns, as_json=False)


@dataset.command(epilog=examples("strongroom dataset versions trips"))
@click.argument("name", type=DATASET_NAME)
@json_option
@state_option
def versions(*, name: str, as_json: bool, state: State) -> None:
    """List the versions of the dataset NAME that the key service countersigned."""
    records = [version.model_dump(mode="json") for version in owner_client(state).versions(name)]
    columns = {"number": "version", "created_at": "written", "writer": "by", "manifest_digest": "manifest"}
    print_records(records, columns=columns, as_json=as_json)


@dataset.command(
    epilog=examples("strongroom dataset rotate trips", "strongroom dataset rotate people --column iban --finish")
)
@click.argument("name", type=DATASET_NAME)
@COLUMN
@FINISH
@json_option
@state_option
def rotate(*, name: str, column: str | None, finish: bool, as_json: bool, state: State) -> None:
    """Make the next version of the keys of the dataset NAME, and wrap everything anew that stands under older ones.

    Data and manifests stay as they are, and runs go on. If it is interrupted, both versions open what stands under
    them: go on with --finish. The older version is destroyed by `strongroom dataset retire` alone.
    """
    print_rotated(name, dataset_keys.rotate(owner_client(state), name, column=column, finish=finish), as_json=as_json)


@dataset.command(
    epilog=examples("strongroom dataset retire trips --version 3f9c", "strongroom dataset retire trips --unused")
)
@click.argument("name", type=DATASET_NAME)
@click.option(
    "--version",
    metavar="ID",
    help="The version of a key, or the beginning of it; `strongroom keys show NAME` lists them.",
)
@click.option("--unused", is_flag=True, help="Every older version under which nothing stands any more.")
@state_option
def retire(*, name: str, version: str | None, unused: bool, state: State) -> None:
    """Destroy an older version of a key of the dataset NAME, under which nothing stands any more.

    It opens nothing from then on, in restored copies of the key service's state either: the log says that it is gone.
    """
    if unused == (version is not None):
        raise click.UsageError("say --version or --unused")
    client = owner_client(state)
    retired = (
        dataset_keys.retire_unused(client, name)
        if version is None
        else (dataset_keys.retire(client, name, version=version),)
    )
    for each in retired:
        what = f"the key of column {each.column}" if each.column else "the dataset's key"
        say(f"dataset {name}: version {each.number} of {what} is destroyed")
    if not retired:
        say(f"dataset {name}: no older version of a key is unused")


@dataset.command(epilog=examples("strongroom dataset shred trips", "strongroom dataset shred trips --confirm trips"))
@click.argument("name", type=DATASET_NAME)
@click.option("--confirm", metavar="NAME", help="The dataset's name once more, instead of being asked for it.")
@click.option(
    "--proof",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the proof goes.  [default: NAME.shredding.json in this folder]",
)
@click.option(
    "--consent",
    "consents",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="What a member of the dataset's roster signed, with `consent-shredding`; repeatable.",
)
@state_option
def shred(*, name: str, confirm: str | None, proof: Path | None, consents: tuple[Path, ...], state: State) -> None:
    """Destroy every key of the dataset NAME, for good: nobody reads any version of it any more, its owner neither.

    The ciphertext stays where it is, and opens no more. Writes a proof that can be verified offline and filed. Copies
    of the key service's state that were made before still hold the keys, encrypted under the master key: the log of the
    running service refuses them, but destroy these copies as well, or replace the master key and destroy the old one.
    """
    path = proof or Path(f"{name}.shredding.json")
    dataset_keys.demand_free(path)
    client = owner_client(state)
    found = client.keys(name)
    if confirm is None:
        say(f"This destroys {len(found.keys)} versions of keys. No version of dataset {name} can be read afterwards.")
        confirm = click.prompt(f"Type the dataset's name to go on ({name})", prompt_suffix=": ")
    if confirm != name:
        raise RefusedError(f"{confirm!r} is not {name!r}: nothing was destroyed", action="type the name as it is")
    signed = tuple(read_file(file, what="the consent").decode("utf-8", errors="replace").strip() for file in consents)
    shredded = client.shred(name, consents=signed)
    say(f"dataset {name}: every key is destroyed")
    dataset_keys.save_proof(shredded, path)
    say(f"proof: {path}; verify it with: strongroom dataset verify-shredding {path}")


@dataset.command("consent-shredding", epilog=examples("strongroom dataset consent-shredding trips --to alice.consent"))
@click.argument("name", type=DATASET_NAME)
@click.option(
    "--to",
    "output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A file that does not exist yet, for the dataset's owner.",
)
@state_option
def consent_shredding(*, name: str, output: Path, state: State) -> None:
    """Agree, as a member of the roster of the dataset NAME, that every key of it is destroyed within a week.

    The owner gives what is signed to `strongroom dataset shred --consent`, of as many members as the roster demands.
    """
    client, trust = owner_client(state), load_trust(state.trust)
    identity = trusted_service(trust, "key-service").identity
    roster = read_rosters(client, name, key_service=identity, trust=trust).now
    if roster is None:
        raise RefusedError(f"dataset {name} has no roster", action="its owner alone destroys its keys")
    dataset_keys.demand_free(output)
    write_file(output, client.consent_to_shredding(roster).encode("ascii"))
    say(f"signed: dataset {name} may be destroyed within a week, if {roster.threshold} of its roster agree: {output}")


@dataset.command(epilog=examples("strongroom dataset shredding trips --proof trips.shredding.json"))
@click.argument("name", type=DATASET_NAME)
@click.option(
    "--proof",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Where the proof goes.  [default: NAME.shredding.json in this folder]",
)
@state_option
def shredding(*, name: str, proof: Path | None, state: State) -> None:
    """Fetch the proof that the keys of the dataset NAME were destroyed."""
    path = proof or Path(f"{name}.shredding.json")
    dataset_keys.save_proof(owner_client(state).shredding(name), path)
    say(f"proof: {path}; verify it with: strongroom dataset verify-shredding {path}")


@dataset.command(
    "verify-shredding", epilog=examples("strongroom dataset verify-shredding trips.shredding.json --trust trust.json")
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The anchors to verify with.  [default: trust.json of the state folder]",
)
@json_option
@state_option
def verify_shredding_(*, file: Path, trust: Path | None, as_json: bool, state: State) -> None:
    """Verify the proof of shredding FILE, offline, with nothing but a trust file.

    It proves that the key service said in its log, for good, that these keys are gone. That no copy is left rests on
    whoever operates the service.
    """
    verified = verify_shredding(read_file(file, what="the proof"), trust=load_trust(trust or state.trust))
    if as_json:
        print_json(verified.model_dump(mode="json"))
        return
    say(f"{file.name}: verified")
    said = f"every key of dataset {verified.dataset} was destroyed at {verified.shredded_at}"
    say(f"{said}, asked by {short(verified.by)}")
    records = [
        {**key.model_dump(mode="json"), "column": key.column or dataset_keys.DATASETS_OWN} for key in verified.keys
    ]
    print_records(records, columns={"column": "column", "key": "key", "version": "version"}, as_json=False)
