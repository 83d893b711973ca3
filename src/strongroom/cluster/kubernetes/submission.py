"""One run's objects on a cluster: all of them, or none that stays.

The order is what keeps a cluster clean, whenever this program ends:

1. Before Spark's submission client has made the driver's pod, there is nothing.
2. That pod carries a scheduling gate: it is placed nowhere and takes nothing, until the gate is taken away.
3. Everything else is made with that pod as its owner: the ConfigMaps of descriptor and package, and by Spark its own
   ConfigMap, Service and NetworkPolicy; later the executors' pods. Whoever deletes the pod deletes all of it.
4. Taking the gate away is one request: before it there is no run, after it the run is whole.

If something fails before the last step, the pod is deleted. If this program dies there, the gated pod stays and waits
for ever; the next submission in the namespace deletes those that are older than ten minutes, and so does `runs stop`.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Final

from strongroom.base.clock import Clock
from strongroom.base.errors import ConflictError, EngineError, StrongroomError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.access import Access
from strongroom.cluster.kubernetes.client import STRATEGIC, KubernetesClient
from strongroom.cluster.kubernetes.diagnosis import is_abandoned
from strongroom.cluster.kubernetes.names import PART_OF, RUN_LABEL, SUBMITTED_GATE, RunNames
from strongroom.cluster.kubernetes.render import Rendered, owned_by
from strongroom.cluster.kubernetes.spark_submit import run_spark_submit
from strongroom.cluster.kubernetes.template import Manifest
from strongroom.engine.runtime import SparkRuntime

_ABANDONED_AFTER: Final = timedelta(minutes=10)
_UNDO_TRIES: Final = 3
_UNDO_WAIT_S: Final = 0.4
_GRACE_S: Final = 30


def start_run(
    rendered: Rendered,
    *,
    client: KubernetesClient,
    access: Access,
    runtime: SparkRuntime,
    clock: Clock,
    tell: Callable[[str], None],
) -> Manifest:
    """Make everything of a run and let its driver's pod be placed.

    Args:
        rendered: The run.
        client: The cluster, in the run's namespace.
        access: The same cluster, for Spark's submission client.
        runtime: The Spark and Java of that client.
        clock: The time.
        tell: Told in a few words what was done.

    Returns:
        The driver's pod.

    Raises:
        StrongroomError: Something was refused or failed; nothing of the run is left.
        KeyboardInterrupt: As it came; nothing of the run is left.
    """
    try:
        sweep_abandoned(client, clock=clock)
        run_spark_submit(rendered, access, runtime=runtime)
        pod = _made(client, rendered.names)
        for config_map in rendered.config_maps:
            client.create("configmaps", owned_by(config_map, pod))
        ungated = {"spec": {"schedulingGates": [{"name": SUBMITTED_GATE, "$patch": "delete"}]}}
        pod = client.patch("pods", rendered.names.driver_pod, ungated, how=STRATEGIC)
    except StrongroomError as error:
        _undo(client, rendered.names)
        raise error.at(Step.EXECUTORS) from error.__cause__
    except BaseException:
        _undo(client, rendered.names)
        raise
    tell(f"driver's pod {rendered.names.driver_pod} made")
    return pod


def stop_run(client: KubernetesClient, names: RunNames, *, grace_s: int = _GRACE_S) -> bool:
    """Delete a run's driver's pod, and with it everything else of the run.

    Returns:
        Whether there was anything of the run.
    """
    was_there = client.delete("pods", names.driver_pod, grace_s=grace_s)
    # What has no owner (prepared by hand, for an operator) goes by its label.
    left = client.delete_all("configmaps", labels={RUN_LABEL: names.short})
    return was_there or left > 0


def sweep_abandoned(client: KubernetesClient, *, clock: Clock) -> int:
    """Delete driver's pods whose submitter died before they could start; return how many there were."""
    swept = 0
    for pod in client.find("pods", labels=PART_OF):
        made = _moment(str(pod["metadata"].get("creationTimestamp", "")))
        if is_abandoned(pod) and made is not None and clock.now() - made > _ABANDONED_AFTER:
            with suppress(ConflictError):  # it is another one by now
                swept += client.delete("pods", pod["metadata"]["name"], uid=pod["metadata"]["uid"], grace_s=0)
    return swept


def _made(client: KubernetesClient, names: RunNames) -> Manifest:
    pod = client.get("pods", names.driver_pod)
    if pod is None:
        raise EngineError(
            "Spark's submission client ended well, but the driver's pod is not there",
            action="see who deletes pods in this namespace, and submit again",
            step=Step.EXECUTORS,
        )
    return pod


def _undo(client: KubernetesClient, names: RunNames) -> None:
    """Delete what there is of a run that did not start; the error that led here matters more than one of this.

    A request of the submission client that ended may still be on its way: hence more than one look.
    """
    for _ in range(_UNDO_TRIES):
        with suppress(StrongroomError):
            if stop_run(client, names, grace_s=0):
                return
        time.sleep(_UNDO_WAIT_S)


def _moment(text: str) -> datetime | None:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
