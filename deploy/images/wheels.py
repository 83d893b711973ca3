"""Python packages out of the locked requirements, for the image's Python, which need not be this machine's.

pip downloads them and compares each one with its hashes. What comes as sources only (Spark) is built once, here, with
the pinned tools of `requirements/build.txt`. Wheels are unpacked as they are: nothing of how a package was installed
gets into an image.

Source: PyPA specifications: binary distribution format, core metadata, dependency specifiers; PEP 600.
"""

import email.parser
import hashlib
import json
import platform
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from email.message import Message
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement

from strongroom.base.errors import ConfigurationError, UnavailableError

_OLDEST_GLIBC_MINOR: Final = 5
_GLIBC_MINOR: Final = 36
"""Debian 12's; wheels for an older glibc 2 run as well."""
_HASH: Final = re.compile(r"--hash=(sha256:[0-9a-f]{64})")
_DATA: Final = re.compile(r"^[^/]+\.data/(?P<scheme>[a-z]+)/(?P<rest>.+)$")
_WORLD_EXECUTABLE: Final = 0o111
_INDEX: Final = "packages.json"
_LICENCE_CLASSIFIER: Final = "License :: "
_LONGEST_LICENCE: Final = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Pinned:
    """One requirement of a lock: exactly one version.

    Attributes:
        hashes: SHA-256 of the files that are accepted, as pip writes them.
    """

    name: str
    version: str
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PythonPackage:
    """A package as it was fetched.

    Attributes:
        wheel: Its name in the folder of packages.
        sha256: The digest of what was fetched: the wheel, or the sources that it was built from.
        licence: What its metadata say of its licence, in words.
        expression: The same as an SPDX expression, where they have one.
    """

    name: str
    version: str
    wheel: str
    sha256: str
    licence: str
    expression: str | None


def pinned(lock: str, *, python: str, machine: str) -> list[Pinned]:
    """Return which requirements of a lock hold for a Python on Linux.

    Args:
        lock: The text of a requirements file with hashes.
        python: The Python's minor version.
        machine: The machine, as the kernel names it.

    Raises:
        ConfigurationError: A requirement is not pinned, or has no hash.
    """
    target = {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": machine,
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{python}.0",
        "python_version": python,
        "sys_platform": "linux",
    }
    found = []
    for line in lock.replace("\\\n", " ").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text.partition("--hash")[0].strip())
        hashes = tuple(_HASH.findall(text))
        versions = [each.version for each in requirement.specifier if each.operator == "=="]
        if len(versions) != 1 or not hashes:
            raise ConfigurationError(f"{requirement.name} is not pinned with a hash", action="Run: make lock.")
        if requirement.marker is None or requirement.marker.evaluate(target):
            found.append(Pinned(name=requirement.name, version=versions[0], hashes=hashes))
    return found


def fetch(lock: Path, *, python: str, cache: Path) -> tuple[list[PythonPackage], Path]:
    """Fetch the packages of a lock; those that were fetched before are taken as they are.

    Args:
        lock: A requirements file with hashes.
        python: The minor version of the image's Python.
        cache: Where they are kept.

    Returns:
        The packages by name, and the folder that their wheels are in.

    Raises:
        ConfigurationError: A requirement is not pinned.
        UnavailableError: pip could not fetch or build one.
    """
    machine = platform.machine()
    text = lock.read_text(encoding="utf-8")
    key = hashlib.sha256(json.dumps([text, python, machine]).encode()).hexdigest()[:16]
    folder = cache / "wheels" / key
    if not (folder / _INDEX).exists():
        draft = folder.with_name(folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _download(pinned(text, python=python, machine=machine), draft, python=python, machine=machine)
        packages = sorted(_built(draft), key=lambda each: each.name)
        (draft / _INDEX).write_text(json.dumps([asdict(each) for each in packages]), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    entries = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [PythonPackage(**each) for each in entries], folder


def build(source: Path, folder: Path) -> Path:
    """Build the wheel of a source tree or archive with this environment's tools, and return it.

    Args:
        source: The tree or the archive.
        folder: Where the wheel goes; it has no other one.

    Raises:
        UnavailableError: pip could not build it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _pip("wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, packages: Path, *, environment: Path) -> None:
    """Unpack a wheel's packages and data; scripts, headers and compiled modules are left out.

    Args:
        wheel: The wheel.
        packages: A `site-packages` folder.
        environment: The virtual environment that it is in.
    """
    places = {"purelib": packages, "platlib": packages, "data": environment}
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            name = member.filename
            data = _DATA.match(name)
            place, path = (places.get(data["scheme"]), data["rest"]) if data else (packages, name)
            if place is None or member.is_dir() or "__pycache__" in name.split("/"):
                continue
            target = place / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(member) as content, target.open("wb") as file:
                shutil.copyfileobj(content, file)
            target.chmod(0o755 if member.external_attr >> 16 & _WORLD_EXECUTABLE else 0o644)


def platforms(machine: str) -> Iterator[str]:
    """Yield the platforms whose wheels run on Debian 12, as pip's `--platform` takes them, the newest glibc first."""
    yield from (f"manylinux_2_{minor}_{machine}" for minor in range(_GLIBC_MINOR, _OLDEST_GLIBC_MINOR - 1, -1))
    yield from (f"{name}_{machine}" for name in ("manylinux2014", "manylinux2010", "manylinux1", "linux"))


def _download(requirements: Sequence[Pinned], folder: Path, *, python: str, machine: str) -> None:
    listed = folder / "requirements.txt"
    listed.write_text(
        "".join(
            f"{each.name}=={each.version} {' '.join(f'--hash={value}' for value in each.hashes)}\n"
            for each in requirements
        ),
        encoding="utf-8",
    )
    _pip(
        *("download", "--no-deps", "--require-hashes", "--no-build-isolation", "--dest", str(folder)),
        *("--implementation", "cp", "--python-version", python),
        *(part for each in platforms(machine) for part in ("--platform", each)),
        *("--requirement", str(listed)),
    )
    listed.unlink()


def _built(folder: Path) -> Iterator[PythonPackage]:
    for file in sorted(folder.iterdir()):
        digest = _sha256(file)
        wheel = file
        if file.suffix != ".whl":
            made = build(file, folder / "built")
            wheel = made.replace(folder / made.name)
            file.unlink()
        metadata = _metadata(wheel)
        yield PythonPackage(
            name=str(metadata["Name"]),
            version=str(metadata["Version"]),
            wheel=wheel.name,
            sha256=digest,
            licence=licence(metadata),
            expression=metadata["License-Expression"],
        )


def licence(metadata: Message) -> str:
    """Return what a package's metadata say of its licence, in words."""
    classifiers = [str(each) for each in metadata.get_all("Classifier", [])]
    named = [each.rpartition(" :: ")[2] for each in classifiers if each.startswith(_LICENCE_CLASSIFIER)]
    if named:
        return " and ".join(sorted(named))
    text = str(metadata["License"] or "").strip().split("\n")[0]
    return text[:_LONGEST_LICENCE] or "not said"


def _metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each)]
        text = archive.read(name).decode("utf-8", "replace")
    return email.parser.Parser().parsestr(text, headersonly=True)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise UnavailableError(
            f"pip {arguments[0]} failed: {ended.stderr.strip()[-1000:]}",
            action="Look at the network; the tools come from requirements/build.txt (make setup).",
        )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
