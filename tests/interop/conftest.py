"""The key service as Azure's own key vault clients find it: one for each file of tests."""

from collections.abc import Iterator
from typing import Any

import pytest
from azure.keyvault.keys import KeyClient
from tests.support.azure_vault import azure_installation, client_options
from tests.support.service_processes import Installation


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """Both services; the key service answers as a vault."""
    with azure_installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


@pytest.fixture(scope="module")
def options(installed: Installation) -> dict[str, Any]:
    """What Azure's clients are made with."""
    return client_options(installed)


@pytest.fixture(scope="module")
def client(installed: Installation, options: dict[str, Any]) -> Iterator[KeyClient]:
    """Azure's client of the vault, as its owner."""
    with KeyClient(installed.keys.url, **options) as made:
        yield made
