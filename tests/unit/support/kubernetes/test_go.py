"""Which Go is used, and what a person is told when there is none."""

import subprocess

import pytest
from tests.support.kubernetes.go import find_go, parse_version, toolchain_for

from strongroom.base.errors import ConfigurationError


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26)),
        ("go version go1.26rc1 linux/arm64", (1, 26)),
        ("go version devel go1.28-abc linux/amd64", (1, 28)),
        ("gccgo", None),
    ],
)
def test_versions_are_read(text: str, version: tuple[int, int] | None) -> None:
    assert parse_version(text) == version


@pytest.mark.parametrize(
    ("version", "toolchain"),
    [((1, 26), "local"), ((1, 27), "go1.26.8"), ((1, 24), "go1.26.8"), ((1, 21), "go1.26.8"), ((1, 19), None)],
)
def test_another_version_fetches_the_right_one_if_it_can(version: tuple[int, int], toolchain: str | None) -> None:
    assert toolchain_for(version) == toolchain


def test_a_go_that_fetches_is_used_with_what_it_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_GO", "/opt/go/bin/go")
    asked = []

    def run(program: str, toolchain: str) -> str:
        asked.append((program, toolchain))
        return f"go version {'go1.24.4' if toolchain == 'local' else toolchain} linux/amd64\n"

    found = find_go(run)
    assert (found.program, found.toolchain, found.version) == ("/opt/go/bin/go", "go1.26.8", "go1.26.8")
    assert asked == [("/opt/go/bin/go", "local"), ("/opt/go/bin/go", "go1.26.8")]


def test_without_any_the_person_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRONGROOM_GO", "/opt/go/bin/go")

    def run(program: str, toolchain: str) -> str:
        if toolchain != "local":
            raise subprocess.CalledProcessError(1, program)
        return "go version go1.24.4 linux/amd64\n"

    with pytest.raises(ConfigurationError, match=r"Go 1\.26 was not found, only /opt/go/bin/go \(go1\.24\.4\)") as told:
        find_go(run)
    assert "STRONGROOM_GO=/path/to/go" in told.value.action
