"""What the simulated hardware measures: every file that the code of an enclave can come from.

On real hardware MRENCLAVE covers the pages that were loaded. Here it covers the files of a Python environment: the
interpreter, its standard library, all installed packages, what `.pth` files add to the path, and Strongroom's own Java
parts. The operating system's libraries are not in it. See `docs/adr` for what this does and does not show.
"""

import contextlib
import hashlib
import importlib.util
import json
import os
import py_compile
import re
import stat
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from strongroom.base.errors import ConfigurationError
from strongroom.wire.model import TeeKind

FileKey: TypeAlias = tuple[int, int, int, int]
"""Inode, size, time of modification and of change (ns)."""
_File: TypeAlias = tuple[str, str, FileKey]
"""Name in the measurement, path on this machine, key. (Tuples: there are tens of thousands.)"""

_BYTECODE_HEADER_BYTES: Final = 16
_VOLATILE_METADATA: Final = frozenset({"RECORD", "INSTALLER", "REQUESTED", "direct_url.json", "uv_cache.json"})
"""Files of `*.dist-info` that say how a package was installed, not what it is."""
_NEVER_IMPORTED: Final = frozenset({"test", "tests"})
"""Folders whose modules nothing of ours imports: they are measured, but not compiled beforehand."""
_BASE_PACKAGES: Final = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """A Python environment.

    Attributes:
        prefix: Its root: the folder with `pyvenv.cfg`, or the interpreter's own root.
        interpreter: The interpreter's file, symbolic links resolved.
    """

    prefix: Path
    interpreter: Path

    @classmethod
    def of_python(cls, python: Path) -> "Environment":
        """Return the environment that an interpreter started under this name would use.

        Args:
            python: Absolute path as it was started, symbolic links not resolved.

        Raises:
            ConfigurationError: There is no such interpreter.
        """
        try:
            interpreter = python.resolve(strict=True)
        except OSError as error:
            raise ConfigurationError("there is no such Python interpreter") from error
        prefix = python.parent.parent
        if not (prefix / "pyvenv.cfg").is_file():
            prefix = interpreter.parent.parent
        return cls(prefix=prefix, interpreter=interpreter)

    @property
    def base_prefix(self) -> Path:
        """Where the interpreter and its standard library are installed."""
        return self.interpreter.parent.parent

    def version(self) -> str:
        """Return the environment's `pythonX.Y`.

        Raises:
            ConfigurationError: It has no standard library where one is expected.
        """
        name = re.fullmatch(r"python(\d+\.\d+)", self.interpreter.name)
        candidates = [f"python{name[1]}"] if name else [f"python{sys.version_info.major}.{sys.version_info.minor}"]
        for candidate in candidates:
            if any((self.base_prefix / lib / candidate).is_dir() for lib in ("lib", "lib64")):
                return candidate
        raise ConfigurationError("the interpreter has no standard library where one is expected")


