"""New York taxi trips as Parquet: from the TLC's own files, or made up from a seed.

    python trips.py prepare SOURCE... OUT_DIR
    python trips.py generate OUT_DIR --rows N --seed S

A SOURCE is a file or a folder: CSV, CSV.gz, or Parquet as the TLC and the Azure Open Dataset publish it. The three
spellings of the field names become the ones of `SCHEMA`; other columns stay behind.

Source: TLC, Data Dictionary - Yellow Taxi Trip Records.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

SCHEMA = pa.schema(
    [
        ("vendor_id", pa.int32()),
        ("pickup_datetime", pa.timestamp("us")),
        ("dropoff_datetime", pa.timestamp("us")),
        ("passenger_count", pa.int32()),
        ("trip_distance", pa.float64()),  # miles
        ("rate_code_id", pa.int32()),
        ("store_and_fwd_flag", pa.string()),
        ("pickup_location_id", pa.int32()),
        ("dropoff_location_id", pa.int32()),
        ("payment_type", pa.int32()),
        ("fare_amount", pa.float64()),  # this and all amounts below: US dollars
        ("extra", pa.float64()),
        ("mta_tax", pa.float64()),
        ("tip_amount", pa.float64()),
        ("tolls_amount", pa.float64()),
        ("improvement_surcharge", pa.float64()),
        ("total_amount", pa.float64()),
        ("congestion_surcharge", pa.float64()),
    ]
)
OPTIONAL = frozenset({"congestion_surcharge"})  # not in files written before 2019, nor in Azure's copy

# What remains of a published name after `_plain_name`, where that is not simply the canonical name.
_ALIASES = {
    "tpeppickupdatetime": "pickup_datetime",
    "tpepdropoffdatetime": "dropoff_datetime",
    "pulocationid": "pickup_location_id",
    "dolocationid": "dropoff_location_id",
}
_SUFFIXES = (".csv", ".csv.gz", ".parquet")
_CSV_BLOCK_BYTES = 8 << 20
_BATCH_ROWS = 1 << 16

_log = logging.getLogger(__name__)


class UnreadableTripsError(Exception):
    """A source is not a file of taxi trips; the message names the file and says why."""


def find_sources(sources: Iterable[Path]) -> list[Path]:
    """Return the files of trips that the sources name, folders searched to the bottom, in a fixed order.

    Raises:
        UnreadableTripsError: A source does not exist, is of another kind, or a folder holds no such file.
    """
    found: list[Path] = []
    for source in sources:
        inside = source.rglob("*") if source.is_dir() else [source]
        files = sorted(path for path in inside if path.is_file() and path.name.lower().endswith(_SUFFIXES))
        if not files:
            raise UnreadableTripsError(f"{source}: no file that ends in {', '.join(_SUFFIXES)}")
        found += files
    return found


def read_trips(paths: Iterable[Path]) -> Iterator[pa.Table]:
    """Read files of trips in pieces that fit in memory.

    Args:
        paths: CSV, CSV.gz or Parquet files in any of the three spellings.

    Yields:
        Tables of `SCHEMA`. Unknown columns are left out, with a note in the log.

    Raises:
        UnreadableTripsError: A file cannot be read, lacks a required column, or holds values of another type.
    """
    for path in paths:
        reader = _read_parquet if path.name.lower().endswith(".parquet") else _read_csv
        try:
            for batch, names in reader(path):
                yield _to_schema(batch, names)
        except (pa.ArrowException, UnicodeError, OSError) as error:
            raise UnreadableTripsError(f"{path}: {error}") from error


def generate(rows: int, seed: int) -> Iterator[pa.Table]:
    """Make up trips of 2018 and 2019 that look like the real ones, refunds and missing values included.

    Args:
        rows: How many.
        seed: The same seed gives the same trips; fewer rows of a seed are the first of more.

    Yields:
        Tables of `SCHEMA`.
    """
    for number, start in enumerate(range(0, rows, _BATCH_ROWS)):
        rng = np.random.default_rng([seed, number])
        yield _generate_batch(rng).slice(0, rows - start)


def write_trips(tables: Iterable[pa.Table], out_dir: Path, *, rows_per_file: int) -> int:
    """Write trips as `OUT_DIR/trips-NNNNN.parquet`, all of them or nothing.

    Returns:
        The number of rows written.

    Raises:
        FileExistsError: There is something in the folder already.
    """
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise FileExistsError(f"{out_dir} exists and is not an empty folder")
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    rows = 0
    with tempfile.TemporaryDirectory(prefix=f".{out_dir.name}-", dir=out_dir.parent) as unfinished:
        finished = Path(unfinished, "trips")
        finished.mkdir()
        for number, table in enumerate(_regroup(tables, rows_per_file)):
            parquet.write_table(table, finished / f"trips-{number:05}.parquet")
            rows += table.num_rows
        finished.rename(out_dir)
    return rows


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Cut and join tables into tables of exactly `rows` rows, the last one of what is left."""
    pending: list[pa.Table] = []
    pending_rows = 0
    for table in tables:
        pending.append(table)
        pending_rows += table.num_rows
        while pending_rows >= rows:
            joined = pa.concat_tables(pending)
            yield joined.slice(0, rows)
            pending = [joined.slice(rows)]
            pending_rows -= rows
    if pending_rows:
        yield pa.concat_tables(pending)


