"""Spark's submission client in a Java that is already there, for tests of what comes after it.

What it does is the same, class by class; tests of the submission itself start it as users do.
"""

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway
from py4j.protocol import Py4JJavaError
from tests.support.kubernetes.processes import bound

from strongroom.base.encoding import canonical_json
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.render import APPLICATION_FILE, Rendered
from strongroom.cluster.kubernetes.settings import DRIVER_TEMPLATE
from strongroom.cluster.kubernetes.spark_submit import _JAVA_OPTIONS, _error
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

    def run(self, rendered: Rendered, access: Access, *, runtime: SparkRuntime) -> None:
        """Do what `run_spark_submit` does, and fail as it fails, without starting Java for it."""
        del runtime
        with tempfile.TemporaryDirectory() as name:
            template, properties = Path(name, "driver.json"), Path(name, "spark.properties")
            template.write_bytes(canonical_json(rendered.driver_template))
            settings = {**rendered.submission, **access.spark, DRIVER_TEMPLATE: template.as_uri()}
            properties.write_text(properties_text(settings), "ascii")
            words = ("--master", f"k8s://{access.server}", "--deploy-mode", "cluster")
            words = (*words, "--properties-file", str(properties), APPLICATION_FILE)
            arguments = self._java.new_array(self._java.jvm.String, len(words))
            for number, word in enumerate(words):
                arguments[number] = word
            try:
                self._java.jvm.org.apache.spark.deploy.SparkSubmit.main(arguments)
            except Py4JJavaError as error:
                raise _error(str(error), status=1) from error


@cache
def java_address(runtime: SparkRuntime) -> Address:
    """Return the address of a Java with Spark's classes; it ends with this process."""
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
    _kept.append(process)
    assert process.stdout is not None
    return int(process.stdout.readline()), process.stdout.readline().strip()


_kept: list[Any] = []
"""Their standard input stays open as long as this process."""
