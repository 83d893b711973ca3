"""Step 5, release: several people approve, each at a command line of their own; leases, explanations, receipts."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.installation import Ended, Installation, Submission

from strongroom.base.workflow import Step
from strongroom.cli.owner_keys import make_owner_keys
from strongroom.cli.state import State

pytestmark = pytest.mark.timeout(1800)

COUNT = """
import sys
from pyspark.sql import SparkSession

spark = SparkSession.builder.getOrCreate()
count = spark.read.parquet(sys.argv[1]).count()
spark.createDataFrame([(count,)], "trips long").write.mode("overwrite").parquet(sys.argv[2])
"""


@dataclass(frozen=True, kw_only=True)
class Person:
    """Somebody with a key and a trust file, and nothing else of the installation."""

    installation: Installation
    state: State

    @property
    def public(self) -> str:
        return str(self.state.owner_key.with_suffix(".jwk"))

    def strongroom(self, *arguments: str) -> Ended:
        return self.installation.strongroom(*arguments, "--state", str(self.state.root))

    def done(self, *arguments: str) -> str:
        ended = self.strongroom(*arguments)
        assert ended.status == 0, ended.text
        return ended.stdout


def person(installation: Installation, folder: Path) -> Person:
    state = State(root=folder)
    make_owner_keys(state)
    shutil.copy(installation.state.trust, state.trust)
    if installation.state.packages.is_dir():
        shutil.copytree(installation.state.packages, state.packages)
    return Person(installation=installation, state=state)


def test_two_of_three_people_approve_sign_and_revoke_at_the_command_line(
    installation: Installation, tmp_path: Path
) -> None:
    script = tmp_path / "count.py"
    script.write_text(COUNT)
    submission = Submission(
        script=script, arguments=("strongroom://trips", "strongroom://quorum/all"), writes=("quorum",)
    )
    installation.done("dataset", "create", "quorum")
    digest = installation.pack(submission)
    installation.done("approve", digest, "--dataset", "trips", "--read")
    alice, bob, carol = (person(installation, tmp_path / name) for name in ("alice", "bob", "carol"))

    # the owner gives the dataset to three people, two of whom must sign
    members = [word for each in (alice, bob, carol) for word in ("--member", each.public)]
    assert "the roster holds" in installation.done("roster", "change", "quorum", *members, "--threshold", "2")
    assert "2 of 3 people's" in alice.done("roster", "show", "quorum")

    # one proposes; nothing is opened yet
    submitter = str(installation.state.submitter_key.with_suffix(".jwk"))
    limits = ("--max-executors", "2", "--max-duration", "2h", "--purpose", "the count of all trips")
    limits = ("--submitter", submitter, *limits)
    proposed = alice.done("approve", digest, "--dataset", "quorum", "--write", *limits)
    assert "signed, 1 of 2" in proposed
    ended = installation.submit(submission)
    installation.assert_clear_end(ended, step=Step.RELEASE, says=["signatures"])

    # a second one reads everything, and signs
    (waiting,) = json.loads(bob.done("approvals", "list", "--waiting", "--json"))
    assert (waiting["signatures"], waiting["needed"]) == (1, 2)
    approval = waiting["approval"]
    unasked = bob.strongroom("approvals", "sign", approval[:12])
    assert unasked.status != 0, "without a yes nothing is signed"
    signed = bob.done("approvals", "sign", approval[:12], "--yes")
    for words in ("the count of all trips", "at most 2 in a run", "at most 2 h after opening", "approved and signed"):
        assert words in signed

    run = installation.submit_well(submission)
    verified = installation.done("receipt", "verify", str(installation.receipt(run)))
    assert "quorum: write" in verified
    assert "quorum: 2 of 2 needed" in verified

    # the only run is used up: who asked learns that much, who answers for the dataset learns the rest
    refused = installation.submit(submission)
    installation.assert_clear_end(refused, step=Step.RELEASE, says=["runs: expected a run that is left"])
    (explained, *_) = json.loads(carol.done("why", "--json"))
    assert {each["name"]: each["expected"] for each in explained["differences"]} == {"runs": "fewer than 1 opened"}
    assert explained["dataset"] == "quorum"
    assert explained["run_id"] in carol.done("why", explained["run_id"])

    # one of them takes back what two gave
    alice.done("approve", digest, "--dataset", "quorum", "--write", "--submitter", submitter, "--max-runs", "5")
    (second,) = json.loads(alice.done("approvals", "list", "--waiting", "--json"))
    compared = bob.done("approvals", "sign", second["approval"], "--yes")
    assert "runs: at most 1" in compared, "what differs from the approval before it is shown"
    leases = json.loads(bob.done("leases", "--json"))
    assert [(each["approval"], each["runs_left"]) for each in leases["leases"]] == [(second["approval"], 5)]
    assert leases["runs"] == []
    carol.done("revoke", second["approval"][:12], "--reason", "no longer needed")
    assert "no longer needed" in bob.done("approvals", "show", second["approval"])
    assert json.loads(bob.done("leases", "--json"))["leases"] == []

    # a stranger is told nothing
    stranger = person(installation, tmp_path / "stranger")
    for command in (["why"], ["approvals"], ["leases"], ["roster", "show", "quorum"]):
        told = stranger.strongroom(*command)
        assert told.status == 1
        assert second["approval"][:12] not in told.text


def test_an_owner_reads_whom_each_shape_trusts_before_he_signs(installation: Installation, tmp_path: Path) -> None:
    script = tmp_path / "shapes.py"
    script.write_text(COUNT)
    submission = Submission(
        script=script, arguments=("strongroom://trips", "strongroom://shapes/all"), writes=("shapes",)
    )
    installation.done("dataset", "create", "shapes")
    digest = installation.pack(submission)
    approve = ("approve", digest, "--dataset", "trips", "--read")

    plain = installation.done(*approve)
    weaker = installation.done(*approve, "--tee", "snp", "--shape", "pod", "--shape", "confidential-node")

    assert "process (a TEE for each process" in plain
    assert "WEAKER" not in plain
    assert "WEAKER: the cluster's administrator is inside the TEE" in weaker
    for words, says in (
        (("--shape", "pod"), "can be a pod"),
        (("--tee", "sgx", "--tee", "snp", "--shape", "confidential-node"), "--tee sgx can be no --shape"),
        (("--workload", "team-a/spark@https://cluster.example"), "cluster that this key service does not know"),
        (("--workload", "driver=team-a/spark@https://cluster.example"), "none for the executor"),
    ):
        refused = installation.strongroom(*approve, *words)
        assert refused.status != 0
        assert says in refused.text
        assert "Traceback" not in refused.text
