"""Debian's packages, unpacked: no package's script is run, and nothing of the package manager gets into an image.

mmdebstrap fetches them, and apt checks them against the archive's signatures. What is unpacked is a chosen list, not
all that the packages depend on: an image has no use for `debconf` or `perl`. `tests/kubernetes` runs in an image what
it is for.

Source: deb(5), deb-control(5); Debian policy, 12.5 (copyright files).
"""

import fnmatch
import hashlib
import json
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError, IntegrityError, Mismatch, RefusedError, UnavailableError

SUITE: Final = "bookworm"
PYTHON: Final = "3.11"
"""The minor version of the suite's Python."""

SYSTEM: Final = (
    "base-files", "ca-certificates", "gcc-12-base", "libbz2-1.0", "libc6", "libcrypt1", "libexpat1", "libffi8",
    "libgcc-s1", "liblzma5", "libpython3.11-minimal", "libpython3.11-stdlib", "libsqlite3-0", "libssl3", "libstdc++6",
    "libuuid1", "python3.11-minimal", "zlib1g",
)  # fmt: skip
"""Python, and the libraries that it and Java load."""
SHELL: Final = (
    "bash", "coreutils", "dash", "gzip", "libacl1", "libattr1", "libgmp10", "libpcre2-8-0", "libselinux1", "libtinfo6",
    "tar",
)  # fmt: skip
"""What Hadoop calls: it unpacks archives with `bash`, `tar` and `gzip`, and asks `ls` and `chmod` about local files."""

_MERGED: Final = ("bin", "lib", "lib32", "lib64", "libx32", "sbin")
_KEPT: Final = ("etc/debian_version", "etc/os-release", "etc/python3.11/*", "usr/*")
_LEFT_OUT: Final = (
    "usr/games/*", "usr/include/*", "usr/lib/systemd/*", "usr/lib/valgrind/*", "usr/local/*", "usr/sbin/*", "usr/src/*",
    "usr/share/applications/*", "usr/share/base-files/*", "usr/share/bash-completion/*", "usr/share/binfmts/*",
    "usr/share/bug/*", "usr/share/doc-base/*", "usr/share/gcc/*", "usr/share/gdb/*", "usr/share/info/*",
    "usr/share/initramfs-tools/*", "usr/share/lintian/*", "usr/share/locale/*", "usr/share/man/*", "usr/share/menu/*",
    "usr/share/pixmaps/*", "usr/share/python3/*", "usr/share/dict/*",
    # Modules of Python's whose libraries are not there.
    "usr/lib/python3.11/lib-dynload/_curses*", "usr/lib/python3.11/lib-dynload/_dbm*",
    "usr/lib/python3.11/lib-dynload/nis.*", "usr/lib/python3.11/lib-dynload/readline.*",
    # For people at a terminal.
    "usr/bin/bashbug", "usr/bin/clear_console", "usr/bin/rbash",
    # Code that a variable or a setting can have loaded into any process.
    "usr/lib/*-linux-gnu/audit/*", "usr/lib/*-linux-gnu/engines-3/*", "usr/lib/*-linux-gnu/gconv/*",
)  # fmt: skip
_DOCUMENTS: Final = "usr/share/doc/"
_PRIVILEGED: Final = 0o6000
_INDEX: Final = "packages.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class DebianPackage:
    """A package in a file.

    Attributes:
        file: Its name in the folder of packages.
        sha256: The file's digest.
    """

    name: str
    version: str
    architecture: str
    file: str
    sha256: str


