from dataclasses import replace
from pathlib import Path

import pytest

from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.settings import IMAGE
from strongroom.cluster.kubernetes.spark_submit import _error, _run, _unanswered_address, build_submission_cache
from strongroom.engine.build import build_runtime
from strongroom.engine.runtime import find_runtime

FORBIDDEN = """\
Exception in thread "main" io.fabric8.kubernetes.client.KubernetesClientException: Failure executing: POST at: \
https://10.0.0.1:6443/api/v1/namespaces/analysts/pods. Message: pods is forbidden: User "ana" cannot create resource \
"pods" in API group "" in the namespace "analysts". Received status: Status(apiVersion=v1, code=403, details=\
StatusDetails(causes=[]), kind=Status, message=pods is forbidden, reason=Forbidden, status=Failure).
\tat io.fabric8.kubernetes.client.KubernetesClientException.copyAsCause(KubernetesClientException.java:205)
"""
UNREACHABLE = """\
Exception in thread "main" io.fabric8.kubernetes.client.KubernetesClientException: An error has occurred.
\tat io.fabric8.kubernetes.client.KubernetesClientException.launderThrowable(KubernetesClientException.java:129)
Caused by: java.io.IOException: connection failed
\tat x
Caused by: java.net.ConnectException: Connection refused: /10.0.0.1:6443
"""


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (FORBIDDEN, 'pods is forbidden: User "ana" cannot create resource "pods" in API group ""'),
        (UNREACHABLE, "Connection refused: /10.0.0.1:6443"),
        ('Exception in thread "main" org.apache.spark.SparkException: Must specify the driver\n\tat x', "Must specify"),
        ("Error: something else", "something else"),
        ("", "ended with status 1 and said nothing"),
    ],
)
def test_says_what_the_cluster_or_java_said(said: str, words: str) -> None:
    error = _error(said, status=1)

    assert words in error.message
    assert "\n" not in error.message
    assert "Received status" not in error.message
    assert error.step is Step.EXECUTORS
    assert error.action


def test_what_java_recorded_is_what_a_submission_loads(tmp_path: Path) -> None:
    build_runtime(progress=lambda _: None)
    runtime = replace(find_runtime(), submission_cache=tmp_path / "submission.aot")
    told: list[str] = []
    for _ in range(2):
        build_submission_cache(runtime, progress=told.append)

    with _unanswered_address() as server:
        status, said = _run(
            tmp_path,
            {IMAGE: "image"},
            options=("-XX:AOTMode=on", f"-XX:AOTCache={runtime.submission_cache}"),  # Java ends if it cannot use it
            server=server,
            runtime=runtime,
            environment={"HOME": str(tmp_path)},
        )

    assert len(told) == 1, "it is made once"
    assert status == 1
    assert "Connection refused" in _error(said, status=status).message
