"""What shells complete; the scripts are click's, the names are ours."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from tests.support.trust_files import trust_file

from strongroom.cli.main import strongroom
from strongroom.cli.state import State

PROGRAM = Path(sys.executable).with_name("strongroom")


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State(root=tmp_path / "state")
    trust_file(made.trust, port=1000)
    trust_file(tmp_path / "theirs.json", port=2000)
    added = ["trust", "add", "hospital", str(tmp_path / "theirs.json"), "--yes", "--state", str(made.root)]
    assert CliRunner().invoke(strongroom, added).exit_code == 0
    for folder in (
        made.operator / "storage" / "trips",
        made.packages / "3f9c",
        made.packages / ".half",
        made.runs / "r1",
    ):
        folder.mkdir(parents=True)
    made.approvals.mkdir(parents=True)
    (made.approvals / f"report.{'ab' * 32}.json").write_text("{}")
    (made.approvals / "77aa.id").write_text("")
    return made


def completed(state: State, *words: str) -> list[str]:
    *before, last = words
    completion = ShellComplete(strongroom, {}, "strongroom", "_STRONGROOM_COMPLETE")
    return [
        item.value for item in completion.get_completions([before[0], "--state", str(state.root), *before[1:]], last)
    ]


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (("submit", "--dataset", ""), ["report", "trips"]),
        (("submit", "--dataset", "tr"), ["trips"]),
        (("submit", "--dataset", "trips="), []),
        (("submit", "--attested-by", ""), ["hospital"]),
        (("approve", ""), ["3f9c"]),
        (("approve", "--dataset", "r"), ["report"]),
        (("revoke", ""), ["77aa"]),
    ],
    ids=" ".join,
)
def test_names_are_completed_from_the_state_folder(state: State, words: tuple[str, ...], names: list[str]) -> None:
    assert completed(state, *words) == names


def test_groups_complete_their_commands_arguments(state: State) -> None:
    completion = ShellComplete(strongroom, {}, "strongroom", "_STRONGROOM_COMPLETE")

    def items(*words: str) -> list[str]:
        *before, last = words
        return [item.value for item in completion.get_completions([*before, "--state", str(state.root)], last)]

    assert items("runs", "output", "") == ["r1"]
    assert items("app", "show", "3") == ["3f9c"]
    assert items("dataset", "show", "") == ["report", "trips"]
    assert items("trust", "remove", "") == ["hospital"]


@pytest.mark.parametrize("damage", ["nothing there", "trust", "folders"])
def test_completion_never_fails_and_says_nothing(state: State, damage: str) -> None:
    match damage:
        case "nothing there":
            shutil.rmtree(state.root)
        case "trust":
            state.trust.write_text("nonsense")
        case _:
            shutil.rmtree(state.approvals)
            state.approvals.write_text("a file")

    assert completed(state, "submit", "--attested-by", "") in ([], ["hospital"])
    completed(state, "submit", "--dataset", "")
    completed(state, "revoke", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_prints_a_script_that_asks_this_very_program(shell: str) -> None:
    printed = CliRunner().invoke(strongroom, ["completion", shell])

    assert printed.exit_code == 0
    assert f"_STRONGROOM_COMPLETE={shell}_complete" in printed.output


def test_bash_completes_with_it(state: State) -> None:
    script = (
        f'PATH="{PROGRAM.parent}:$PATH"; eval "$(strongroom completion bash)"; '
        "COMP_WORDS=(strongroom submit --dataset tr); COMP_CWORD=3; "
        '_strongroom_completion strongroom tr --dataset; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {"PATH": "/usr/bin:/bin", "STRONGROOM_STATE": str(state.root), "HOME": str(state.root)}
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, env=environment)

    assert ended.stdout.split() == ["trips"]
    assert ended.stderr == ""
