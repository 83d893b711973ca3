import subprocess
import sys
from collections.abc import Iterator

import click
import pytest
from click.testing import CliRunner

from strongroom.cli.commands.services import key_service
from strongroom.cli.lazy import LazyGroup
from strongroom.cli.main import strongroom


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            yield from commands(child, (*path, name))


@pytest.mark.parametrize("path", list(commands(strongroom)), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    result = CliRunner().invoke(strongroom, [*path, "--help"])

    assert result.exit_code == 0
    assert result.output.startswith("Usage: strongroom")


@pytest.mark.parametrize(
    ("group", "name"),
    [(group, name) for group in (strongroom, key_service) for name, each in group.lazy.items() if not each.hidden],
)
def test_the_list_of_commands_says_what_each_command_says_itself(group: LazyGroup, name: str) -> None:
    command = group.get_command(click.Context(group), name)

    assert command is not None
    assert (command.help or "").split("\n", 1)[0] == group.lazy[name].summary


def test_the_platform_process_is_a_command_but_is_not_listed() -> None:
    result = CliRunner().invoke(strongroom, ["--help"])

    assert "simulated-platform" not in result.output
    assert CliRunner().invoke(strongroom, ["simulated-platform", "--help"]).exit_code == 0


def test_an_unknown_command_is_a_usage_error() -> None:
    result = CliRunner().invoke(strongroom, ["subimt"])

    assert result.exit_code == 2
    assert "subimt" in result.output


def test_the_list_of_commands_loads_nothing_heavy() -> None:
    program = (
        "import sys; from strongroom.cli.main import strongroom; "
        "strongroom.main(['--help'], standalone_mode=False); "
        "print(sorted({'cryptography', 'pydantic', 'pyarrow', 'pyspark', 'rich', 'uvicorn'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[]"


@pytest.mark.parametrize("module", ["strongroom.cli.commands.services", "strongroom.services.provision"])
def test_a_container_does_not_load_a_service_before_it_becomes_one(module: str) -> None:
    heavy = {"pydantic", "pyarrow", "sqlalchemy", "sqlite3", "urllib3", "uvicorn"}
    program = f"import sys, {module}; print(sorted({heavy!r} & sys.modules.keys()))"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[]"


def test_submit_does_not_load_spark_or_arrow() -> None:
    program = (
        "import sys, strongroom.cli.commands.submit; print(sorted({'pyarrow', 'pyspark', 'py4j'} & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert ended.stdout.splitlines()[-1] == "[]"
