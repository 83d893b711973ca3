"""A rendered run for those who submit it with something else than this program: `kubectl`, GitOps, Spark operators.

An operator runs Spark's submission client itself, so it is given the same template and settings. What it says of
executors counts for nothing: the driver's agent takes that from the descriptor.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from strongroom.base.errors import ConfigurationError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.documents import yaml_text
from strongroom.cluster.kubernetes.names import DRIVER_CONTAINER
from strongroom.cluster.kubernetes.render import APPLICATION_FILE, Rendered
from strongroom.cluster.kubernetes.settings import DRIVER_ACCOUNT, DRIVER_IMAGE, DRIVER_OVERHEAD, IMAGE, WAIT
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.datasets.storage import write_file
from strongroom.engine.settings import properties_text

OBJECTS_FILE: Final = "objects.yaml"
TEMPLATE_FILE: Final = "driver.yaml"
PROPERTIES_FILE: Final = "spark.properties"
KUBEFLOW_FILE: Final = "kubeflow.yaml"
APACHE_FILE: Final = "apache.yaml"

_KUBEFLOW_OWN: Final = frozenset(
    {
        *("spark.app.name", "spark.driver.cores", "spark.driver.memory", "spark.kubernetes.driver.pod.name"),
        *("spark.kubernetes.namespace", DRIVER_ACCOUNT, DRIVER_OVERHEAD, IMAGE, f"{IMAGE}.pullPolicy", WAIT),
    }
)
"""What Kubeflow's operator takes from fields of its own."""


def prepared_files(rendered: Rendered, *, spark_version: str) -> dict[str, str]:
    """Return the files of a prepared run: their names and their text.

    Args:
        rendered: The run, rendered without a gate.
        spark_version: The image's Spark.
    """
    return {
        OBJECTS_FILE: yaml_text(rendered.config_maps),
        TEMPLATE_FILE: yaml_text([rendered.driver_template]),
        PROPERTIES_FILE: properties_text(rendered.submission),
        KUBEFLOW_FILE: yaml_text([kubeflow_application(rendered, spark_version=spark_version)]),
        APACHE_FILE: yaml_text([apache_application(rendered, spark_version=spark_version)]),
    }


def write_prepared(files: Mapping[str, str], *, folder: Path) -> None:
    """Write the files of a prepared run into a folder that does not hold one yet.

    Raises:
        ConfigurationError: The folder cannot be written, or holds one.
    """
    if taken := [name for name in files if (folder / name).exists()]:
        raise ConfigurationError(
            f"{folder} holds a prepared run already: {taken[0]}", action="name another folder", step=Step.SUBMIT
        )
    for name, text in files.items():
        write_file(folder / name, text.encode())


def kubeflow_application(rendered: Rendered, *, spark_version: str) -> Manifest:
    """Return the run as Kubeflow's Spark operator takes it (`sparkoperator.k8s.io/v1beta2`)."""
    submission = rendered.submission
    image_policy = submission.get(f"{IMAGE}.pullPolicy")
    cores = submission.get("spark.driver.cores")
    sizes = rendered.descriptor.sizes
    return {
        "apiVersion": "sparkoperator.k8s.io/v1beta2",
        "kind": "SparkApplication",
        "metadata": _metadata(rendered),
        "spec": {
            "type": "Python",
            "mode": "cluster",
            "pythonVersion": "3",
            "sparkVersion": spark_version,
            "image": submission.get(IMAGE) or submission[DRIVER_IMAGE],
            **({"imagePullPolicy": image_policy} if image_policy else {}),
            "mainApplicationFile": APPLICATION_FILE,
            "restartPolicy": {"type": "Never"},  # a ticket opens one run
            "sparkConf": {name: value for name, value in sorted(submission.items()) if name not in _KUBEFLOW_OWN},
            "driver": {
                **({"cores": int(cores)} if cores else {}),
                "memory": submission["spark.driver.memory"],
                **({"memoryOverhead": submission[DRIVER_OVERHEAD]} if DRIVER_OVERHEAD in submission else {}),
                "podName": rendered.names.driver_pod,
                "serviceAccount": submission[DRIVER_ACCOUNT],
                "template": _pod_template_spec(rendered),
            },
            "executor": {
                "cores": sizes.executor_cores,
                "instances": sizes.executors,
                "memory": f"{sizes.executor_memory_mb}m",
            },
        },
    }


def apache_application(rendered: Rendered, *, spark_version: str) -> Manifest:
    """Return the run as Apache's Spark operator takes it (`spark.apache.org/v1`)."""
    skipped = {WAIT, "spark.kubernetes.namespace"}
    return {
        "apiVersion": "spark.apache.org/v1",
        "kind": "SparkApplication",
        "metadata": _metadata(rendered),
        "spec": {
            "pyFiles": APPLICATION_FILE,
            "deploymentMode": "ClusterMode",
            "sparkConf": {name: value for name, value in sorted(rendered.submission.items()) if name not in skipped},
            "driverSpec": {"podTemplateSpec": _pod_template_spec(rendered)},
            "applicationTolerations": {
                "restartConfig": {"restartPolicy": "Never"},  # a ticket opens one run
                "resourceRetainPolicy": "Always",  # the receipt is in the driver's log
            },
            "runtimeVersions": {"sparkVersion": spark_version},
        },
    }


def _metadata(rendered: Rendered) -> Manifest:
    return {
        "name": rendered.names.config_map,
        "namespace": rendered.namespace,
        "labels": rendered.names.labels(),
    }


def _pod_template_spec(rendered: Rendered) -> Manifest:
    """Return the driver's template as a PodTemplateSpec, its Spark container by the name that operators look for."""
    spec = rendered.driver_template["spec"]
    container, *others = spec["containers"]
    return {
        "metadata": rendered.driver_template["metadata"],
        "spec": {**spec, "containers": [{**container, "name": DRIVER_CONTAINER}, *others]},
    }
