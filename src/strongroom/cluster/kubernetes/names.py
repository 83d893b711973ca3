"""What a run's objects on a cluster are called, and how they are labelled."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

RUN_LABEL: Final = "strongroom.run"
"""On every object of a run: the first characters of its id."""
APPLICATION_LABEL: Final = "strongroom.application"
"""On its pods: the first characters of the application digest."""
STEP_LABEL: Final = "strongroom.step"
"""On the driver's pod: the step that the submitter saw last (`kubectl get pods -L strongroom.step`)."""
COMPONENT_LABEL: Final = "app.kubernetes.io/component"
PART_OF: Final[Mapping[str, str]] = {"app.kubernetes.io/part-of": "strongroom"}
RUN_ID_ANNOTATION: Final = "strongroom.run-id"
APPLICATION_ANNOTATION: Final = "strongroom.application-digest"
NAME_ANNOTATION: Final = "strongroom.application-name"

SUBMITTED_GATE: Final = "strongroom.run/submitted"
"""The driver's pod is not scheduled before its submitter takes this away, when everything else is there."""

DRIVER_CONTAINER: Final = "spark-kubernetes-driver"
EXECUTOR_CONTAINER: Final = "spark-kubernetes-executor"
EXECUTOR_ID_LABEL: Final = "spark-exec-id"
"""Spark's own label: an executor's number."""

_SHORT: Final = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class RunNames:
    """The names of one run's objects.

    Attributes:
        run_id: The run's id, 32 hexadecimal characters.
    """

    run_id: str

    @property
    def short(self) -> str:
        """The run in labels and names: the beginning of its id."""
        return self.run_id[:_SHORT]

    @property
    def config_map(self) -> str:
        """The ConfigMap with the descriptor; also how executor pods' names begin."""
        return f"strongroom-{self.short}"

    @property
    def driver_pod(self) -> str:
        """The driver's pod."""
        return f"strongroom-{self.short}-driver"

    def package_config_map(self, number: int) -> str:
        """Return the name of the ConfigMap with one part of the package, counted from 0."""
        return f"strongroom-{self.short}-package-{number:03d}"

    def labels(self) -> dict[str, str]:
        """Return the labels of every object of the run."""
        return {**PART_OF, RUN_LABEL: self.short}


def short_digest(digest: str) -> str:
    """Return the beginning of a digest, as labels have it."""
    return digest[:_SHORT]