# --- reading -----------------------------------------------------------------------------------------------------


def _read_parquet(path: Path) -> Iterator[tuple[pa.RecordBatch, dict[str, str]]]:
    with parquet.ParquetFile(path) as file:
        names = _map_names(path, file.schema_arrow.names)
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=list(names.values())):
            yield batch, names


def _read_csv(path: Path) -> Iterator[tuple[pa.RecordBatch, dict[str, str]]]:
    read_options = csv.ReadOptions(block_size=_CSV_BLOCK_BYTES)
    with csv.open_csv(path, read_options=read_options) as header:
        names = _map_names(path, header.schema.names)
    convert_options = csv.ConvertOptions(
        include_columns=list(names.values()),
        column_types={theirs: _csv_type(SCHEMA.field(ours).type) for ours, theirs in names.items()},
        strings_can_be_null=True,
    )
    with csv.open_csv(path, read_options=read_options, convert_options=convert_options) as batches:
        for batch in batches:
            yield batch, names


def _csv_type(column_type: pa.DataType) -> pa.DataType:
    """Return the type to read a column as: some files write whole numbers as `1.0`."""
    return pa.float64() if pa.types.is_integer(column_type) else column_type


def _map_names(path: Path, published: list[str]) -> dict[str, str]:
    """Return canonical name → published name for the columns that we know."""
    names: dict[str, str] = {}
    unknown: list[str] = []
    canonical = {_plain_name(name): name for name in SCHEMA.names} | _ALIASES
    for theirs in published:
        ours = canonical.get(_plain_name(theirs))
        if ours is None:
            unknown.append(theirs)
        elif ours in names:
            raise UnreadableTripsError(f"{path}: two columns are {ours}: {names[ours]!r} and {theirs!r}")
        else:
            names[ours] = theirs
    missing = [name for name in SCHEMA.names if name not in names and name not in OPTIONAL]
    if missing:
        raise UnreadableTripsError(f"{path}: no column for {', '.join(missing)}; it has {', '.join(published)}")
    if unknown:
        _log.warning("%s: columns left out: %s", path, ", ".join(unknown))
    return names


def _plain_name(name: str) -> str:
    """Reduce a name to what the three spellings have in common: `RatecodeID`, `rateCodeId` and `rate_code_id` agree."""
    return name.strip().replace("_", "").lower()


def _to_schema(batch: pa.RecordBatch, names: dict[str, str]) -> pa.Table:
    """Return the batch in the columns and types of `SCHEMA`; absent columns are null."""
    columns = [
        pc.cast(batch.column(names[field.name]), field.type)
        if field.name in names
        else pa.nulls(batch.num_rows, field.type)
        for field in SCHEMA
    ]
    return pa.table(columns, schema=SCHEMA)


