"""Where the API server has what tests read of it."""

import pytest
from tests.support.kubernetes.reading import path_of


@pytest.mark.parametrize(
    ("place", "path"),
    [
        (("pod", "runs", "a"), "/api/v1/namespaces/runs/pods/a"),
        (("pods", "runs"), "/api/v1/namespaces/runs/pods"),
        (("pod", "runs", "a", "log"), "/api/v1/namespaces/runs/pods/a/log"),
        (("service", "", "a"), "/api/v1/namespaces/default/services/a"),
        (("node", "", "node-1"), "/api/v1/nodes/node-1"),
        (("namespaces",), "/api/v1/namespaces"),
        (("networkpolicy", "runs", "a"), "/apis/networking.k8s.io/v1/namespaces/runs/networkpolicies/a"),
        (("statefulset", "runs", "a"), None),
    ],
)
def test_objects_lie_where_the_api_has_them(place: tuple[str, ...], path: str | None) -> None:
    assert path_of(*place) == path
