"""The Spark settings that the host may choose for runs on Kubernetes.

They say how the pods of executors look and when Spark asks for them, which is the host's business. But they reach Spark
inside the driver's TEE, so only those pass that stand in a list: what could bring code, files or secrets into a TEE, or
weaken the protection between TEEs, does not.
"""

import re
from collections.abc import Mapping
from typing import Final

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step

_CORES: Final = r"[0-9]{1,6}(\.[0-9]{1,3})?m?"
_SWITCH: Final = r"true|false"
_COUNT: Final = r"[0-9]{1,9}"
_INFINITE: Final = r"[0-9]{1,9}|infinity"
_RATIO: Final = r"[0-9]{1,3}(\.[0-9]{1,6})?"
_TIME: Final = r"[0-9]{1,9}(us|ms|s|m|min|h|d)?"
_MEMORY: Final = r"[0-9]{1,9}[kKmMgG]?[bB]?"
_NAME: Final = r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?"
_LABEL: Final = r"([A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?)?"
# `${env:NAME}` would put a variable of Spark's process into an object of Kubernetes.
_TEXT: Final = r"[^$\x00-\x1f\x7f]{0,4096}"
_IMAGE: Final = r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}"

_POD_SETTINGS: Final[Mapping[str, str]] = {
    "spark.dynamicAllocation.cachedExecutorIdleTimeout": rf"{_TIME}|infinity",
    "spark.dynamicAllocation.enabled": _SWITCH,
    "spark.dynamicAllocation.executorAllocationRatio": _RATIO,
    "spark.dynamicAllocation.executorIdleTimeout": _TIME,
    "spark.dynamicAllocation.initialExecutors": _COUNT,
    "spark.dynamicAllocation.maxExecutors": _INFINITE,
    "spark.dynamicAllocation.minExecutors": _COUNT,
    "spark.dynamicAllocation.schedulerBacklogTimeout": _TIME,
    "spark.dynamicAllocation.shuffleTracking.enabled": r"true",
    "spark.dynamicAllocation.shuffleTracking.timeout": rf"{_TIME}|infinity",
    "spark.dynamicAllocation.sustainedSchedulerBacklogTimeout": _TIME,
    "spark.executor.failuresValidityInterval": _TIME,
    "spark.executor.maxNumFailures": _COUNT,
    "spark.executor.memoryOverhead": _MEMORY,
    "spark.executor.memoryOverheadFactor": _RATIO,
    "spark.executor.minMemoryOverhead": _MEMORY,
    "spark.kubernetes.allocation.batch.delay": _TIME,
    "spark.kubernetes.allocation.batch.size": _COUNT,
    "spark.kubernetes.allocation.driver.readinessTimeout": _TIME,
    "spark.kubernetes.allocation.executor.timeout": _TIME,
    "spark.kubernetes.allocation.maxPendingPods": _COUNT,
    "spark.kubernetes.allocation.maxPendingPodsPerRp": _COUNT,
    "spark.kubernetes.allocation.maximum": _COUNT,
    "spark.kubernetes.authenticate.executor.serviceAccountName": _NAME,
    "spark.kubernetes.container.image": _IMAGE,
    "spark.kubernetes.container.image.pullPolicy": r"Always|Never|IfNotPresent",
    "spark.kubernetes.container.image.pullSecrets": rf"{_NAME}(,{_NAME})*",
    "spark.kubernetes.driver.connectionTimeout": _COUNT,
    "spark.kubernetes.driver.requestTimeout": _COUNT,
    "spark.kubernetes.dynamicAllocation.deleteGracePeriod": _TIME,
    "spark.kubernetes.executor.apiPollingInterval": _TIME,
    "spark.kubernetes.executor.checkAllContainers": _SWITCH,
    "spark.kubernetes.executor.container.image": _IMAGE,
    "spark.kubernetes.executor.deleteOnTermination": _SWITCH,
    "spark.kubernetes.executor.deletedExecutorsCacheTimeout": _TIME,
    "spark.kubernetes.executor.enableApiPolling": _SWITCH,
    "spark.kubernetes.executor.enableApiWatcher": _SWITCH,
    "spark.kubernetes.executor.enablePollingWithResourceVersion": _SWITCH,
    "spark.kubernetes.executor.eventProcessingInterval": _TIME,
    "spark.kubernetes.executor.limit.cores": _CORES,
    "spark.kubernetes.executor.lostCheck.maxAttempts": _COUNT,
    "spark.kubernetes.executor.missingPodDetectDelta": _TIME,
    "spark.kubernetes.executor.podDeletionCost": _COUNT,
    "spark.kubernetes.executor.podNamePrefix": r"[a-z0-9]([a-z0-9.-]{0,36}[a-z0-9])?",
    "spark.kubernetes.executor.request.cores": _CORES,
    "spark.kubernetes.executor.scheduler.name": _NAME,
    "spark.kubernetes.executor.terminationGracePeriodSeconds": _TIME,
    "spark.kubernetes.executorSnapshotsSubscribersShutdownGracePeriod": _TIME,
    "spark.kubernetes.memoryOverheadFactor": _RATIO,
    "spark.kubernetes.scheduler.name": _NAME,
    "spark.scheduler.maxRegisteredResourcesWaitingTime": _TIME,
    "spark.scheduler.minRegisteredResourcesRatio": _RATIO,
}
"""Every setting that the host may choose, with the pattern of its values."""
_POD_SETTING_FAMILIES: Final[Mapping[str, str]] = {
    r"spark\.kubernetes\.executor\.label\.[A-Za-z0-9_./-]{1,317}": _LABEL,
    r"spark\.kubernetes\.executor\.annotation\.[A-Za-z0-9_./-]{1,317}": _TEXT,
    r"spark\.kubernetes\.(executor\.)?node\.selector\.[A-Za-z0-9_./-]{1,317}": _LABEL,
    r"spark\.kubernetes\.executor\.volumes\.(hostPath|persistentVolumeClaim|emptyDir|nfs)\.[a-z0-9-]{1,63}"
    r"\.(mount\.(path|subPath|readOnly)|options\.[A-Za-z]{1,40})": _TEXT,
}
"""The same for settings whose names end in a name of the host's: patterns of names, and of their values."""


def check_pod_settings(chosen: Mapping[str, str]) -> None:
    """Refuse settings of the host that are not about how and where executors' pods run.

    What could bring code, files or secrets into the driver's TEE, or weaken the protection between TEEs, is not in the
    list, and nothing passes that is not.

    Args:
        chosen: The host's settings.

    Raises:
        RefusedError: Some of them are not the host's to choose; the mismatches name each.
    """
    mismatches = tuple(
        Mismatch(name=name, expected="not set" if pattern is None else "a value for it", actual=value)
        for name, value in sorted(chosen.items())
        if (pattern := _pod_setting_pattern(name)) is None or not re.fullmatch(pattern, value)
    )
    if mismatches:
        raise RefusedError(
            "the host chooses settings that are not its to choose: " + ", ".join(each.name for each in mismatches),
            action="Submit without these settings; docs/reference/pods.md lists those that may be chosen.",
            step=Step.EXECUTORS,
            mismatches=mismatches,
        )


def is_pod_setting(name: str) -> bool:
    """Return whether a setting is the host's to choose, whatever its value."""
    return _pod_setting_pattern(name) is not None


def _pod_setting_pattern(name: str) -> str | None:
    families = (values for names, values in _POD_SETTING_FAMILIES.items() if re.fullmatch(names, name))
    return _POD_SETTINGS.get(name) or next(families, None)
