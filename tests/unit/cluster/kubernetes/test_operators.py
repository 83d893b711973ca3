from pathlib import Path

import pytest
from tests.support.kubernetes.rendering import IMAGE, OWN_TEMPLATE, rendered

from strongroom.base.errors import ConfigurationError
from strongroom.cluster.kubernetes.names import SUBMITTED_GATE
from strongroom.cluster.kubernetes.operators import (
    apache_application,
    kubeflow_application,
    prepared_files,
    write_prepared,
)

RUN = rendered(gated=False)
FILES = prepared_files(RUN, spark_version="4.3.0")


def test_everything_that_starts_a_run_is_there() -> None:
    assert set(FILES) == {"objects.yaml", "driver.yaml", "spark.properties", "kubeflow.yaml", "apache.yaml"}
    assert FILES["objects.yaml"].count("kind: ConfigMap") == 3
    assert all(SUBMITTED_GATE not in text for text in FILES.values())  # nobody would take it away


def test_kubeflows_operator_gets_the_same_driver() -> None:
    spec = kubeflow_application(RUN, spark_version="4.3.0")["spec"]

    (container,) = spec["driver"]["template"]["spec"]["containers"]
    assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]
    assert container["name"] == "spark-kubernetes-driver"
    assert spec["image"] == IMAGE
    assert spec["restartPolicy"] == {"type": "Never"}
    assert spec["driver"]["serviceAccount"] == "strongroom-driver"
    assert spec["driver"]["podName"] == RUN.names.driver_pod
    assert spec["sparkVersion"] == "4.3.0"
    assert not any(name in spec["sparkConf"] for name in ("spark.kubernetes.namespace", "spark.driver.memory"))


def test_apaches_operator_gets_the_same_driver() -> None:
    spec = apache_application(RUN, spark_version="4.3.0")["spec"]

    (container,) = spec["driverSpec"]["podTemplateSpec"]["spec"]["containers"]
    assert container["command"] == ["/usr/local/bin/strongroom-agent", "--pod"]
    assert spec["sparkConf"]["spark.kubernetes.container.image"] == IMAGE
    assert spec["applicationTolerations"]["restartConfig"] == {"restartPolicy": "Never"}


def test_operators_find_sparks_container_by_their_own_name() -> None:
    run = rendered(gated=False, driver_template=dict(OWN_TEMPLATE))

    for spec in (
        kubeflow_application(run, spark_version="4.3.0")["spec"]["driver"]["template"]["spec"],
        apache_application(run, spark_version="4.3.0")["spec"]["driverSpec"]["podTemplateSpec"]["spec"],
    ):
        assert [each["name"] for each in spec["containers"]] == ["spark-kubernetes-driver"]
        assert spec["runtimeClassName"] == "kata-cc"


def test_a_prepared_run_is_not_written_over_another(tmp_path: Path) -> None:
    write_prepared(FILES, folder=tmp_path / "run")
    assert (tmp_path / "run" / "objects.yaml").read_text() == FILES["objects.yaml"]

    with pytest.raises(ConfigurationError, match="holds a prepared run already"):
        write_prepared(FILES, folder=tmp_path / "run")
