"""Two installations, two owners, one join: the how-to page followed from top to bottom, and one owner who revokes."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.installation import Ended, Installation, new_installation, wait_until

pytestmark = pytest.mark.timeout(1800)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "several-owners.md"
COMMAND = re.compile(r"^(taxis|hospital)\$ strongroom (.*)$", re.MULTILINE)
DAYS = 50
JOIN = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
trips, visits = spark.read.parquet(sys.argv[1]), spark.read.parquet(sys.argv[2])
joined = trips.join(visits, "day").withColumn("per_visit", trips.trips / visits.visits)
print("joined", joined.count())
{pause}
joined.write.mode("overwrite").parquet(sys.argv[3])
"""
ARGUMENTS = ("strongroom://trips", "strongroom://visits", "strongroom://joined")


@dataclass(kw_only=True)
class Owners:
    """Both installations, and what the commands of the page printed."""

    taxis: Installation
    hospital: Installation
    printed: dict[str, str] = field(default_factory=dict)
    receipt: Path = field(default_factory=Path)

    def side(self, name: str) -> Installation:
        return self.taxis if name == "taxis" else self.hospital

    def hand_over(self, giver: str) -> None:
        """What one side gives the other: its trust file and public keys, as they are now."""
        state, taker = self.side(giver).state, self.side("hospital" if giver == "taxis" else "taxis")
        folder = taker.root / f"from-{giver}"
        folder.mkdir(exist_ok=True)
        for file in (state.trust, *state.owner.glob("*.jwk")):
            shutil.copy(file, folder / file.name)

    def type(self, name: str, words: str) -> str:
        """Type a command of the page, and keep what it printed."""
        words = words.replace("DIGEST", self.digest()).replace("RECEIPT", str(self.receipt))
        for giver in ("taxis", "hospital"):
            if f"from-{giver}/" in words:
                self.hand_over(giver)
        arguments = shlex.split(words)
        if arguments[:2] == ["trust", "add"]:
            arguments.append("--yes")
        if arguments[0] == "submit":
            arguments[1:1] = ["--driver-memory", "800m", "--executor-memory", "800m"]
        side = self.side(name)
        where = {"visits": self.hospital.storage("visits"), "trips": self.taxis.storage("trips")}
        where["joined"] = self.taxis.storage("joined")
        arguments = [re.sub(r"(@\w+)=(\w+)$", lambda part: f"{part[1]}={where[part[2]]}", each) for each in arguments]
        arguments = [str(side.state.owner / each[6:]) if each.startswith("owner/") else each for each in arguments]
        printed = side.done(*arguments)
        self.printed[f"{name}$ {words}"] = printed
        if arguments[0] == "submit":
            run_id = next(line.split()[1] for line in printed.splitlines() if line.startswith("run "))
            self.receipt = side.receipt(Ended(status=0, stdout=f"run {run_id}", stderr=""))
        return printed

    def digest(self) -> str:
        """The digest that packing printed last; every side's is the same."""
        found = {
            match
            for text in self.printed.values()
            for match in re.findall(r"^digest +([0-9a-f]{64})$", text, re.MULTILINE)
        }
        assert len(found) <= 1, "the sides do not pack the same application"
        return next(iter(found), "")


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owners]:
    folder = tmp_path_factory.mktemp("two-owners")
    for name in ("taxis", "hospital"):
        (folder / name).mkdir()
    with new_installation(folder / "taxis") as taxis, new_installation(folder / "hospital") as hospital:
        made = Owners(taxis=taxis, hospital=hospital)
        days = range(DAYS)
        rows = "\n".join(f"2018-01-{day:03},{day * 10}" for day in days)
        (taxis.root / "trips.csv").write_text(f"day,trips\n{rows}\n")
        rows = "\n".join(f"2018-01-{day:03},{day + 1}" for day in days if day % 2)
        (hospital.root / "visits.csv").write_text(f"day,visits\n{rows}\n")
        for side in (taxis, hospital):
            (side.root / "join.py").write_text(JOIN.format(pause=""))
        yield made


@pytest.fixture(scope="module")
def followed(owners: Owners) -> Owners:
    """Both sides, after everything on the page."""
    commands = COMMAND.findall(PAGE.read_text(encoding="utf-8"))
    assert len(commands) > 15
    for name, words in commands:
        owners.type(name, words)
    return owners


