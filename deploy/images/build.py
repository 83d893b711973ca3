"""Build the images of Strongroom's containers, without a daemon: the same bytes each time.

    deploy/images/build.py [--only spark|service] [--aot-cache] [--out build/images]

For each image NAME it writes into the folder: `NAME.oci.tar`, the image; `NAME.digest`; `NAME.sbom.json`, what it is
made of; `NAME.measurement.json`, what simulated hardware measures of its containers. With `--aot-cache` there is
`spark-aot` as well, which is `spark` and one more layer. What is fetched is kept in $STRONGROOM_E2E_DIR, by default a
folder in the user's cache.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

REPOSITORY: Final = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))

from deploy.images import debian, oci, sbom, system, wheels  # noqa: E402 - found only now, when this is the program

from strongroom import __version__  # noqa: E402
from strongroom.base.errors import StrongroomError  # noqa: E402
from strongroom.simulation.archives import measure_archive  # noqa: E402
from strongroom.simulation.containers import ImageMark  # noqa: E402

_CACHE: Final = "strongroom-e2e"
_LIBRARY: Final = f"/usr/lib/python{debian.PYTHON}"
_COMMAND_LINE: Final = f"""#!{system.PYTHON} -I
from strongroom.cli.main import main

main()
"""
# The one command line under which simulated hardware measures an agent: attestation.evidence.simulated.entry_command.
_AGENT: Final = f"""#!/bin/sh
exec {system.PYTHON} -I -m strongroom.agent "$@"
"""
_ENVIRONMENT: Final = {
    "LANG": "C.UTF-8",
    "PATH": "/usr/local/bin:/usr/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "TZ": "UTC",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What one image is made of.

    Attributes:
        name: How its files are called here; the image itself is `strongroom-NAME`.
        title: What it is for.
        packages: Debian's packages.
        requirements: The lock of its Python packages, below the repository.
        entries: The entry modules that it is made for.
        programs: Scripts of ours by name.
        entrypoint: The program of its containers.
        command: The arguments that a pod's own replace.
        has_spark: Whether it has Spark, and our Java part.
        has_shell: Whether it has a shell.
    """

    name: str
    title: str
    packages: tuple[str, ...]
    requirements: str
    entries: tuple[str, ...]
    programs: dict[str, str]
    entrypoint: tuple[str, ...]
    command: tuple[str, ...] = ()
    has_spark: bool = False
    has_shell: bool = False

    @property
    def repository(self) -> str:
        """The repository by which a container runtime knows it once it is imported; its tag is the version."""
        return f"localhost/strongroom-{self.name}"


