"""`strongroom dataset`: make, fill, look at and decrypt datasets, as their owner."""

from pathlib import Path

import click

from strongroom.base.encoding import Json
from strongroom.cli import owned_datasets
from strongroom.cli.options import DATASET_NAME, examples, json_option, state_option
from strongroom.cli.session import owner_client
from strongroom.cli.state import State, location_of
from strongroom.cli.terminal import counting, print_json, print_records, say, short
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
    """Make, fill, look at and decrypt datasets, as their owner."""


@dataset.command(epilog=examples("strongroom dataset create trips"))
@click.argument("name", type=DATASET_NAME)
@state_option
def create(*, name: str, state: State) -> None:
    """Make the dataset NAME: a key of its own at the key service, and no data yet."""
    owner_client(state).create_dataset(name)
    say(f"dataset {name} made; fill it with: strongroom dataset encrypt {name} FILES")


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
