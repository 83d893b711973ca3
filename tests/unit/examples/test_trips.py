import contextlib
import gzip
import tempfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

CANONICAL = (
    "vendor_id,pickup_datetime,dropoff_datetime,passenger_count,trip_distance,rate_code_id,store_and_fwd_flag,"
    "pickup_location_id,dropoff_location_id,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount,congestion_surcharge"
)
TLC = (
    "VendorID,tpep_pickup_datetime,tpep_dropoff_datetime,passenger_count,trip_distance,RatecodeID,store_and_fwd_flag,"
    "PULocationID,DOLocationID,payment_type,fare_amount,extra,mta_tax,tip_amount,tolls_amount,"
    "improvement_surcharge,total_amount,congestion_surcharge"
)
AZURE = (
    "vendorID,tpepPickupDateTime,tpepDropoffDateTime,passengerCount,tripDistance,rateCodeId,storeAndFwdFlag,"
    "puLocationId,doLocationId,paymentType,fareAmount,extra,mtaTax,tipAmount,tollsAmount,improvementSurcharge,"
    "totalAmount"
)
ROW = "2,2018-01-11 18:24:44,2018-01-11 18:35:02,1,1.65,1,N,230,237,1,8.5,1.0,0.5,2.06,0.0,0.3,12.36"
AMOUNTS = (
    "fare_amount",
    "extra",
    "mta_tax",
    "tip_amount",
    "tolls_amount",
    "improvement_surcharge",
    "congestion_surcharge",
)


def read(trips: ModuleType, *paths: Path) -> pa.Table:
    return pa.concat_tables(trips.read_trips(paths))


def write_csv(folder: Path, text: str, name: str = "trips.csv") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


# --- reading -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", [CANONICAL, TLC, AZURE])
def test_the_three_spellings_of_the_field_names_give_the_same_trip(
    trips: ModuleType, tmp_path: Path, header: str
) -> None:
    surcharge = "" if header == AZURE else ","
    table = read(trips, write_csv(tmp_path, f"{header}\n{ROW}{surcharge}\n"))

    assert table.schema == trips.SCHEMA
    (row,) = table.to_pylist()
    assert row["vendor_id"] == 2
    assert row["pickup_datetime"] == datetime(2018, 1, 11, 18, 24, 44)  # noqa: DTZ001 - the files have no time zone
    assert (row["pickup_location_id"], row["dropoff_location_id"]) == (230, 237)
    assert row["rate_code_id"] == 1
    assert row["store_and_fwd_flag"] == "N"
    assert row["total_amount"] == 12.36
    assert row["congestion_surcharge"] is None


@pytest.mark.parametrize("name", ["trips.csv", "trips.csv.gz"])
def test_line_ends_of_windows_and_compression_do_not_matter(trips: ModuleType, tmp_path: Path, name: str) -> None:
    table = read(trips, write_csv(tmp_path, f"{CANONICAL}\r\n{ROW},2.5\r\n{ROW},\r\n", name))

    assert table["congestion_surcharge"].to_pylist() == [2.5, None]


def test_empty_fields_are_null_and_whole_numbers_may_be_written_as_floats(trips: ModuleType, tmp_path: Path) -> None:
    row = ROW.replace("2,2018", ",2018", 1).replace(",1,N,", ",1.0,,")
    (read_row,) = read(trips, write_csv(tmp_path, f"{CANONICAL}\n{row},\n")).to_pylist()

    assert read_row["vendor_id"] is None
    assert read_row["rate_code_id"] == 1
    assert read_row["store_and_fwd_flag"] is None


def test_unknown_columns_stay_behind_with_a_note(
    trips: ModuleType, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = read(trips, write_csv(tmp_path, f"{TLC},airport_fee\n{ROW},,1.25\n"))

    assert table.schema == trips.SCHEMA
    assert "airport_fee" in caplog.text


def test_a_missing_required_column_is_named(trips: ModuleType, tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"{TLC.replace('PULocationID', 'zone')}\n{ROW},\n")

    with pytest.raises(
        trips.UnreadableTripsError, match=r"trips\.csv: no column for pickup_location_id; it has .*zone"
    ):
        read(trips, path)


def test_two_columns_of_one_meaning_are_refused(trips: ModuleType, tmp_path: Path) -> None:
    path = write_csv(tmp_path, f"{CANONICAL},VendorID\n{ROW},,1\n")

    with pytest.raises(trips.UnreadableTripsError, match="two columns are vendor_id"):
        read(trips, path)


@pytest.mark.parametrize(
    ("found", "wrong"), [("2018-01-11 18:24:44", "yesterday"), ("1.65", "far"), (",230,", ",230.5,")]
)
def test_values_of_another_type_are_refused_with_the_file_named(
    trips: ModuleType, tmp_path: Path, found: str, wrong: str
) -> None:
    path = write_csv(tmp_path, f"{CANONICAL}\n{ROW.replace(found, wrong, 1)},\n")

    with pytest.raises(trips.UnreadableTripsError, match=r"trips\.csv"):
        read(trips, path)


def test_reads_parquet_as_the_tlc_publishes_it(trips: ModuleType, tmp_path: Path) -> None:
    made_up = next(trips.generate(1_000, seed=5))
    published = [
        column.cast(pa.float64()) if name in {"passenger_count", "rate_code_id"} else column
        for name, column in zip(made_up.schema.names, made_up.columns, strict=True)
    ]
    parquet.write_table(
        pa.table([*published, made_up["extra"]], names=[*TLC.split(","), "airport_fee"]), tmp_path / "tlc.parquet"
    )

    assert read(trips, tmp_path / "tlc.parquet") == made_up


def test_reads_every_real_file(trips: ModuleType, shared: Path) -> None:
    table = read(trips, *trips.find_sources([shared / "data" / "nyctaxi"]))

    assert table.num_rows == 240_000
    assert table["congestion_surcharge"].null_count == 126_327
    assert table["vendor_id"].null_count == 372
    assert pc.round(pc.sum(table["tip_amount"]), 2).as_py() == 490_080.89


@given(body=st.binary(max_size=200), with_header=st.booleans(), ending=st.sampled_from([".csv", ".csv.gz", ".parquet"]))
def test_any_bytes_are_trips_or_unreadable(trips: ModuleType, body: bytes, with_header: bool, ending: str) -> None:  # noqa: FBT001 - drawn by hypothesis
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"any{ending}")
        path.write_bytes(CANONICAL.encode() + b"\n" + body if with_header else body)
        with contextlib.suppress(trips.UnreadableTripsError):
            for table in trips.read_trips([path]):
                assert table.schema == trips.SCHEMA