def fetch(names: Sequence[str], *, cache: Path, mirror: str | None, refresh: bool) -> tuple[list[DebianPackage], Path]:
    """Fetch packages, as the suite has them now; those that were fetched before are taken as they are.

    Args:
        names: The packages.
        cache: Where they are kept.
        mirror: An archive, for example of a past day; Debian's own without it.
        refresh: Fetch them anew: what has changed since, such as security updates, is in the next image.

    Returns:
        The packages by name, and the folder that they are in.

    Raises:
        ConfigurationError: mmdebstrap is not installed.
        UnavailableError: It could not fetch them.
    """
    key = hashlib.sha256(json.dumps([SUITE, mirror, sorted(names)]).encode()).hexdigest()[:16]
    folder = cache / "debian" / key
    if refresh or not (folder / _INDEX).exists():
        draft = folder.with_name(folder.name + ".new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        files = {each.name: each for each in _download(names, draft, mirror=mirror)}
        packages = {each.name: each for each in map(_described, files.values())}
        if missing := sorted(set(names) - packages.keys()):
            raise UnavailableError(
                f"mmdebstrap did not fetch {', '.join(missing)}", action=f"Look for them in {SUITE}."
            )
        found = {name: packages[name] for name in names}
        for unused in files.keys() - {each.file for each in found.values()}:
            files[unused].unlink()
        (draft / _INDEX).write_text(json.dumps([asdict(found[name]) for name in sorted(found)]), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        draft.replace(folder)
    entries = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
    return [DebianPackage(**each) for each in entries], folder


def unpack(packages: Iterable[DebianPackage], folder: Path, root: Path) -> None:
    """Unpack packages into an image's root, where everything lies below `/usr`.

    Args:
        packages: The packages.
        folder: Where they are.
        root: The image's root.

    Raises:
        IntegrityError: A package is not the one that was fetched.
        RefusedError: A package has a program that takes somebody else's rights.
    """
    for package in packages:
        file = folder / package.file
        if _sha256(file) != package.sha256:
            raise IntegrityError(f"{file} has changed", action="Fetch the packages anew: --refresh.")
        command = ["dpkg-deb", "--fsys-tarfile", str(file)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            with tarfile.open(fileobj=process.stdout, mode="r|") as members:
                for member in members:
                    _unpack(members, member, root)
            process.stdout.read()  # what pads the archive: dpkg-deb must not find nobody who reads it
        if process.returncode != 0:
            raise UnavailableError(f"{file.name} cannot be unpacked", action="Fetch the packages anew: --refresh.")


def place(name: str) -> str | None:
    """Return where a file of a package lies in an image, relative to the root; None when it is left out.

    Args:
        name: As it stands in the package: `./bin/tar`.
    """
    path = name.removeprefix("./").strip("/")
    top, slash, rest = path.partition("/")
    if top in _MERGED:
        path = f"usr/{top}{slash}{rest}"
    if path.startswith(_DOCUMENTS):
        return path if path.count("/") == _DOCUMENTS.count("/") or path.endswith("/copyright") else None
    is_kept = any(fnmatch.fnmatchcase(path, pattern) for pattern in _KEPT)
    is_left_out = any(fnmatch.fnmatchcase(path, pattern) for pattern in _LEFT_OUT)
    return path if is_kept and not is_left_out else None


def _unpack(members: tarfile.TarFile, member: tarfile.TarInfo, root: Path) -> None:
    path = place(member.name)
    if path is None or member.isdir():
        return
    if member.mode & _PRIVILEGED:
        raise RefusedError(
            f"a Debian package has /{path}, which takes somebody else's rights",
            action="Leave the package out of the image.",
            mismatches=(Mismatch(name=path, expected="no set-user-id", actual=f"{member.mode:04o}"),),
        )
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    if member.issym():
        target.symlink_to(member.linkname)
    elif member.islnk():
        linked = place(member.linkname)
        assert linked is not None, f"{path} is the same file as one that is left out"
        shutil.copy2(root / linked, target)
    else:
        content = members.extractfile(member)
        assert content is not None, f"{path} is neither a file nor a link"
        with target.open("wb") as file:
            shutil.copyfileobj(content, file)
        target.chmod(0o755 if member.mode & 0o111 else 0o644)


def _download(names: Sequence[str], folder: Path, *, mirror: str | None) -> list[Path]:
    """Fetch packages, and all that they depend on, into a folder."""
    if shutil.which("mmdebstrap") is None:
        raise ConfigurationError("mmdebstrap is not installed", action="Run `make system` as root.")
    system = folder / "system.tar"
    command = [
        *("mmdebstrap", "--quiet", "--variant=extract", "--skip=cleanup/apt/cache"),
        f"--include={','.join(sorted(names))}",
        *(SUITE, str(system)),
        *([] if mirror is None else [mirror]),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        raise UnavailableError(
            f"Debian's packages could not be fetched: {ended.stderr.strip()[-1000:]}",
            action="Look at the network and at the archive's name.",
        )
    with tarfile.open(system) as members:
        found = [_kept(members, each, folder) for each in members if each.isfile() and each.name.endswith(".deb")]
    system.unlink()
    return found


def _kept(members: tarfile.TarFile, member: tarfile.TarInfo, folder: Path) -> Path:
    path = folder / Path(member.name).name
    content = members.extractfile(member)
    assert content is not None
    with path.open("wb") as file:
        shutil.copyfileobj(content, file)
    return path


def _described(file: Path) -> DebianPackage:
    command = ["dpkg-deb", "--showformat=${Package}\n${Version}\n${Architecture}", "--show", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    name, version, architecture = shown.split("\n")
    return DebianPackage(name=name, version=version, architecture=architecture, file=file.name, sha256=_sha256(file))


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def licences(root: Path, package: str) -> tuple[str, ...]:
    """Return the licences that a package's copyright file names, by Debian's short names; none where it is only text.

    Args:
        root: A root that the package was unpacked into.
        package: Its name.

    Source: Machine-readable debian/copyright file, 7.
    """
    file = root / _DOCUMENTS / package / "copyright"
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    if not any(line.startswith("Format:") for line in lines[:5]):
        return ()
    names = {line.partition(":")[2].strip() for line in lines if line.startswith("License:")}
    return tuple(sorted(name for name in names if name))