IMAGES: Final = (
    Image(
        name="service",
        title="Strongroom's services and its simulated platform",
        packages=debian.SYSTEM,
        requirements="requirements/image-service.txt",
        entries=("strongroom.services.attestation_service", "strongroom.services.key_service"),
        programs={"strongroom": _COMMAND_LINE},
        entrypoint=("/usr/local/bin/strongroom",),
        command=("--help",),
    ),
    Image(
        name="spark",
        title="Driver and executors of Apache Spark under Strongroom's agent",
        packages=(*debian.SYSTEM, *debian.SHELL),
        requirements="requirements/image-spark.txt",
        entries=("strongroom.agent",),
        programs={"strongroom": _COMMAND_LINE, "strongroom-agent": _AGENT},
        entrypoint=("/usr/local/bin/strongroom-agent",),
        has_spark=True,
        has_shell=True,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How images are built.

    Attributes:
        out: The folder for what is built.
        cache: The folder for what is fetched.
        mirror: Debian's archive, where it is not Debian's own.
        refresh: Fetch Debian's packages anew.
        with_aot_cache: Write the image with Spark a second time, with Java's ahead-of-time cache.
    """

    out: Path
    cache: Path
    mirror: str | None = None
    refresh: bool = False
    with_aot_cache: bool = False


def build(image: Image, options: Options) -> None:
    """Build an image, and write everything about it.

    1. Unpack Debian's packages, add what no package brings, compile Python's library: the first layer.
    2. Unpack the Python packages of the lock, and compile them: the second layer.
    3. Unpack Strongroom, compile it, and build what Spark needs of it in the image itself: the third layer.
    4. Write the archive; list what is in it; measure it.
    5. With an ahead-of-time cache: a second image, with a layer more, the only one that is another one each time.

    Raises:
        StrongroomError: It could not be built.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    with step(f"{image.name}: fetching packages"):
        system_packages, debs = debian.fetch(
            image.packages, cache=options.cache, mirror=options.mirror, refresh=options.refresh
        )
        python_packages, folder = wheels.fetch(
            REPOSITORY / image.requirements, python=debian.PYTHON, cache=options.cache
        )
    work = options.cache / "work"
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work, prefix=f"{image.name}-") as temporary:
        root = Path(temporary) / "root"
        root.mkdir()
        layers = Layers(root)
        with step(f"{image.name}: system"):  # 1
            debian.unpack(system_packages, debs, root)
            system.lay_out(root, python=debian.PYTHON, mark=ImageMark(python=system.PYTHON, entries=image.entries))
            if image.has_shell:
                _call_dash_sh(root)
            system.compile_modules(root, root / _LIBRARY[1:])
            layers.close()
        packages, environment = system.packages_of(root, python=debian.PYTHON), root / system.ENVIRONMENT
        with step(f"{image.name}: {len(python_packages)} Python packages"):  # 2
            for each in python_packages:
                wheels.install(folder / each.wheel, packages, environment=environment)
            system.compile_modules(root, packages)
            layers.close()
        with step(f"{image.name}: Strongroom"):  # 3
            wheel = wheels.build(REPOSITORY, Path(temporary) / "wheel")
            wheels.install(wheel, packages, environment=environment)
            system.compile_modules(root, packages / "strongroom")
            for name, text in image.programs.items():
                system.add_program(root, name, text)
            if image.has_spark:
                _set_up(root, with_aot_cache=False)
            layers.close()
        components = [*_debian(system_packages, root), *_python(python_packages), *_java(packages)]
        _write(image, layers, components, options.out)  # 4
        if image.has_spark and options.with_aot_cache:
            with step(f"{image.name}: Java's ahead-of-time cache"):  # 5
                _set_up(root, with_aot_cache=True)
                layers.close()
            _write(image, layers, components, options.out, variant="-aot")


def _write(
    image: Image, layers: "Layers", components: Sequence[sbom.Component], out: Path, *, variant: str = ""
) -> None:
    """Write an image's archive and everything about it; a variant's names and tag end with its name."""
    name = f"{image.name}{variant}"
    with step(f"{name}: archive"):
        archive = out / f"{name}.oci.tar"
        digest = oci.write_archive(
            archive,
            name=f"{image.repository}:{__version__}{variant}",
            layers=layers.closed,
            config=_config(image),
            with_shell=image.has_shell,
        )
        measured = measure_archive(archive)
    bill = sbom.document(
        name=image.repository,
        version=__version__,
        digest=digest,
        components=components,
        properties={"files": measured.files, "python": debian.PYTHON, "suite": debian.SUITE},
    )
    (out / f"{name}.sbom.json").write_bytes(bill)
    (out / f"{name}.measurement.json").write_text(json.dumps(measured.to_json(), indent=1) + "\n")
    (out / f"{name}.digest").write_text(f"{digest}\n")
    say(f"{name}: {archive.stat().st_size >> 20} MB, {digest}")


class Layers:
    """The layers of an image while its root grows: each has what is new since the last one was closed.

    Args:
        root: The root.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: set[str] = set()
        self.closed: list[list[oci.Entry]] = []

    def close(self) -> None:
        """End a layer. What it has does not change any more."""
        system.make_equally_old(self._root)
        entries = oci.entries_of(self._root, without=self._known)
        self._known.update(each.path for each in entries)
        self.closed.append(entries)


def _call_dash_sh(root: Path) -> None:
    """Call Debian's shell `sh`, where the package leaves that to a script."""
    path = root / "usr/bin/sh"
    if not path.is_symlink():
        path.symlink_to("dash")


def _set_up(root: Path, *, with_aot_cache: bool) -> None:
    """Have the image's own Strongroom build what Spark needs, for the paths that it has in the image."""
    option = "--aot-cache" if with_aot_cache else "--no-aot-cache"
    system.run_in(root, [system.PYTHON, "-B", "-I", "-m", "strongroom.cli.main", "setup", option])
    for lock in (root / system.ENVIRONMENT / "share/strongroom").glob("*.lock"):
        lock.unlink()


def _config(image: Image) -> oci.ImageConfig:
    return oci.ImageConfig(
        entrypoint=image.entrypoint,
        command=image.command,
        environment=_ENVIRONMENT,
        labels={
            "org.opencontainers.image.title": image.title,
            "org.opencontainers.image.version": __version__,
            "org.opencontainers.image.licenses": "Apache-2.0",
        },
    )


def _debian(packages: Sequence[debian.DebianPackage], root: Path) -> Iterator[sbom.Component]:
    for each in packages:
        yield sbom.debian_component(
            name=each.name,
            version=each.version,
            architecture=each.architecture,
            suite=debian.SUITE,
            sha256=each.sha256,
            licences=debian.licences(root, each.name),
        )


def _python(packages: Sequence[wheels.PythonPackage]) -> Iterator[sbom.Component]:
    for each in packages:
        yield sbom.python_component(
            name=each.name,
            version=each.version,
            sha256=each.sha256,
            licence=each.licence,
            expression=each.expression,
        )
    yield sbom.python_component(
        name="strongroom", version=__version__, sha256=None, licence="Apache-2.0", expression="Apache-2.0"
    )


def _java(packages: Path) -> list[sbom.Component]:
    return sbom.jar_components(packages / "pyspark/jars")


@contextmanager
def step(text: str) -> Iterator[None]:
    """Say what is done, and how long it took."""
    start = time.monotonic()
    yield
    say(f"{text}: {time.monotonic() - start:.1f} s")


def say(text: str) -> None:
    """Print a line of progress."""
    print(text, flush=True)


def cache_folder() -> Path:
    """Return the folder for what is fetched, as `$STRONGROOM_E2E_DIR` or the user's cache has it."""
    if named := os.environ.get("STRONGROOM_E2E_DIR"):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / _CACHE


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the options, and build the images that they name."""
    parser = argparse.ArgumentParser(description="Build the images of Strongroom's containers.")
    parser.add_argument("--only", choices=[image.name for image in IMAGES], help="build this one alone")
    parser.add_argument("--out", type=Path, default=Path("build/images"), metavar="FOLDER", help="where to write")
    parser.add_argument("--refresh", action="store_true", help="fetch Debian's packages anew, with what was mended")
    parser.add_argument("--mirror", metavar="URL", help="Debian's archive, or one of a past day")
    parser.add_argument(
        "--aot-cache",
        action="store_true",
        help="write `spark-aot` as well, with Java's ahead-of-time cache: starts faster, never the same",
    )
    given = parser.parse_args(arguments)
    os.umask(0o022)
    options = Options(
        out=given.out.resolve(),
        cache=cache_folder().resolve(),
        mirror=given.mirror,
        refresh=given.refresh,
        with_aot_cache=given.aot_cache,
    )
    try:
        for image in IMAGES:
            if given.only in {None, image.name}:
                build(image, options)
    except StrongroomError as error:
        sys.exit(f"build.py: {error.message}. {error.action}")


if __name__ == "__main__":
    main()
