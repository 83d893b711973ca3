"""Spark's submission client in a Java that is already there, for tests of what comes after it.

What it does is the same, class by class; tests of the submission itself start it as users do.
"""

import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from py4j.java_gateway import GatewayParameters, JavaGateway
from tests.support.kubernetes.processes import bound

from strongroom.base.encoding import canonical_json
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.render import APPLICATION_FILE, Rendered
from strongroom.cluster.kubernetes.settings import DRIVER_TEMPLATE
from strongroom.cluster.kubernetes.spark_submit import _JAVA_OPTIONS
from strongroom.engine.runtime import SparkRuntime
from strongroom.engine.settings import properties_text


def submit_at_once(rendered: Rendered, access: Access, *, runtime: SparkRuntime) -> None:
    """Do what `run_spark_submit` does, without starting Java for it.

    Raises:
        Exception: Java's, with its words.
    """
    with tempfile.TemporaryDirectory() as name:
        template, properties = Path(name, "driver.json"), Path(name, "spark.properties")
        template.write_bytes(canonical_json(rendered.driver_template))
        settings = {**rendered.submission, **access.spark, DRIVER_TEMPLATE: template.as_uri()}
        properties.write_text(properties_text(settings), "ascii")
        java = _java(runtime)
        words = ("--master", f"k8s://{access.server}", "--deploy-mode", "cluster")
        words = (*words, "--properties-file", str(properties), APPLICATION_FILE)
        arguments = java.new_array(java.jvm.String, len(words))
        for number, word in enumerate(words):
            arguments[number] = word
        java.jvm.org.apache.spark.deploy.SparkSubmit.main(arguments)


@cache
def _java(runtime: SparkRuntime) -> Any:
    """Return a Java with Spark's classes; it ends with this process."""
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
    port, token = int(process.stdout.readline()), process.stdout.readline().strip()
    made = JavaGateway(gateway_parameters=GatewayParameters(port=port, auth_token=token))
    made.process = process  # its standard input stays open as long as this
    return made
