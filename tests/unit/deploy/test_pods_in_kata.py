"""The pods of a run, as they are submitted, under the policy that they carry themselves.

The driver's pod is made by Spark's own submission client; the executors' is the template that the driver hands Spark,
with what Spark's `BasicExecutorFeatureStep` adds.
"""

import base64
import gzip
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from tests.support.kata import container_of
from tests.support.kubernetes.api_server import NAMESPACE, ApiServer
from tests.support.kubernetes.rendering import IMAGE, START, rendered
from tests.support.rego import Policy
from tests.support.scripts import load_script

from strongroom.attestation.evidence.initdata import parse_initdata
from strongroom.cluster.agent_policy import IMAGE_VARIABLES
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.render import Rendered
from strongroom.cluster.kubernetes.spark_submit import run_spark_submit
from strongroom.cluster.shapes import INITDATA_ANNOTATION, PodShape
from strongroom.engine.runtime import runtime_of_this_installation
from strongroom.wire.pod import DRIVER_KEY_ENV

Pod = dict[str, Any]
DATA = "spark.kubernetes.{}.volumes.persistentVolumeClaim.data."


@pytest.fixture(scope="module")
def run() -> Rendered:
    return rendered(
        start=replace(START, shape=PodShape(runtime="kata-qemu-snp", storage=("/data",))),
        namespace=NAMESPACE,
        driver={
            "spark.kubernetes.container.image": IMAGE,
            f"{DATA.format('driver')}mount.path": "/data",
            f"{DATA.format('driver')}options.claimName": "trips",
        },
    )


@pytest.fixture(scope="module")
def driver(run: Rendered) -> Pod:
    """The driver's pod, as Spark makes it."""
    with ApiServer().running() as api:
        access = Access(server=api.url, configuration=None, spark={}, environment={"PATH": "/usr/bin", "HOME": "/"})
        run_spark_submit(run, access, runtime=runtime_of_this_installation())
        (pod,) = [each for (kind, _), each in api.objects.items() if kind == "pods"]
    return pod


@pytest.fixture(scope="module")
def executor(run: Rendered) -> Pod:
    pod: Pod = json.loads(run.descriptor.executor_template)
    pod["metadata"]["name"] = "strongroom-0123456789ab-exec-1"
    (container,) = pod["spec"]["containers"]
    added = {
        "SPARK_DRIVER_URL": "spark://CoarseGrainedScheduler@10.244.0.7:7078",
        "SPARK_EXECUTOR_CORES": "2",
        "SPARK_EXECUTOR_MEMORY": "2048m",
        "SPARK_APPLICATION_ID": "spark-868c3c538b5c45839410746030525914",
        "SPARK_CONF_DIR": "/opt/spark/conf",
        "SPARK_EXECUTOR_ID": "1",
        "SPARK_RESOURCE_PROFILE_ID": "0",
        "SPARK_EXECUTOR_POD_IP": "10.244.0.8",
        "SPARK_EXECUTOR_POD_NAME": pod["metadata"]["name"],
        "SPARK_USER": "root",
        "SPARK_LOCAL_DIRS": "/strongroom/memory",
        "SPARK_JAVA_OPT_0": "-Dspark.driver.port=7078",
        DRIVER_KEY_ENV: "ab" * 32,
    }
    container |= {"image": IMAGE, "args": ["executor"]}
    container["env"] = [*container.get("env", []), *({"name": name, "value": text} for name, text in added.items())]
    return pod


def policy_of(pod: Pod) -> Policy:
    document = gzip.decompress(base64.b64decode(pod["metadata"]["annotations"][INITDATA_ANNOTATION]))
    return Policy(parse_initdata(document).entries["policy.rego"], package="agent_policy")


def starts(pod: Pod, policy: Policy) -> bool:
    return policy.allows("CreateContainerRequest", container_of(pod, image_variables=IMAGE_VARIABLES))


def test_the_drivers_pod_starts(driver: Pod) -> None:
    mounts = {each["mountPath"] for each in driver["spec"]["containers"][0]["volumeMounts"]}

    assert mounts >= {"/opt/spark/conf", "/data"}
    assert starts(driver, policy_of(driver))


def test_executors_start(executor: Pod) -> None:
    assert starts(executor, policy_of(executor))


def test_both_are_launched_with_one_document(driver: Pod, executor: Pod) -> None:
    documents = [pod["metadata"]["annotations"][INITDATA_ANNOTATION] for pod in (driver, executor)]

    assert documents[0] == documents[1]


def _container(edit: Callable[[Pod], None]) -> Callable[[Pod], None]:
    return lambda pod: edit(pod["spec"]["containers"][0])


CHANGES: dict[str, Callable[[Pod], None]] = {
    "another command": _container(lambda each: each.update(command=["/bin/sh", "-c"])),
    "another role": _container(lambda each: each.update(args=["shell"])),
    "another image": _container(lambda each: each.update(image=IMAGE.replace("5" * 64, "6" * 64))),
    "the image by a tag": _container(lambda each: each.update(image=IMAGE.partition("@")[0] + ":latest")),
    "a variable": _container(lambda each: each["env"].append({"name": "PYTHONPATH", "value": "/data"})),
    "a variable of ours": _container(lambda each: each["env"].append({"name": "PATH", "value": "/data"})),
    "a writable root": _container(lambda each: each["securityContext"].update(readOnlyRootFilesystem=False)),
    "a way to more rights": _container(lambda each: each["securityContext"].update(allowPrivilegeEscalation=True)),
    "capabilities": _container(lambda each: each["securityContext"].update(capabilities={"drop": []})),
    "a mount over code": _container(lambda each: each["volumeMounts"].append({"name": "other", "mountPath": "/opt"})),
    "a mount beside Spark's settings": _container(
        lambda each: each["volumeMounts"].append({"name": "other", "mountPath": "/opt/spark/jars"})
    ),
    "scratch that is the node's": lambda pod: pod["spec"].update(
        volumes=[
            {"name": each["name"], "emptyDir": {}} if "emptyDir" in each else each for each in pod["spec"]["volumes"]
        ]
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_the_control_plane_changes_the_guest_does_not_start(driver: Pod, change: str) -> None:
    changed = json.loads(json.dumps(driver))
    changed["spec"]["volumes"].append({"name": "other", "configMap": {"name": "other"}})
    CHANGES[change](changed)

    assert not starts(changed, policy_of(driver))


def test_the_images_own_variables_are_those_that_the_policy_takes() -> None:
    build = load_script("deploy/images/build.py")

    assert tuple(f"{name}={value}" for name, value in sorted(build._ENVIRONMENT.items())) == IMAGE_VARIABLES