def test_folders_are_searched_to_the_bottom_and_other_files_ignored(trips: ModuleType, tmp_path: Path) -> None:
    month = tmp_path / "puYear=2018" / "puMonth=1"
    month.mkdir(parents=True)
    for name in ("part-1.parquet", "part-0.parquet", "_SUCCESS"):
        (month / name).touch()

    assert trips.find_sources([tmp_path]) == [month / "part-0.parquet", month / "part-1.parquet"]


def test_a_source_without_trips_is_an_error(trips: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(trips.UnreadableTripsError, match="no file that ends in"):
        trips.find_sources([tmp_path])


# --- generating --------------------------------------------------------------------------------------------------


def test_a_seed_gives_the_same_trips_and_fewer_rows_are_the_first_of_more(trips: ModuleType) -> None:
    many = pa.concat_tables(trips.generate(70_000, seed=1))

    assert many.num_rows == 70_000
    assert many.schema == trips.SCHEMA
    assert pa.concat_tables(trips.generate(66_000, seed=1)) == many.slice(0, 66_000)
    assert pa.concat_tables(trips.generate(70_000, seed=2)) != many


def test_generated_trips_keep_the_rules_of_real_ones(trips: ModuleType) -> None:
    table = pa.concat_tables(trips.generate(60_000, seed=1))
    frame = table.to_pandas()

    assert frame.pickup_datetime.min().year == 2018
    assert frame.pickup_datetime.max().year == 2019
    assert frame.pickup_datetime.dt.hour.nunique() == 24
    assert (frame.dropoff_datetime > frame.pickup_datetime).all()
    assert set(frame.pickup_location_id) == set(range(1, 266))
    assert set(frame.payment_type.dropna()) == {1, 2, 3, 4}
    assert (frame.tip_amount[frame.payment_type > 1] == 0).all()
    assert (frame.total_amount < 0).any()
    assert ((frame[list(AMOUNTS)].fillna(0).sum(axis=1) - frame.total_amount).abs() < 0.001).all()


def test_the_congestion_surcharge_is_unknown_before_2019_only(trips: ModuleType) -> None:
    frame = pa.concat_tables(trips.generate(60_000, seed=1)).to_pandas()

    assert (frame.congestion_surcharge.isna() == (frame.pickup_datetime < "2019-01-01")).all()
    assert 2.5 in set(frame.congestion_surcharge)


# --- writing -----------------------------------------------------------------------------------------------------


def test_prepare_writes_files_of_the_asked_size_that_hold_every_trip(
    trips: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_csv(tmp_path, "\n".join([TLC, *[f"{ROW},"] * 25]))
    out_dir = tmp_path / "out" / "trips"

    assert trips.main(["prepare", str(source), str(out_dir), "--rows-per-file", "10"]) == 0

    files = sorted(out_dir.iterdir())
    assert [file.name for file in files] == ["trips-00000.parquet", "trips-00001.parquet", "trips-00002.parquet"]
    assert [parquet.read_metadata(file).num_rows for file in files] == [10, 10, 5]
    assert parquet.read_schema(files[0]) == trips.SCHEMA
    assert "25 trips" in capsys.readouterr().out


def test_generate_writes_what_the_generator_gives(trips: ModuleType, tmp_path: Path) -> None:
    out_dir = tmp_path / "trips"

    assert trips.main(["generate", str(out_dir), "--rows", "1500", "--seed", "7", "--rows-per-file", "1000"]) == 0

    assert parquet.read_table(out_dir) == pa.concat_tables(trips.generate(1_500, seed=7))


def no_trips(folder: Path) -> Path:
    return write_csv(folder, f"{CANONICAL}\n{ROW},\n{ROW.replace('1.65', 'far')},\n")


def missing(folder: Path) -> Path:
    return folder / "nothing.csv"


@pytest.mark.parametrize("source", [no_trips, missing])
def test_a_failed_prepare_says_why_and_leaves_nothing_behind(
    trips: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Callable[[Path], Path]
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()

    assert trips.main(["prepare", str(source(tmp_path / "in")), str(tmp_path / "out" / "trips")]) == 1

    assert "trips.py: " in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(
    trips: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").touch()

    assert trips.main(["generate", str(tmp_path), "--rows", "10"]) == 1

    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
