"""What a run on Kubernetes is rendered to, as files: `python -m tests.support.kubernetes.golden` writes them anew."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from tests.support.kubernetes.rendering import FOLDER, IMAGE, OWN_TEMPLATE, START, rendered

from strongroom.cluster.kubernetes.documents import yaml_text
from strongroom.cluster.kubernetes.operators import prepared_files
from strongroom.cluster.kubernetes.render import Rendered
from strongroom.cluster.shapes import PodShape

_SPARK: Final = "4.3.0"
EXAMPLES: Final = FOLDER.parents[2] / "examples" / "kubernetes"
EXAMPLE_FILES: Final = ("objects.yaml", "kubeflow.yaml", "apache.yaml")


def _all(run: Rendered) -> str:
    """Everything of a run, as YAML documents: objects, both templates, the settings of the submission."""
    executor = json.loads(run.descriptor.executor_template)
    settings = {"apiVersion": "example/v1", "kind": "Settings", "settings": dict(run.submission)}
    return yaml_text([*run.config_maps, run.driver_template, executor, settings])


def _prepared(name: str) -> Callable[[], str]:
    return lambda: prepared_files(rendered(gated=False), spark_version=_SPARK)[name]


CASES: Final[Mapping[str, Callable[[], str]]] = {
    "simulated.yaml": lambda: _all(rendered()),
    "own-templates.yaml": lambda: _all(
        rendered(
            driver_template=dict(OWN_TEMPLATE),
            executor_template=dict(OWN_TEMPLATE),
            driver_cores=2,
            archive="file:///data/archive",
            driver={
                "spark.kubernetes.container.image": IMAGE,
                "spark.kubernetes.driver.volumes.hostPath.data.mount.path": "/data",
                "spark.driver.memoryOverhead": "2g",
            },
            pods={
                "spark.kubernetes.container.image": IMAGE,
                "spark.dynamicAllocation.enabled": "true",
                "spark.dynamicAllocation.maxExecutors": "5",
                "spark.executor.memoryOverheadFactor": "0.5",
            },
        )
    ),
    "real-hardware.yaml": lambda: _all(
        rendered(start=replace(START, shape=PodShape(runtime="kata-qemu-snp", storage=("/data",))))
    ),
    "prepared-driver.yaml": _prepared("driver.yaml"),
    "prepared-kubeflow.yaml": _prepared("kubeflow.yaml"),
    "prepared-apache.yaml": _prepared("apache.yaml"),
    "prepared-spark.properties": _prepared("spark.properties"),
}


def examples() -> dict[str, str]:
    """The files of `examples/kubernetes` that are a prepared run."""
    files = prepared_files(rendered(gated=False), spark_version=_SPARK)
    return {name: files[name] for name in EXAMPLE_FILES}


def main() -> None:
    """Write the files anew, and the examples."""
    for name, text in CASES.items():
        (FOLDER / name).write_text(text(), encoding="utf-8")
    for name, content in examples().items():
        (EXAMPLES / name).write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
