import datetime as dt
import gzip
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.datasets.plain_files import read_files, regroup


def rows(paths: list[Path]) -> list[dict[str, object]]:
    found: list[dict[str, object]] = pa.concat_tables(read_files(paths)).to_pylist()
    return found


def test_reads_csv_gzipped_csv_and_parquet_as_one_table(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,fare,when\n1,2,2018-01-03 12:00:00\n")
    (tmp_path / "2.csv.gz").write_bytes(gzip.compress(b"id,fare,when\r\n2,2.5,2018-01-03 12:00:01\r\n"))
    when = pa.array([dt.datetime(2019, 1, 1)], pa.timestamp("us"))  # noqa: DTZ001 - taxi clocks have no zone
    pq.write_table(pa.table({"id": [3], "fare": [3.0], "when": when}), tmp_path / "3.parquet")
    (tmp_path / "notes.txt").write_text("not a table")
    found = rows([tmp_path])
    assert [(row["id"], row["fare"]) for row in found] == [(1, 2.0), (2, 2.5), (3, 3.0)]
    assert found[2]["when"] == dt.datetime(2019, 1, 1)  # noqa: DTZ001


def test_a_column_without_values_takes_the_type_that_other_files_give_it(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,surcharge\n1,\n")
    (tmp_path / "2.csv").write_text("id,surcharge\n2,2.5\n")
    assert rows([tmp_path]) == [{"id": 1, "surcharge": None}, {"id": 2, "surcharge": 2.5}]


def test_a_column_without_any_value_is_text(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,nothing\n1,\n")
    assert next(read_files([tmp_path / "1.csv"])).schema.field("nothing").type == pa.string()


def test_a_missing_column_is_null(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id\n1\n")
    (tmp_path / "2.csv").write_text("b,id\nx,2\n")
    assert rows([tmp_path]) == [{"id": 1, "b": None}, {"id": 2, "b": "x"}]


def test_a_file_without_rows_still_has_columns(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("id,name\n")
    assert next(read_files([tmp_path / "1.csv"])).column_names == ["id", "name"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.csv", b""),
        ("1.csv", b"a,b\n1,2,3\n"),
        ("1.csv", b"a,a\n1,2\n"),
        ("1.csv.gz", b"not gzip"),
        ("1.parquet", b"not parquet"),
    ],
)
def test_an_unreadable_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(FormatError, match=re.escape(str(path))):
        list(read_files([path]))


def test_incompatible_columns_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [[1]]}), tmp_path / "2.parquet")
    with pytest.raises(FormatError, match="same columns"):
        rows([tmp_path])


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "1.csv").write_text("a\n" + "1\n" * (5 << 20) + "word\n")
    with pytest.raises(FormatError, match=r"1\.csv"):
        list(read_files([tmp_path / "1.csv"]))


@pytest.mark.parametrize("names", [[], ["missing.csv"], ["empty"], ["notes.txt"]])
def test_nothing_to_read_is_refused(tmp_path: Path, names: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(ConfigurationError):
        list(read_files([tmp_path / name for name in names]))


def test_regroups_without_losing_or_moving_rows() -> None:
    ranges = (range(3), range(0), range(3, 10), range(10, 11))
    tables = [pa.table({"n": pa.array(numbers, pa.int64())}) for numbers in ranges]
    groups = list(regroup(tables, schema=tables[0].schema, rows=4))
    assert [group["n"].to_pylist() for group in groups] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]


def test_regroups_exact_multiples_without_an_empty_rest() -> None:
    tables = [pa.table({"n": [1, 2, 3, 4]})]
    assert [group.num_rows for group in regroup(tables, schema=tables[0].schema, rows=2)] == [2, 2]


def test_regroup_keeps_one_empty_table() -> None:
    empty = pa.schema([("n", pa.int64())]).empty_table()
    assert [group.num_rows for group in regroup([empty, empty], schema=empty.schema, rows=2)] == [0]


def test_regroup_refuses_another_schema() -> None:
    tables = [pa.table({"n": [1]}), pa.table({"n": ["x"]})]
    with pytest.raises(FormatError, match="same columns"):
        list(regroup(tables, schema=tables[0].schema, rows=2))