class Measurer:
    """Measures environments; a file is read again only when its inode, size or times have changed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._digests: dict[str, tuple[FileKey, str]] = {}
        self._headers: dict[str, bytes] = {}
        self._uncompilable: dict[str, FileKey] = {}
        self._last: dict[Environment, tuple[list[_File], str]] = {}

    def measure(self, environment: Environment) -> str:
        """Measure an environment.

        Python writes compiled modules beside its sources whenever it first imports them. So that this does not change
        a measurement, missing ones are written first; what is measured afterwards stays as it is.

        Args:
            environment: What to measure.

        Returns:
            SHA-256 over the sorted list of names and SHA-256 digests, 64 hexadecimal digits.

        Raises:
            ConfigurationError: The environment is incomplete, or a file cannot be read.
        """
        with self._lock:
            try:
                files, stale = self._scan(environment)
                if self._compile(stale):
                    files, _ = self._scan(environment)
                known = self._last.get(environment)
                if known is None or known[0] != files:
                    known = self._last[environment] = (files, self._digest_of(files))
            except OSError as error:
                raise ConfigurationError(f"a file of the environment cannot be measured ({error.strerror})") from error
        return known[1]

    def _scan(self, environment: Environment) -> tuple[list[_File], list[_File]]:
        """List the files to measure, and the sources that have no fresh compiled form."""
        tag = environment.version().replace("python", "cpython-").replace(".", "")
        files: list[_File] = []
        stale: list[_File] = []
        for label, root in _roots(environment):
            if root.is_file():
                files.append((label, str(root), file_key(root.stat())))
                continue
            skip = _BASE_PACKAGES if label == "stdlib" else frozenset()
            for name, found in _walk(root, label, skip=skip):
                is_metadata = name.endswith(".dist-info")
                kept = [file for file in found if not (is_metadata and file[0] in _VOLATILE_METADATA)]
                sources = {file[0][:-3]: file for file in kept if file[0].endswith(".py")}
                compiled = self._bytecode(tag, sources)
                files += ((f"{name}/{file[0]}", file[1], file[2]) for file in (*kept, *compiled.values()))
                if _NEVER_IMPORTED.isdisjoint(name.split("/")):
                    stale += (source for stem, source in sources.items() if stem not in compiled)
        return files, stale if tag == sys.implementation.cache_tag else []

    def _bytecode(self, tag: str, sources: dict[str, _File]) -> dict[str, _File]:
        """Return the compiled modules that Python would load instead of these sources of one folder."""
        if not sources:
            return {}
        folder = next(iter(sources.values()))[1].rpartition("/")[0] + "/__pycache__"
        compiled = {}
        ending = f".{tag}.pyc"
        with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
            for entry in entries:
                source = sources.get(entry.name.removesuffix(ending))
                if source is not None and entry.name.endswith(ending):
                    file = (f"__pycache__/{entry.name}", entry.path, file_key(entry.stat()))
                    if _would_load(self._header(file), source[2]):
                        compiled[source[0][:-3]] = file
        return compiled

    def _compile(self, stale: list[_File]) -> bool:
        """Compile sources as an import would; return whether anything was written."""
        written = False
        for _, path, key in stale:
            target = Path(importlib.util.cache_from_source(path)).parent
            known_bad = self._uncompilable.get(path) == key
            if known_bad or not os.access(target if target.is_dir() else target.parent, os.W_OK):
                continue
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    py_compile.compile(path, doraise=True, quiet=2)
                written = True
            except (py_compile.PyCompileError, OSError, ValueError):
                self._uncompilable[path] = key
        return written

    def _digest_of(self, files: list[_File]) -> str:
        lines = sorted(f"{file[0]}\0{self._digest(file)}" for file in files)
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _header(self, file: _File) -> bytes:
        self._digest(file)
        return self._headers[file[1]]

    def _digest(self, file: _File) -> str:
        _, path, key = file
        known = self._digests.get(path)
        if known is not None and known[0] == key:
            return known[1]
        digest, header = _hash_file(path)
        self._digests[path] = (key, digest)
        if path.endswith(".pyc"):
            self._headers[path] = header
        return digest


def tee_measurement(environment_digest: str, entry: str, *, tee: TeeKind) -> str:
    """Return what the hardware measures of an entry module in a measured environment.

    Args:
        environment_digest: From `Measurer.measure`.
        entry: The entry module.
        tee: The kind of TEE that it is launched as.

    Returns:
        MRENCLAVE (64 hexadecimal digits), MRTD or MEASUREMENT (96).
    """
    document = {"entry": entry, "environment": environment_digest, "version": 1}
    if tee == "sgx":
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    return hashlib.sha384(json.dumps({**document, "tee": tee}, sort_keys=True).encode()).hexdigest()


def _roots(environment: Environment) -> Iterator[tuple[str, Path]]:
    """Yield every file and folder that code of the environment can come from, each under a name of its own."""
    version, base, prefix = environment.version(), environment.base_prefix, environment.prefix
    yield "interpreter", environment.interpreter
    yield from ((f"interpreter/{path.name}", path) for path in sorted(base.glob("lib*/libpython*.so*")))
    yield from (("pyvenv.cfg", path) for path in [prefix / "pyvenv.cfg"] if path.is_file())
    zipped = base / "lib" / f"{version.replace('.', '')}.zip"
    if zipped.is_file():
        yield "stdlib.zip", zipped
    for lib in _distinct(base / "lib" / version, base / "lib64" / version):
        yield "stdlib", lib
    for number, packages in enumerate(
        _distinct(*(prefix / lib / version / "site-packages" for lib in ("lib", "lib64")))
    ):
        yield f"site-packages-{number}", packages
        for added, folder in enumerate(_added_by_pth(packages)):
            yield f"path-{number}-{added}", folder
    share = prefix / "share" / "strongroom"
    if share.is_dir():
        yield "share", share


def _added_by_pth(packages: Path) -> Iterator[Path]:
    """Yield the folders (or archives) that `.pth` files put on the path; the files themselves are measured too."""
    for file in sorted(packages.glob("*.pth")):
        for line in file.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            if line.strip() and not line.startswith(("#", "import ", "import\t")):
                path = packages / line.strip()
                if path.exists():
                    yield path


def _walk(root: Path, label: str, *, skip: frozenset[str]) -> Iterator[tuple[str, list[_File]]]:
    """Yield every folder's name and its files, symbolic links to folders followed once, `__pycache__` left out."""
    linked: set[str] = set()
    pending = [(label, str(root))]
    while pending:
        name, folder = pending.pop()
        files = []
        with os.scandir(folder) as entries:
            for entry in entries:
                if not entry.is_dir():
                    files.append((entry.name, entry.path, file_key(_status(entry))))
                elif entry.name == "__pycache__" or entry.name in skip:
                    continue
                elif not entry.is_symlink():
                    pending.append((f"{name}/{entry.name}", entry.path))
                elif (target := os.path.realpath(entry.path)) not in linked:
                    linked.add(target)
                    pending.append((f"{name}/{entry.name}", target))
        yield name, files


def _distinct(*folders: Path) -> Iterator[Path]:
    seen = set()
    for folder in folders:
        real = folder.resolve()
        if folder.is_dir() and real not in seen:
            seen.add(real)
            yield folder


def _would_load(header: bytes, source: FileKey) -> bool:
    """Whether Python takes a compiled module with this header for its source (PEP 552)."""
    if header[:4] != importlib.util.MAGIC_NUMBER:
        return False
    if int.from_bytes(header[4:8], "little"):
        return True
    recorded = int.from_bytes(header[8:12], "little"), int.from_bytes(header[12:16], "little")
    _, size_bytes, modified_ns, _ = source
    return recorded == (modified_ns // 1_000_000_000 & 0xFFFFFFFF, size_bytes & 0xFFFFFFFF)


def _status(entry: os.DirEntry[str]) -> os.stat_result:
    """Return a file's status; of a symbolic link that leads nowhere, its own."""
    try:
        return entry.stat()
    except FileNotFoundError:
        return entry.stat(follow_symlinks=False)


def file_key(status: os.stat_result) -> FileKey:
    """Return what tells a file from another one, and from itself after a change, without reading it."""
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _hash_file(path: str) -> tuple[str, bytes]:
    """Return a file's digest and its first bytes; what is not a regular file has a fixed one."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return "missing", b""
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return "not a regular file", b""
        header = os.pread(descriptor, _BYTECODE_HEADER_BYTES, 0)
        return hashlib.file_digest(file, "sha256").hexdigest(), header
