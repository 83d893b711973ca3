"""Step 8, write: all of the results become a version, or none of them."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.support.installation import Installation, Submission, demand_root

pytestmark = pytest.mark.timeout(1800)

WRITE_ALL = """
import sys
from pyspark.sql import SparkSession

SparkSession.builder.getOrCreate().read.parquet(sys.argv[1]).write.mode("overwrite").parquet(sys.argv[2])
"""
FAIL_AFTER_WRITING = f"""
{WRITE_ALL}
for number in range(20_000):
    print("line", number)
sys.exit(3)
"""


@pytest.fixture
def write_all(tmp_path: Path) -> Submission:
    script = tmp_path / "write_all.py"
    script.write_text(WRITE_ALL)
    return Submission(script=script, arguments=("strongroom://trips", "strongroom://report/all"), writes=("report",))


def test_a_full_disk_ends_the_run_without_an_output_version(installation: Installation, write_all: Submission) -> None:
    demand_root("a full disk")
    installation.done("dataset", "create", "full")  # without versions, which the mount would hide
    submission = replace(write_all, arguments=("strongroom://trips", "strongroom://full/all"), writes=("full",))
    installation.approve(submission)
    place = installation.storage("full")
    place.mkdir(parents=True, exist_ok=True)
    full = f'mount -t tmpfs -o size=64k tmpfs {place} && exec "$@"'

    with installation.no_new_version("full"):
        ended = installation.submit(submission, prefix=["unshare", "--mount", "sh", "-c", full, "sh"])

    installation.assert_clear_end(ended, step=None, says=[])
    assert "No space left on device" in installation.output_of(ended)


def test_a_script_that_fails_after_writing_leaves_its_output_and_no_version(
    installation: Installation, write_all: Submission
) -> None:
    write_all.script.write_text(FAIL_AFTER_WRITING)
    installation.approve(write_all)

    with installation.no_new_version("report"):
        ended = installation.submit(write_all)

    assert "failed with exit status 3" in ended.stdout
    assert "\nline 19999\n" in installation.output_of(ended)
    installation.assert_clear_end(ended, step=None, says=[], status=3)


def test_refuses_a_dataset_that_was_not_made(installation: Installation, write_all: Submission) -> None:
    submission = replace(write_all, arguments=("strongroom://trips", "strongroom://nowhere"), writes=("nowhere",))
    digest = installation.pack(submission)
    installation.done("approve", digest, "--dataset", "trips", "--read", "--max-runs", "1")

    ended = installation.submit(submission)

    installation.assert_clear_end(
        ended, step=None, says=["no approval lets this application and submitter write dataset nowhere"]
    )