# --- generating --------------------------------------------------------------------------------------------------

_Ints = npt.NDArray[np.int64]
_Floats = npt.NDArray[np.float64]
_Flags = npt.NDArray[np.bool_]

_START = int(np.datetime64("2018-01-01", "s").astype(np.int64))
_SURCHARGE_KNOWN = int(np.datetime64("2019-01-01", "s").astype(np.int64))
_SURCHARGE_DUE = int(np.datetime64("2019-02-02", "s").astype(np.int64))
_DAYS = 730
_ZONES = 265
_JFK = 132
_BUSY_ZONES = (237, 161, 236, 162, 186, 230, 48, 170, 234, 142)
_HOUR_WEIGHTS = (35, 26, 19, 14, 11, 10, 22, 37, 46, 47, 46, 48, 51, 50, 53, 55, 50, 58, 66, 63, 60, 60, 57, 48)
_STANDARD, _JFK_RATE, _NEGOTIATED = 1, 2, 5
_CREDIT_CARD, _NO_CHARGE = 1, 3


def _generate_batch(rng: np.random.Generator) -> pa.Table:
    """Make up one batch. Amounts are counted in cents, so that every total is exactly the sum of its parts."""
    pickup = _START + 86_400 * rng.integers(_DAYS, size=_BATCH_ROWS) + rng.integers(3_600, size=_BATCH_ROWS)
    hour = _pick(rng, range(24), _HOUR_WEIGHTS)
    pickup += 3_600 * hour
    miles = np.clip(rng.lognormal(0.53, 0.88, _BATCH_ROWS), 0.01, 60).round(2)
    seconds = np.clip(miles / rng.lognormal(2.42, 0.35, _BATCH_ROWS) * 3_600, 20, 14_400).astype(np.int64)

    pickup_zone, dropoff_zone = _zones(rng), _zones(rng)
    rate_code = np.where(
        pickup_zone == _JFK, _JFK_RATE, _pick(rng, (_STANDARD, 3, 4, _NEGOTIATED, 99), (9_918, 22, 8, 50, 2))
    )
    payment = _pick(rng, (_CREDIT_CARD, 2, _NO_CHARGE, 4), (7_068, 2_860, 54, 18))
    refund = (payment >= _NO_CHARGE) & (rng.random(_BATCH_ROWS) < 0.2)  # noqa: PLR2004 - the share seen in real trips
    missing = rng.random(_BATCH_ROWS) < 0.00155  # noqa: PLR2004 - the share seen in real trips

    cents = _amounts(rng, miles=miles, seconds=seconds, hour=hour, rate_code=rate_code, payment=payment)
    surcharge = np.where((pickup >= _SURCHARGE_DUE) & (rng.random(_BATCH_ROWS) < 0.93), 250, 0)  # noqa: PLR2004
    total = np.sum(list(cents.values()), axis=0) + surcharge
    sign = np.where(refund, -1, 1)

    return pa.table(
        {
            "vendor_id": pa.array(_pick(rng, (1, 2, 4), (387, 609, 4)), mask=missing),
            "pickup_datetime": pa.array(pickup * 1_000_000),
            "dropoff_datetime": pa.array((pickup + seconds) * 1_000_000),
            "passenger_count": pa.array(_pick(rng, range(7), (19, 702, 148, 43, 20, 42, 26)), mask=missing),
            "trip_distance": pa.array(miles),
            "rate_code_id": pa.array(rate_code, mask=missing),
            "store_and_fwd_flag": _flags(rng.random(_BATCH_ROWS) < 0.0067, missing),  # noqa: PLR2004
            "pickup_location_id": pa.array(pickup_zone),
            "dropoff_location_id": pa.array(dropoff_zone),
            "payment_type": pa.array(payment, mask=missing),
            **{name: pa.array(sign * amount / 100) for name, amount in cents.items()},
            "total_amount": pa.array(sign * total / 100),
            "congestion_surcharge": pa.array(sign * surcharge / 100, mask=pickup < _SURCHARGE_KNOWN),
        }
    ).cast(SCHEMA)


