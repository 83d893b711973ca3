"""Spark's submission client in a Java that is already there, for tests of what comes after it.

What it does is the same, class by class. Runs that must succeed, or are looked at in their middle, start it as users
do.
"""

import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JJavaError
from tests.support.kubernetes.processes import bound

from strongroom.cluster.kubernetes.render import APPLICATION_FILE
from strongroom.cluster.kubernetes.spark_submit import _JAVA_OPTIONS, _private
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.settings import properties_text

Address = tuple[int, str]
"""Where a Java listens: a port of this machine, and what it wants to be told."""


class SparkClient:
    """Spark's submission client behind an address.

    Args:
        address: Where its Java listens.
    """

    def __init__(self, address: Address) -> None:
        port, token = address
        self._java = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))

    def run(self, folder: Path, settings: Mapping[str, str], *, server: str, **_of_a_new_java: Any) -> tuple[int, str]:
        """Do what `spark_submit._run` does, without starting Java for it."""
        properties = _private(folder / "spark.properties", properties_text(settings).encode("ascii"))
        words = ("--master", f"k8s://{server}", "--deploy-mode", "cluster")
        words = (*words, "--properties-file", str(properties), APPLICATION_FILE)
        arguments = self._java.new_array(self._java.jvm.String, len(words))
        for number, word in enumerate(words):
            arguments[number] = word
        try:
            self._java.jvm.org.apache.spark.deploy.SparkSubmit.main(arguments)
        except Py4JJavaError as error:
            return 1, str(error)
        return 0, ""


def java_address(runtime: SparkRuntime) -> Address:
    """Return the address of a Java with Spark's classes; it ends with this process."""
    _, address = _java(runtime)
    return address


@cache
def _java(runtime: SparkRuntime) -> tuple["subprocess.Popen[str]", Address]:
    """Start it; it ends when its standard input does."""
    jars = runtime.spark_home / "jars"
    options = (*_JAVA_OPTIONS, f"-XX:AOTCache={runtime.submission_cache}", "-cp", f"{jars}/*")
    gateway = ("py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0")
    process = subprocess.Popen(
        bound([str(runtime.java), *options, *gateway]),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"},
        text=True,
    )
    assert process.stdout is not None
    return process, (int(process.stdout.readline()), process.stdout.readline().strip())
