"""An image's system while it is made: a folder that becomes the root, and a way to run the image's programs in it."""

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.images.oci import EPOCH, USER

from strongroom.base.errors import EngineError
from strongroom.simulation.containers import MARK, ImageMark

NAME: Final = "strongroom"
"""The user's name: Hadoop does not start for a user without one."""
ENVIRONMENT: Final = "opt/strongroom/venv"
"""The virtual environment, below the root."""
PYTHON: Final = f"/{ENVIRONMENT}/bin/python"
"""The interpreter, as an image's programs name it."""

_MERGED: Final = ("bin", "lib", "lib64", "sbin")
_FOLDERS: Final = ("dev", "etc", "proc", "run", "strongroom", "sys", "tmp", "usr/local/bin", "var")
_NO_SHELL: Final = "/usr/sbin/nologin"
_FILES: Final = {
    "etc/passwd": f"root:x:0:0:root:/root:{_NO_SHELL}\n"
    f"{NAME}:x:{USER}:{USER}:{NAME}:/tmp:{_NO_SHELL}\n"
    f"nobody:x:65534:65534:nobody:/nonexistent:{_NO_SHELL}\n",
    "etc/group": f"root:x:0:\n{NAME}:x:{USER}:\nnogroup:x:65534:\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\nservices: files\n",
}
_AUTHORITIES: Final = "etc/ssl/certs/ca-certificates.crt"
_COMPILE: Final = """
import compileall, py_compile, re, sys
compileall.compile_dir(
    sys.argv[1], maxlevels=100, quiet=2, force=True, rx=re.compile("/tests?/"), workers=1,
    invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
)
"""
_ENVIRONMENT: Final = {
    "HOME": "/tmp",  # noqa: S108 - of namespaces of its own
    "LANG": "C.UTF-8",
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
    "PYTHONHASHSEED": "0",
}
# Runs in namespaces of its own, which take the mounts with them when the program ends.
_ENTER: Final = """
mount -t proc proc "$0/proc"
mount --rbind /dev "$0/dev"
mount -t tmpfs -o mode=1777 tmpfs "$0/tmp"
exec chroot "$0" "$@"
"""


def lay_out(root: Path, *, python: str, mark: ImageMark) -> None:
    """Add to an image's root what no package brings: users, folders to mount on, the virtual environment, the mark.

    Args:
        root: The root, with Debian's packages in it.
        python: The minor version of the image's Python.
        mark: What the image says of itself.
    """
    for folder in _FOLDERS:
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / "tmp").chmod(0o1777)
    for name in _MERGED:
        if (root / "usr" / name).is_dir():
            (root / name).symlink_to(f"usr/{name}")
    (root / "var/run").symlink_to("/run")
    for path, text in _FILES.items():
        (root / path).write_text(text, encoding="ascii")
    _trust_public_authorities(root)
    (root / MARK).write_bytes(mark.to_json() + b"\n")
    environment = root / ENVIRONMENT
    packages_of(root, python=python).mkdir(parents=True)
    (environment / "bin").mkdir()
    (environment / "bin/python").symlink_to(f"/usr/bin/python{python}")
    settings = f"home = /usr/bin\ninclude-system-site-packages = false\nversion = {python}\n"
    (environment / "pyvenv.cfg").write_text(settings, encoding="ascii")


def packages_of(root: Path, *, python: str) -> Path:
    """Return the folder of the virtual environment's packages."""
    return root / ENVIRONMENT / "lib" / f"python{python}" / "site-packages"


def add_program(root: Path, name: str, text: str) -> None:
    """Add a program of ours, a script, to `/usr/local/bin`."""
    path = root / "usr/local/bin" / name
    path.write_text(text, encoding="ascii")
    path.chmod(0o755)


def compile_modules(root: Path, folder: Path) -> None:
    """Compile all Python modules below a folder of a root, once and for all.

    The compiled modules hold no time, and Python takes them without looking at their sources: no container could write
    newer ones.

    Raises:
        EngineError: The image's Python does not run.
    """
    python = [f"/usr/bin/{(root / PYTHON[1:]).readlink().name}", "-s", "-S", "-W", "ignore", "-c", _COMPILE]
    run_in(root, [*python, f"/{folder.relative_to(root)}"])


def run_in(root: Path, command: Sequence[str]) -> None:
    """Run a program of a root, with that as its own root and nothing of this process's environment.

    Args:
        root: The root.
        command: Program and arguments, as they are called in there.

    Raises:
        EngineError: It ended with an error.
    """
    user = [] if os.geteuid() == 0 else ["--map-root-user"]
    namespaces = ["unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child", *user]
    ended = subprocess.run(
        [*namespaces, "--", "/bin/sh", "-euc", _ENTER, str(root), *command],
        env=_ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise EngineError(
            f"{command[0]} in the image ended with status {ended.returncode}: {ended.stderr.strip()[-1000:]}",
            action="It needs root, or a kernel that lets users make namespaces.",
        )


def make_equally_old(root: Path) -> None:
    """Give everything below a root the time that it has in the image: what is made of it may hold times."""
    for folder, folders, files in os.walk(root):
        for name in (*folders, *files):
            os.utime(Path(folder, name), ns=(EPOCH * 10**9, EPOCH * 10**9), follow_symlinks=False)


def _trust_public_authorities(root: Path) -> None:
    """Write the file of public authorities that the package's script would write, and put it where OpenSSL looks."""
    found = sorted((root / "usr/share/ca-certificates").rglob("*.crt"))
    authorities = root / _AUTHORITIES
    authorities.parent.mkdir(parents=True, exist_ok=True)
    authorities.write_bytes(b"".join(path.read_bytes() for path in found))
    (root / "usr/lib/ssl").mkdir(parents=True, exist_ok=True)
    (root / "usr/lib/ssl/cert.pem").symlink_to(f"/{_AUTHORITIES}")
    (root / "usr/lib/ssl/certs").symlink_to("/etc/ssl/certs")
