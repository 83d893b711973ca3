import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import RefusedError
from strongroom.engine import pod_settings
from strongroom.engine.pod_settings import check_pod_settings
from strongroom.engine.settings import Scheduling, enforced_settings, guarded_settings

KUBERNETES = Scheduling(manager="kubernetes")
GOOD = {
    "spark.kubernetes.container.image": "registry.example:5000/team/spark@sha256:" + "0" * 64,
    "spark.kubernetes.container.image.pullPolicy": "IfNotPresent",
    "spark.kubernetes.container.image.pullSecrets": "a,b.c",
    "spark.kubernetes.authenticate.executor.serviceAccountName": "strongroom-executor",
    "spark.kubernetes.executor.request.cores": "200m",
    "spark.kubernetes.executor.limit.cores": "1.5",
    "spark.kubernetes.executor.label.app.kubernetes.io/part-of": "strongroom",
    "spark.kubernetes.executor.annotation.example.com/note": "some {{APP_ID}} text, with: all/kinds=of things",
    "spark.kubernetes.node.selector.kubernetes.io/arch": "amd64",
    "spark.kubernetes.executor.node.selector.sgx": "",
    "spark.kubernetes.executor.volumes.persistentVolumeClaim.data.mount.path": "/data",
    "spark.kubernetes.executor.volumes.persistentVolumeClaim.data.mount.readOnly": "true",
    "spark.kubernetes.executor.volumes.persistentVolumeClaim.data.options.claimName": "data",
    "spark.dynamicAllocation.enabled": "true",
    "spark.dynamicAllocation.executorIdleTimeout": "10s",
    "spark.dynamicAllocation.maxExecutors": "infinity",
    "spark.executor.memoryOverhead": "384m",
    "spark.kubernetes.executorSnapshotsSubscribersShutdownGracePeriod": "5s",
    "spark.kubernetes.memoryOverheadFactor": "0.2",
    "spark.kubernetes.allocation.batch.size": "20",
}


def test_the_host_says_how_pods_run() -> None:
    check_pod_settings(GOOD)


def test_no_setting_that_protection_rests_on_is_the_hosts() -> None:
    protected = (enforced_settings(KUBERNETES) | guarded_settings(KUBERNETES)).items()
    for name, value in protected:
        if name != "spark.dynamicAllocation.enabled":  # whose protection does not depend on it
            with pytest.raises(RefusedError):
                check_pod_settings({name: value or "x"})


@pytest.mark.parametrize("name", sorted(GOOD))
def test_a_value_may_not_refer_to_variables_or_other_settings(name: str) -> None:
    for value in ("${env:_SPARK_AUTH_SECRET}", "${system:user.home}", "a${spark.app.name}", "a\nb", "\0"):
        with pytest.raises(RefusedError) as caught:
            check_pod_settings({**GOOD, name: value})
        assert [mismatch.name for mismatch in caught.value.mismatches] == [name]


@pytest.mark.parametrize(
    "name",
    [
        "spark.kubernetes.executor.volumes.secret.x.mount.path",
        "spark.kubernetes.executor.volumes.hostPath.x.y",
        "spark.kubernetes.driver.volumes.hostPath.x.mount.path",
        "spark.kubernetes.executor.secrets.x",
        "spark.kubernetes.driverEnv.X",
        "spark.kubernetes.executor.label.",
        "spark.kubernetes.executor.label.a b",
        "spark.kubernetes.executor.annotation.${env:HOME}",
        "spark.executor.instances",
        "spark.kubernetes.namespace",
        "spark.kubernetes.executor.podTemplateFile",
        "Spark.Kubernetes.Container.Image",
        "",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(RefusedError):
        check_pod_settings({name: "x"})


@given(st.sampled_from(sorted(pod_settings._POD_SETTINGS)), st.text())
def test_no_value_holds_a_line_break_or_a_reference(name: str, value: str) -> None:
    try:
        check_pod_settings({name: value})
    except RefusedError:
        return
    assert value.isprintable()
    assert "$" not in value
