import contextlib
import re

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.cli.options import (
    DatasetName,
    Duration,
    FileList,
    Memory,
    Moment,
    PartnerName,
    Placed,
    PlacedDataset,
    Setting,
    UntilDate,
    VersionOf,
    VersionRange,
    WorkloadOf,
)

TYPES = [
    DatasetName(),
    Duration(),
    FileList(),
    Memory(),
    Moment(),
    PartnerName(),
    PlacedDataset(),
    Setting(),
    UntilDate(),
    VersionOf(),
    VersionRange(),
    WorkloadOf(),
]


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("30m", 1800), ("2h", 7200), ("1d", 86400)])
def test_a_length_of_time_has_a_unit(text: str, seconds: int) -> None:
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "h", "1.5h", "-1h", "1w", "1hm", "٣h"])
def test_refuses_other_lengths_of_time(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no length of time"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize(("text", "versions"), [("4", (4, 4)), ("2-4", (2, 4)), ("2-", (2, None))])
def test_versions_are_one_or_a_range(text: str, versions: tuple[int, int | None]) -> None:
    assert VersionRange().convert(text, None, None) == versions


def test_a_version_of_a_dataset_is_a_number() -> None:
    assert VersionOf().convert("trips=12", None, None) == ("trips", 12)


@pytest.mark.parametrize(
    "text", ["", "trips", "trips=", "trips=0", "trips=-1", "trips=newest", "Trips=1", "=1", "trips=٣"]
)
def test_refuses_other_versions_of_a_dataset(text: str) -> None:
    with pytest.raises(click.BadParameter):
        VersionOf().convert(text, None, None)


@pytest.mark.parametrize("text", ["", "-", "-4", "0", "4-2", "a", "2-b", "2--4", "٣"])
def test_refuses_other_versions(text: str) -> None:
    with pytest.raises(click.BadParameter):
        VersionRange().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "mebibytes"), [("600m", 600), ("2g", 2048), ("2GB", 2048), ("1t", 1 << 20), ("512", 512), ("1024mb", 1024)]
)
def test_memory_is_read_as_spark_writes_it(text: str, mebibytes: int) -> None:
    assert Memory().convert(text, None, None) == mebibytes


@pytest.mark.parametrize("text", ["", "g", "1.5g", "-1g", "1 parsec", "1kb", "٣g"])
def test_refuses_other_amounts_of_memory(text: str) -> None:
    with pytest.raises(click.BadParameter, match="no amount of memory"):
        Memory().convert(text, None, None)


def test_a_placed_dataset_has_a_name_and_perhaps_a_location() -> None:
    assert PlacedDataset().convert("trips=/data/a=b", None, None) == ("trips", Placed(location="/data/a=b"))
    assert PlacedDataset().convert("trips", None, None) == ("trips", Placed())


def test_a_placed_dataset_may_be_another_owners() -> None:
    place = Placed(partner="hospital", location="/data/a@b")
    assert PlacedDataset().convert("visits@hospital=/data/a@b", None, None) == ("visits", place)
    assert PlacedDataset().convert("visits@hospital", None, None) == ("visits", Placed(partner="hospital"))
    assert PlacedDataset().convert("visits=/data/a@b", None, None) == ("visits", Placed(location="/data/a@b"))


NO_DATASETS = ["", "=/data", "trips=", "Trips=/data", "-trips", "a_b", "a/b", "ä", "x" * 64, "a@", "@b", "a@B", "a@b@c"]


@pytest.mark.parametrize("text", NO_DATASETS)
def test_refuses_datasets_that_no_dataset_can_be_called(text: str) -> None:
    with pytest.raises(click.BadParameter):
        PlacedDataset().convert(text, None, None)


def test_a_setting_keeps_everything_after_the_first_equals_sign() -> None:
    assert Setting().convert("spark.a=b=c", None, None) == ("spark.a", "b=c")


@pytest.mark.parametrize("text", ["spark.a", "=b", ""])
def test_refuses_settings_without_name_or_value(text: str) -> None:
    with pytest.raises(click.BadParameter, match="PROP=VALUE"):
        Setting().convert(text, None, None)


def test_files_are_separated_by_commas() -> None:
    assert FileList().convert("a.py, b.zip,", None, None) == ("a.py", "b.zip")


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-31", "2026-12-31T23:59:59Z"),
        ("2026-12-31T18:00:00Z", "2026-12-31T18:00:00Z"),
        ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00Z"),
        ("2026-12-31T18:00:00", "2026-12-31T18:00:00Z"),
    ],
)
def test_a_day_ends_at_its_end_in_utc(text: str, moment: str) -> None:
    assert UntilDate().convert(text, None, None) == moment


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-12-31", "2026-12-31T00:00:00+00:00"),
        ("2026-12-31T18:00:00Z", "2026-12-31T18:00:00+00:00"),
        ("2026-12-31T18:00:00+02:00", "2026-12-31T16:00:00+00:00"),
        ("2026-12-31T18:00:00", "2026-12-31T18:00:00+00:00"),
    ],
)
def test_a_moment_is_in_utc_and_a_day_stands_for_its_beginning(text: str, moment: str) -> None:
    assert Moment().convert(text, None, None).isoformat() == moment


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: type(kind).__name__)
@given(text=st.text(max_size=80))
def test_any_text_is_read_or_refused_as_a_bad_parameter(kind: click.ParamType[object], text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        kind.convert(text, None, None)


@given(text=st.text(max_size=70))
def test_a_name_that_is_accepted_is_one_that_messages_accept(text: str) -> None:
    with contextlib.suppress(click.BadParameter):
        name = DatasetName().convert(text, None, None)
        assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)


ISSUER = "https://cluster.example"


@pytest.mark.parametrize(
    ("text", "role"),
    [("team-a/spark@", None), ("driver=team-a/spark@", "driver"), ("executor=team-a/spark@", "executor")],
)
def test_a_workload_is_an_account_of_a_cluster_and_perhaps_of_one_role(text: str, role: str | None) -> None:
    found = WorkloadOf().convert(text + ISSUER, None, None)
    assert (found.subject, found.issuer, found.role) == ("system:serviceaccount:team-a:spark", ISSUER, role)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "team-a/spark",
        "team-a/spark@",
        "team-a/spark@http://cluster.example",
        f"spark@{ISSUER}",
        f"team-a/@{ISSUER}",
        f"/spark@{ISSUER}",
        f"team-a/spark/x@{ISSUER}",
        f"team-a/*@{ISSUER}",
        f"Team/spark@{ISSUER}",
        f"=team-a/spark@{ISSUER}",
        f"owner=team-a/spark@{ISSUER}",
    ],
)
def test_refuses_other_workloads(text: str) -> None:
    with pytest.raises(click.BadParameter, match="names no service account"):
        WorkloadOf().convert(text, None, None)
