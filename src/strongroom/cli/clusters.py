"""Which clusters' service accounts an installation's key service knows: `owner/clusters.json`, written by hand."""

from typing import Literal

from pydantic import Field

from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cli.state import State, read_file
from strongroom.services.workloads import WorkloadIssuerSettings
from strongroom.wire.model import Message


class ClustersFile(Message):
    """The file.

    Attributes:
        workload_issuers: The clusters, as in a key service's configuration.
    """

    version: Literal[1] = 1
    workload_issuers: tuple[WorkloadIssuerSettings, ...] = Field(max_length=64)


def read_clusters(state: State) -> tuple[WorkloadIssuerSettings, ...]:
    """Return the clusters that the key service is to know: none, where there is no file.

    Raises:
        ConfigurationError: The file cannot be read, or is not one.
    """
    if not state.clusters.exists():
        return ()
    try:
        return ClustersFile.from_json(read_file(state.clusters, what="the clusters")).workload_issuers
    except FormatError as error:
        action = "see docs/reference/approvals.md, Workloads"
        raise ConfigurationError(f"{state.clusters} is {error.message}", action=action) from error
