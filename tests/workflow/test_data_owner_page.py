"""The data owner's page, followed from top to bottom in an empty folder with a real installation."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests.support.pages import REFUSED, commands, script

from strongroom.cli.state import State

pytestmark = pytest.mark.timeout(1800)


def test_the_page_for_data_owners_works_as_it_stands(repo_root: Path, tmp_path: Path) -> None:
    page = repo_root / "docs" / "how-to" / "data-owner.md"
    folder = tmp_path / "empty"
    folder.mkdir()
    programs = Path(sys.executable).parent
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(tmp_path)}
    environment |= {name: os.environ[name] for name in ("TMPDIR",) if name in os.environ}
    try:
        ended = subprocess.run(
            ["bash", "-x", "-c", script(page)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == 0, said
    finally:
        subprocess.run([programs / "strongroom", "down", "--state", folder / "state"], check=False, env=environment)
    assert "Traceback" not in said
    report = pq.read_table(folder / "report", partitioning=None)
    assert {row["city"]: row["accounts"] for row in report.to_pylist()} == {"London": 1, "Paris": 1, "Berlin": 1}
    people = pq.read_table(folder / "people-plain", partitioning=None)
    assert sorted(people["name"].to_pylist()) == ["Ada", "Blaise", "Emmy", "Sofia"]
    assert not (folder / "closed").exists()
    assert not (folder / "gone").exists()
    assert "people.shredding.json: verified" in ended.stdout
    stored = Path(State(root=folder / "state").storage("people").removeprefix("file://"))
    assert not any(b"078-05-1120" in path.read_bytes() for path in stored.rglob("*") if path.is_file())
    assert len([command for command in commands(page) if REFUSED.search(command)]) >= 3