def test_the_page_is_followed_from_top_to_bottom(followed: Owners) -> None:
    import pyarrow.parquet as pq  # noqa: PLC0415 - heavy

    found = pq.read_table(followed.taxis.root / "joined-plain").to_pylist()
    expected = [(day * 10, day + 1, day * 10 / (day + 1)) for day in range(DAYS) if day % 2]
    assert sorted((row["trips"], row["visits"], row["per_visit"]) for row in found) == expected
    verified = [text for command, text in followed.printed.items() if "receipt verify" in command]
    assert len(verified) == 2
    for text in verified:
        for words in ("verified", "visits version 1", "trips version 1", "joined version 1"):
            assert words in text


def test_each_owner_sees_the_run_and_none_of_the_others_datasets(followed: Owners) -> None:
    for side, own, others in (
        (followed.taxis, {"trips", "joined"}, {"visits"}),
        (followed.hospital, {"visits"}, {"trips", "joined"}),
    ):
        assert {each["dataset"] for each in side.owner().datasets()["datasets"]} == own
        approvals = json.loads(side.done("approvals", "--json"))
        assert {each["dataset"] for each in approvals} == own
        runs = json.loads(side.done("runs", "list", "--json"))
        assert runs
        for run in runs:
            assert not others & {*run["reads"], *run["writes"], *run["approvals"]}
    followed.taxis.assert_nothing_left()


def test_one_owner_revokes_while_the_run_is_under_way(followed: Owners) -> None:
    """The other owner's service would let it go on: the run ends all the same, without a version."""
    taxis, hospital = followed.taxis, followed.hospital
    for side in (taxis, hospital):
        (side.root / "join.py").write_text(JOIN.format(pause="import time; time.sleep(20)"))
    taxis_places = (f"--dataset=visits@hospital={hospital.storage('visits')}", "--dataset=trips", "--output=joined")
    packed = [
        taxis.done("app", "pack", "--json", *taxis_places, "join.py", *ARGUMENTS),
        hospital.done(
            *("app", "pack", "--json", "--dataset=visits"),
            *(f"--dataset=trips@taxis={taxis.storage('trips')}", f"--output=joined@taxis={taxis.storage('joined')}"),
            *("join.py", *ARGUMENTS),
        ),
    ]
    digest, same = (json.loads(text)["digest"] for text in packed)
    assert digest == same
    for dataset, access in (("trips", "--read"), ("joined", "--write")):
        taxis.done("approve", digest, "--dataset", dataset, access)
    submitter = str(hospital.root / "from-taxis" / "submitter.jwk")
    approve = ("approve", digest, "--dataset", "visits", "--read", "--attested-by", "taxis", "--submitter", submitter)
    hospital.done(*approve)
    (approval,) = [
        each["approval"] for each in json.loads(hospital.done("approvals", "--json")) if each["application"] == digest
    ]

    sizes = ("--driver-memory", "800m", "--executor-memory", "800m")
    with taxis.no_new_version("joined"), taxis.started("submit", *sizes, *taxis_places, "join.py", *ARGUMENTS) as run:

        def computes() -> bool:
            found = [each for each in hospital.owner().runs()["runs"] if each["application"] == digest]
            return bool(found) and found[0]["members"] >= 2

        wait_until(computes, what="driver and executor joined")
        hospital.done("revoke", approval)
        stdout, stderr = run.communicate(timeout=600)
        taxis.assert_clear_end(
            Ended(status=run.returncode, stdout=stdout, stderr=stderr), step=None, says=["nothing more is released"]
        )


def test_a_partner_that_is_trusted_no_more_is_not_asked(followed: Owners) -> None:
    taxis = followed.taxis
    before = taxis.state.trust.read_bytes()
    taxis.done("trust", "remove", "hospital")
    try:
        ended = taxis.strongroom(
            *("submit", "--dataset=trips", f"--dataset=visits@hospital={followed.hospital.storage('visits')}"),
            *("--output=joined", "join.py", *ARGUMENTS),
        )
    finally:
        taxis.state.trust.write_bytes(before)

    assert ended.status == 1
    assert "no partner hospital" in ended.stderr
    assert "strongroom trust add hospital" in ended.stderr
