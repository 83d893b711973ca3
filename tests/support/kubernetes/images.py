"""The images that pods of the tests run: one made here, and the product's, which `deploy/images/build.py` makes."""

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.support.kubernetes.kubebox import Box, Say, forget_old, locked
from tests.support.kubernetes.oci import ImageArchive, read_archive, write_archive
from tests.support.kubernetes.processes import bound
from tests.support.kubernetes.site import POD_IMAGE, REPOSITORY

from strongroom.base.errors import NotFoundError, UnavailableError

PRODUCT: Final = ("spark", "service")
"""The product's images, by the names that their builder has for them."""
WITH_CACHE: Final = "spark-aot"
"""The image with Spark and Java's ahead-of-time cache, which is built along with the one without: runs start faster."""
_BUILDER: Final = Path("deploy/images/build.py")
_INPUTS: Final = ("deploy/images", "src", "jvm", "pyproject.toml", "requirements", "README.md", "LICENSE")
_KEPT: Final = 2


def pod_archive(box: Box) -> ImageArchive:
    """Return the image of the tests' own pods: podbox, and nothing else."""
    path = box.podbox.with_suffix(".oci.tar")
    new = path.with_suffix(f".{os.getpid()}.new")
    write_archive(
        new,
        name=f"{POD_IMAGE}:e2e",
        programs={"/podbox": box.podbox.read_bytes()},
        entrypoint=["/podbox"],
        command=["pause"],
        user="65532:65532",
    )
    new.rename(path)
    return read_archive(path)


def product_archive(name: str, state: Path, *, say: Say, nice: int = 0, repository: Path = REPOSITORY) -> ImageArchive:
    """Return one of the product's images; build it when something that it is made from has changed.

    Args:
        name: One of `PRODUCT`, or `WITH_CACHE`.
        state: The folder for what is kept.
        say: Shows a line of progress.
        nice: By how much others go first while it is built.
        repository: The checkout.

    Raises:
        NotFoundError: This checkout has no builder.
        UnavailableError: It could not be built.
    """
    if not (repository / _BUILDER).exists():
        raise NotFoundError(f"{_BUILDER} is not in {repository}", action="use a checkout that has it")
    built = "spark" if name == WITH_CACHE else name
    folder = state / "images" / built / inputs_digest(repository)[:16]
    with locked(state / f"image-{built}.lock", wait=lambda: say(f"image {built}: another session builds it; waiting")):
        if folder.exists():
            folder.touch()
        else:
            _build(built, folder, say=say, nice=nice, repository=repository)
        forget_old(folder.parent, kept=_KEPT)
    return read_archive(folder / f"{name}.oci.tar")


def inputs_digest(repository: Path) -> str:
    """Return a digest of everything that the product's images are made from."""
    digest = hashlib.sha256()
    for path in _inputs(repository):
        digest.update(f"\0{path.relative_to(repository)}\0{path.stat().st_mode:o}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _inputs(repository: Path) -> Iterator[Path]:
    for name in _INPUTS:
        top = repository / name
        found = [top] if top.is_file() else sorted(top.rglob("*"))
        yield from (path for path in found if path.is_file() and "__pycache__" not in path.parts)


def _build(name: str, folder: Path, *, say: Say, nice: int, repository: Path) -> None:
    say(f"image {name}: building")
    new = folder.with_suffix(".new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    log = new / "build.log"
    command = [sys.executable, str(repository / _BUILDER), "--only", name, "--out", str(new), "--aot-cache"]
    with log.open("w") as file:
        done = subprocess.run(
            bound(["nice", "-n", str(nice), *command]),
            cwd=repository,
            env=dict(os.environ),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if done.returncode:
        raise UnavailableError(f"image {name} could not be built: {log.read_text()[-3000:]}", action=f"see {log}")
    new.rename(folder)
    say(f"image {name}: built, {(folder / f'{name}.oci.tar').stat().st_size >> 20} MB")
