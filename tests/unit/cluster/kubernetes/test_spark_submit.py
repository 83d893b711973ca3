import pytest

from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.spark_submit import _error

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
