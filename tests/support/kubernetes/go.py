"""Go, of the one minor version that builds this Kubernetes right."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError

MINOR: Final = (1, 26)
"""Go 1.27 builds Kubernetes 1.36 without an error, but what the API server then says of its types is wrong."""
_FETCHED: Final = "go1.26.8"
_FIRST_THAT_FETCHES: Final = (1, 21)
_USUAL_PLACES: Final = ("/usr/local/go/bin/go", "/usr/lib/go-1.26/bin/go", "/usr/lib/go/bin/go")


@dataclass(frozen=True, slots=True, kw_only=True)
class Go:
    """A Go that works here.

    Attributes:
        program: The command.
        toolchain: What `GOTOOLCHAIN` has to be: "local", or the version that the command fetches.
        version: As in "go1.26.8".
    """

    program: str
    toolchain: str
    version: str


def parse_version(text: str) -> tuple[int, int] | None:
    """Return the version in what `go version` prints; None when there is none."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return None if found is None else (int(found[1]), int(found[2]))


def toolchain_for(version: tuple[int, int]) -> str | None:
    """Return what `GOTOOLCHAIN` has to be with a Go of this version; None when it cannot fetch another."""
    if version == MINOR:
        return "local"
    return _FETCHED if version >= _FIRST_THAT_FETCHES else None


def find_go(run: Callable[[str, str], str] | None = None) -> Go:
    """Find a Go of the right version, or one that fetches it from the Go module proxy.

    Args:
        run: Runs `PROGRAM version` under a `GOTOOLCHAIN`, and returns what it prints; raises OSError or
            CalledProcessError.

    Raises:
        ConfigurationError: There is none.
    """
    run = run or _version
    seen = []
    for program in _candidates():
        try:
            local = run(program, "local")
        except (OSError, subprocess.SubprocessError):
            continue
        seen.append(f"{program} ({' '.join(local.split()[2:3])})")
        toolchain = toolchain_for(parse_version(local) or (0, 0))
        if toolchain == "local":
            return Go(program=program, toolchain="local", version=local.split()[2])
        if toolchain is not None:
            try:
                fetched = run(program, toolchain)
            except (OSError, subprocess.SubprocessError):
                continue
            if parse_version(fetched) == MINOR:
                return Go(program=program, toolchain=toolchain, version=fetched.split()[2])
    wanted = ".".join(map(str, MINOR))
    raise ConfigurationError(
        f"Go {wanted} was not found" + (f", only {', '.join(seen)}" if seen else ""),
        action=f"install Go {wanted} and put it on PATH or name it, STRONGROOM_GO=/path/to/go; "
        f"Go {_FIRST_THAT_FETCHES[0]}.{_FIRST_THAT_FETCHES[1]} or newer fetches it where it reaches a module proxy",
    )


def _candidates() -> list[str]:
    named = os.environ.get("STRONGROOM_GO")
    if named:
        return [named]
    found = [shutil.which("go"), *(place for place in _USUAL_PLACES if Path(place).exists())]
    return list(dict.fromkeys(program for program in found if program))


def _version(program: str, toolchain: str) -> str:
    environment = {**os.environ, "GOTOOLCHAIN": toolchain}
    done = subprocess.run([program, "version"], env=environment, capture_output=True, text=True, check=True, cwd="/")
    return done.stdout
