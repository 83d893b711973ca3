from collections.abc import Iterator

import pytest
from tests.support.kubernetes.api_server import ApiServer

from strongroom.cluster.kubernetes.client import KubernetesClient


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """An API server in this process."""
    with ApiServer().running() as server:
        yield server


@pytest.fixture
def client(api: ApiServer) -> Iterator[KubernetesClient]:
    """A client of it."""
    client = api.client()
    yield client
    client.close()