def _amounts(
    rng: np.random.Generator, *, miles: _Floats, seconds: _Ints, hour: _Ints, rate_code: _Ints, payment: _Ints
) -> dict[str, _Ints]:
    """Return the parts of the price in cents, in the order of the schema."""
    metered = 250 + 50 * np.round(miles * 4.2 + seconds / 240).astype(np.int64)
    negotiated = 100 * rng.integers(1, 120, size=_BATCH_ROWS)
    fare = np.select([rate_code == _JFK_RATE, rate_code == _NEGOTIATED], [5_200, negotiated], metered)
    tip = np.where(payment == _CREDIT_CARD, fare * np.clip(rng.normal(0.2, 0.07, _BATCH_ROWS), 0, 1), 0).astype(
        np.int64
    )
    night, rush = (hour >= 20) | (hour < 6), (hour >= 16) & (hour < 20)  # noqa: PLR2004 - the TLC's hours
    return {
        "fare_amount": fare,
        "extra": np.select([night, rush], [50, 100], 0),
        "mta_tax": np.where(rate_code == _NEGOTIATED, 0, 50),
        "tip_amount": tip,
        "tolls_amount": np.where(rng.random(_BATCH_ROWS) < np.clip(miles / 80, 0, 0.5), 576, 0),
        "improvement_surcharge": np.full(_BATCH_ROWS, 30, dtype=np.int64),
    }


def _zones(rng: np.random.Generator) -> _Ints:
    """Draw zones, the busy ones most often, each zone now and then."""
    ranked = [*_BUSY_ZONES, *(zone for zone in range(1, _ZONES + 1) if zone not in _BUSY_ZONES)]
    return _pick(rng, ranked, [1 / (rank + 12) for rank in range(_ZONES)])


def _pick(rng: np.random.Generator, values: Iterable[int], weights: Iterable[float]) -> _Ints:
    chances = np.cumsum(np.fromiter(weights, dtype=np.float64))
    drawn = np.searchsorted(chances, rng.random(_BATCH_ROWS) * chances[-1], side="right")
    picked: _Ints = np.fromiter(values, dtype=np.int64)[drawn]
    return picked


def _flags(stored: _Flags, missing: _Flags) -> pa.Array:
    return pa.DictionaryArray.from_arrays(
        pa.array(stored.astype(np.int8), mask=missing), ["N", "Y"]
    ).dictionary_decode()


# --- command line ------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    logging.basicConfig(format="%(message)s")
    options = _parser().parse_args(arguments)
    try:
        if options.command == "generate":
            tables = generate(options.rows, options.seed)
        else:
            tables = read_trips(find_sources(options.source))
        rows = write_trips(tables, options.out_dir, rows_per_file=options.rows_per_file)
    except (UnreadableTripsError, OSError) as error:
        print(f"trips.py: {error}", file=sys.stderr)
        return 1
    print(f"{rows:,} trips in {options.out_dir}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Write New York taxi trips as Parquet.")
    commands = parser.add_subparsers(dest="command", required=True)
    prepare = commands.add_parser("prepare", help="convert the TLC's files (CSV, CSV.gz, Parquet)")
    prepare.add_argument("source", nargs="+", type=Path, help="file or folder")
    made_up = commands.add_parser("generate", help="make up trips of the same schema")
    for command in (prepare, made_up):
        command.add_argument("out_dir", type=Path, help="a new or empty folder")
        command.add_argument("--rows-per-file", type=_positive, default=100_000)
    made_up.add_argument("--rows", type=_positive, required=True)
    made_up.add_argument("--seed", type=int, default=1)
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


if __name__ == "__main__":
    sys.exit(main())
