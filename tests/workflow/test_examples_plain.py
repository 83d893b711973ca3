"""The applications under plain spark-submit: the figures that a protected run has to reproduce row by row."""

import subprocess
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from decimal import Decimal
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from strongroom.engine.runtime import find_runtime

ROWS = 50_000
Trip = dict[str, Any]


@pytest.fixture(scope="module")
def input_folder(trips: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("input") / "trips"
    trips.write_trips(trips.generate(ROWS, seed=11), folder, rows_per_file=20_000)
    return folder


@pytest.fixture(scope="module")
def trip_rows(input_folder: Path) -> list[Trip]:
    rows: list[Trip] = parquet.read_table(input_folder).to_pylist()
    return rows


@pytest.fixture(scope="module")
def report(repo_root: Path, input_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder that the report was written to, and what it printed."""
    output = tmp_path_factory.mktemp("output") / "report"
    printed = spark_submit(repo_root / "examples/nyctaxi/report.py", input_folder, output)
    return output, printed


def spark_submit(script: Path, *arguments: Path) -> str:
    runtime = find_runtime()
    scratch = arguments[-1].parent
    environment = {
        "HOME": str(scratch),
        "JAVA_HOME": str(runtime.java_home),
        "PATH": "/usr/bin:/bin",
        "PYSPARK_PYTHON": str(runtime.python),
        "SPARK_HOME": str(runtime.spark_home),
        "SPARK_LOCAL_DIRS": str(scratch),
        "SPARK_LOCAL_IP": "127.0.0.1",
    }
    options = ["--master", "local[2]", "--conf", "spark.ui.enabled=false", "--conf", "spark.sql.shuffle.partitions=4"]
    command = [runtime.spark_home / "bin/spark-submit", *options, script, *arguments]
    done = subprocess.run(command, env=environment, cwd=scratch, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5_000:]
    return done.stdout


def rows_of(report: tuple[Path, str], table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = parquet.read_table(report[0] / table).to_pylist()
    return rows


def money(amounts: Iterable[float]) -> Decimal:
    return sum((Decimal(str(amount)) for amount in amounts), Decimal(0)).quantize(Decimal("0.01"))


def grouped(trip_rows: list[Trip], key: Callable[[Trip], Hashable]) -> dict[Any, list[Trip]]:
    groups = defaultdict(list)
    for trip in trip_rows:
        groups[key(trip)].append(trip)
    return groups


def figures(group: list[Trip]) -> dict[str, Any]:
    return {"trips": len(group), "revenue": money(trip["total_amount"] for trip in group)}


def figures_with_tips(group: list[Trip]) -> dict[str, Any]:
    tips, fares = (money(trip[name] for trip in group) for name in ("tip_amount", "fare_amount"))
    return figures(group) | {"tip_rate": float(tips / fares)}


def speed(trip: Trip) -> str:
    seconds = (trip["dropoff_datetime"] - trip["pickup_datetime"]).total_seconds()
    mph = trip["trip_distance"] * 3600 / seconds if seconds > 0 else 0
    classes = {7: "crawling", 12: "slow", 20: "flowing", 80: "fast"}
    return next((name for limit, name in classes.items() if 0 < mph <= limit), "implausible")


def part_of_week(trip: Trip) -> str:
    time = trip["pickup_datetime"]
    if time.isoweekday() in {6, 7} or (time.strftime("%a") == "Fri" and time.hour >= 18):
        return "weekend"
    return "working day" if time.hour in range(6, 18) else "week night"


@pytest.mark.parametrize(
    ("table", "column", "key"),
    [
        ("by_month", "month", lambda trip: trip["pickup_datetime"].date().replace(day=1)),
        ("by_hour", "hour", lambda trip: trip["pickup_datetime"].hour),
        ("by_pickup_zone", "pickup_location_id", lambda trip: trip["pickup_location_id"]),
        ("by_speed", "speed", speed),
    ],
)
def test_trips_revenue_and_tip_rate_agree_with_the_input(
    report: tuple[Path, str], trip_rows: list[Trip], table: str, column: str, key: Callable[[Trip], Hashable]
) -> None:
    expected = [{column: value, **figures_with_tips(group)} for value, group in sorted(grouped(trip_rows, key).items())]

    assert rows_of(report, table) == expected


def test_payment_types_have_the_names_of_the_data_dictionary(report: tuple[Path, str], trip_rows: list[Trip]) -> None:
    names = {None: "Not recorded", 1: "Credit card", 2: "Cash", 3: "No charge", 4: "Dispute"}
    groups = grouped(trip_rows, lambda trip: trip["payment_type"])

    assert rows_of(report, "by_payment_type") == [
        {"payment_type": code, "payment": name, **figures_with_tips(groups[code])} for code, name in names.items()
    ]


def test_parts_of_the_week_agree_with_the_input(report: tuple[Path, str], trip_rows: list[Trip]) -> None:
    groups = grouped(trip_rows, part_of_week)

    assert rows_of(report, "by_part_of_week") == [
        {"part_of_week": part, **figures(groups[part])} for part in ("week night", "weekend", "working day")
    ]


def test_busiest_pairs_come_in_order_with_ties_broken_by_zone(report: tuple[Path, str], trip_rows: list[Trip]) -> None:
    pairs = Counter((trip["pickup_location_id"], trip["dropoff_location_id"]) for trip in trip_rows)
    busiest = sorted(pairs, key=lambda pair: (-pairs[pair], pair))[:25]
    groups = grouped(trip_rows, lambda trip: (trip["pickup_location_id"], trip["dropoff_location_id"]))

    assert rows_of(report, "busiest_pairs") == [
        {"pickup_location_id": pair[0], "dropoff_location_id": pair[1], **figures(groups[pair])} for pair in busiest
    ]


def test_percentiles_are_exact_for_each_rate(report: tuple[Path, str], trip_rows: list[Trip]) -> None:
    names = {
        None: "Not recorded",
        1: "Standard rate",
        2: "JFK",
        3: "Newark",
        4: "Nassau or Westchester",
        5: "Negotiated fare",
        99: "Null or unknown",
    }
    rows = rows_of(report, "price_percentiles")

    assert [(row["rate_code_id"], row["rate"]) for row in rows] == list(names.items())
    for row, (_, group) in zip(rows, sorted_with_none_first(trip_rows), strict=True):
        expected = np.percentile([trip["total_amount"] for trip in group], [50, 90, 99])
        assert row["trips"] == len(group)
        assert [row["median"], row["percentile_90"], row["percentile_99"]] == pytest.approx(list(expected))


def sorted_with_none_first(trip_rows: list[Trip]) -> list[tuple[int | None, list[Trip]]]:
    groups = grouped(trip_rows, lambda trip: trip["rate_code_id"])
    return sorted(groups.items(), key=lambda item: item[0] or 0)


def test_the_report_prints_a_summary(report: tuple[Path, str], trip_rows: list[Trip]) -> None:
    revenue = money(trip["total_amount"] for trip in trip_rows)

    lines = report[1].splitlines()
    assert lines[0] == f"50,000 trips brought in {revenue:,} dollars"
    assert any(line.split()[:2] == ["Credit", "card"] for line in lines)
    assert len(lines) < 12


def test_count_prints_the_rows_and_the_duration(repo_root: Path, input_folder: Path) -> None:
    printed = spark_submit(repo_root / "examples/nyctaxi/count.py", input_folder)

    assert "Input DataFrame Count: 50000" in printed
    assert "Aggregation duration: " in printed
