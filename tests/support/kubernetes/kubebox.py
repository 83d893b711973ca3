"""Builds the cluster's program out of Go modules, once for each content of the folder `kubebox`."""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.kubernetes.go import Go, find_go
from tests.support.kubernetes.processes import bound

from strongroom.base.errors import ConfigurationError, UnavailableError

SOURCES: Final = Path(__file__).with_name("kubebox")
Say = Callable[[str], None]
LESS_COLLECTING: Final = {"GOGC": "400"}
"""The environment of programs in Go: they take more memory, which is there, and a sixth less of processor time."""
_FLAGS: Final = "-buildvcs=false -trimpath -mod=readonly -gcflags=all=-dwarf=false"
_VERSION_PACKAGE: Final = "k8s.io/component-base/version"
_MUCH_MEMORY_BYTES: Final = 8 << 30
_SAY_EVERY_S: Final = 20.0
_KEPT: Final = 2
_SHOWN_LINES: Final = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """What was built.

    Attributes:
        program: Kubernetes' servers, etcd, kubectl, helm; the first argument says which.
        podbox: What the tests' pods run, for an image with nothing else in it.
    """

    program: Path
    podbox: Path


def built_box(state: Path, *, say: Say, nice: int = 0) -> Box:
    """Return the programs; build them if there are none of these sources, this Go and this machine.

    Args:
        state: The folder for what is kept.
        say: Shows a line of progress.
        nice: By how much others go first while it is built.

    Raises:
        ConfigurationError: There is no Go of the right version.
        UnavailableError: It could not be built.
    """
    go = find_go()
    key = _key(go)
    folder = state / "kubebox" / key
    box = Box(program=folder / "kubebox", podbox=folder / "podbox")
    with locked(state / "kubebox.lock", wait=lambda: say("kubebox: another session builds it; waiting")):
        if folder.exists():
            folder.touch()
        else:
            _build(go, folder, say=say, nice=nice)
        forget_old(folder.parent, kept=_KEPT)
    return box


def kubernetes_version(go_mod: str) -> str:
    """Return the version of Kubernetes in the text of go.mod, as in "v1.36.4"."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", go_mod, re.MULTILINE)
    assert found is not None, "go.mod requires k8s.io/kubernetes"
    return found[1]


def linker_flags(version: str) -> str:
    """Return the flags that tell the servers their version: clients parse it."""
    major, minor, _ = version.removeprefix("v").split(".")
    said = {"gitVersion": version, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    return " ".join(["-s -w", *(f"-X {_VERSION_PACKAGE}.{name}={value}" for name, value in said.items())])


@contextmanager
def locked(file: Path, *, wait: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that one process at a time can have; `wait` is called once if another one has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            wait()
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def forget_old(folder: Path, *, kept: int) -> None:
    """Remove all subfolders but the ones used last."""
    newest = sorted(filter(Path.is_dir, folder.iterdir()), key=lambda path: path.stat().st_mtime, reverse=True)
    for each in newest[kept:]:
        shutil.rmtree(each)


def _key(go: Go) -> str:
    digest = hashlib.sha256(f"{go.version} {platform.machine()} {_FLAGS}".encode())
    for path in sorted(SOURCES.rglob("*")):
        if path.is_file():
            digest.update(f"\0{path.relative_to(SOURCES)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def _build(go: Go, folder: Path, *, say: Say, nice: int) -> None:
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    version = kubernetes_version((SOURCES / "go.mod").read_text())
    environment = {
        **os.environ,
        "GOTOOLCHAIN": go.toolchain,
        "GOFLAGS": _FLAGS,
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }
    if os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") > _MUCH_MEMORY_BYTES:
        environment.setdefault("GOGC", "off")  # 9 % less work, and no compiler above 0.9 GB
    say(f"kubebox: building Kubernetes {version} with {go.version}; the first time it takes five minutes and more")
    for name, package, flags in (("podbox", "./podbox", "-s -w"), ("kubebox", ".", linker_flags(version))):
        command = [
            "nice",
            "-n",
            str(nice),
            go.program,
            "build",
            "-v",
            "-ldflags",
            flags,
            "-o",
            str(new / name),
            package,
        ]
        _run(command, environment, say=say)
    new.rename(folder)
    say(f"kubebox: built, {(folder / 'kubebox').stat().st_size >> 20} MB")


def _run(command: list[str], environment: Mapping[str, str], *, say: Say) -> None:
    """Run a build; each package that it compiles and each module that it fetches is a line."""
    began = said = time.monotonic()
    packages = 0
    last: deque[str] = deque(maxlen=_SHOWN_LINES)
    try:
        process = subprocess.Popen(
            bound(command), cwd=SOURCES, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error.filename} is not installed", action="run `make system`") from error
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            packages += "downloading" not in line
            last.append(line)
            if time.monotonic() - said > _SAY_EVERY_S:
                said = time.monotonic()
                say(f"kubebox: {packages} packages compiled in {said - began:.0f} s")
    if process.returncode:
        raise UnavailableError(
            "kubebox could not be built: " + "".join(last),
            action="see what Go says; the module proxy must be reachable",
        )
