import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.base.encoding import parse_json_object
from strongroom.cli.generated import COMMANDS, SCHEMAS, generated_files, stale_files, write_files
from strongroom.cli.main import strongroom
from strongroom.wire.ticket import RunTicket


@pytest.fixture(scope="module")
def files() -> dict[Path, str]:
    return generated_files(strongroom)


def test_every_message_has_a_schema_that_refuses_unknown_fields(files: dict[Path, str]) -> None:
    schema = parse_json_object(files[SCHEMAS / f"{RunTicket.__name__}.json"])

    assert schema["additionalProperties"] is False
    assert set(schema["properties"]) == set(RunTicket.model_fields)


def test_the_reference_holds_every_command(files: dict[Path, str]) -> None:
    for command in ("submit", "dataset encrypt", "receipt verify", "approve"):
        assert f"## strongroom {command}\n" in files[COMMANDS]


def test_generation_gives_the_same_text_each_time(files: dict[Path, str]) -> None:
    assert generated_files(strongroom) == files


def test_written_files_are_up_to_date(files: dict[Path, str], tmp_path: Path) -> None:
    assert set(write_files(files, root=tmp_path)) == set(files)
    assert stale_files(files, root=tmp_path) == ()
    assert write_files(files, root=tmp_path) == ()


def test_an_edited_missing_or_left_over_file_is_noticed_and_mended(files: dict[Path, str], tmp_path: Path) -> None:
    write_files(files, root=tmp_path)
    edited, missing, left_over = SCHEMAS / "Trust.json", COMMANDS, SCHEMAS / "Gone.json"
    (tmp_path / edited).write_text("{}\n")
    (tmp_path / missing).unlink()
    (tmp_path / left_over).write_text("{}\n")

    assert set(stale_files(files, root=tmp_path)) == {edited, missing, left_over}

    write_files(files, root=tmp_path)
    assert stale_files(files, root=tmp_path) == ()
    assert not (tmp_path / left_over).exists()


def test_the_reference_does_not_depend_on_the_command_that_makes_it() -> None:
    program = (
        "import sys; from strongroom.cli.generated import *; from strongroom.cli.main import strongroom; "
        "strongroom.main(['dev', sys.argv[1], '--help'], standalone_mode=False); "
        "print(hash(generated_files(strongroom)[COMMANDS]))"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", program, command],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": "0"},
        ).stdout.splitlines()[-1]
        for command in ("generate", "check-generated")
    }

    assert len(hashes) == 1
