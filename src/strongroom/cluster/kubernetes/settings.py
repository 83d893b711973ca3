"""Which of `--conf` is the application's, and which says where and how its pods run.

What stands here is the host's: it is no part of the application and of its digest, so that one approval serves every
cluster. Of that, some settings are for Spark's submission client, which makes the driver's pod; some are for Spark in
the driver, which makes the executors' pods: those that `engine.pod_settings` lists, because the agent there takes no
others. Everything else is the application's to choose, or refused (`application.settings`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.engine.pod_settings import check_pod_settings, is_pod_setting

NAMESPACE: Final = "spark.kubernetes.namespace"
CONTEXT: Final = "spark.kubernetes.context"
IMAGE: Final = "spark.kubernetes.container.image"
DRIVER_IMAGE: Final = "spark.kubernetes.driver.container.image"
EXECUTOR_IMAGE: Final = "spark.kubernetes.executor.container.image"
DRIVER_ACCOUNT: Final = "spark.kubernetes.authenticate.driver.serviceAccountName"
EXECUTOR_ACCOUNT: Final = "spark.kubernetes.authenticate.executor.serviceAccountName"
DRIVER_TEMPLATE: Final = "spark.kubernetes.driver.podTemplateFile"
EXECUTOR_TEMPLATE: Final = "spark.kubernetes.executor.podTemplateFile"
DRIVER_TEMPLATE_CONTAINER: Final = "spark.kubernetes.driver.podTemplateContainerName"
EXECUTOR_TEMPLATE_CONTAINER: Final = "spark.kubernetes.executor.podTemplateContainerName"
WAIT: Final = "spark.kubernetes.submission.waitAppCompletion"
ACCESS_PREFIX: Final = "spark.kubernetes.authenticate.submission."
DRIVER_OVERHEAD: Final = "spark.driver.memoryOverhead"
EXECUTOR_OVERHEAD: Final = "spark.executor.memoryOverhead"
POD_NAME_PREFIX: Final = "spark.kubernetes.executor.podNamePrefix"
DYNAMIC: Final = "spark.dynamicAllocation.enabled"
MIN_EXECUTORS: Final = "spark.dynamicAllocation.minExecutors"
MAX_EXECUTORS: Final = "spark.dynamicAllocation.maxExecutors"


class _Use(Flag):
    """Whom a setting is for; for Spark in the driver, too, where `engine.pod_settings` lists it."""

    ACCESS = auto()  # the connection to the cluster, ours and Spark's
    OURS = auto()  # this program alone
    DRIVER = auto()  # Spark's submission client, which makes the driver's pod


_USES: Final[Mapping[str, _Use]] = {
    NAMESPACE: _Use.ACCESS,
    CONTEXT: _Use.ACCESS,
    f"{ACCESS_PREFIX}caCertFile": _Use.ACCESS,
    f"{ACCESS_PREFIX}clientCertFile": _Use.ACCESS,
    f"{ACCESS_PREFIX}clientKeyFile": _Use.ACCESS,
    f"{ACCESS_PREFIX}oauthTokenFile": _Use.ACCESS,
    DRIVER_TEMPLATE: _Use.OURS,
    DRIVER_TEMPLATE_CONTAINER: _Use.OURS,
    EXECUTOR_TEMPLATE: _Use.OURS,
    EXECUTOR_TEMPLATE_CONTAINER: _Use.OURS,
    WAIT: _Use.OURS,
    IMAGE: _Use.DRIVER,
    f"{IMAGE}.pullPolicy": _Use.DRIVER,
    f"{IMAGE}.pullSecrets": _Use.DRIVER,
    DRIVER_IMAGE: _Use.DRIVER,
    DRIVER_ACCOUNT: _Use.DRIVER,
    DRIVER_OVERHEAD: _Use.DRIVER,
    f"{DRIVER_OVERHEAD}Factor": _Use.DRIVER,
    "spark.kubernetes.driver.limit.cores": _Use.DRIVER,
    "spark.kubernetes.driver.pod.excludedFeatureSteps": _Use.DRIVER,
    "spark.kubernetes.driver.request.cores": _Use.DRIVER,
    "spark.kubernetes.driver.scheduler.name": _Use.DRIVER,
    "spark.kubernetes.scheduler.name": _Use.DRIVER,
    "spark.kubernetes.submission.connectionTimeout": _Use.DRIVER,
    "spark.kubernetes.submission.requestTimeout": _Use.DRIVER,
}
_USES_BY_PREFIX: Final[Mapping[str, _Use]] = {
    "spark.kubernetes.driver.annotation.": _Use.DRIVER,
    "spark.kubernetes.driver.label.": _Use.DRIVER,
    "spark.kubernetes.driver.node.selector.": _Use.DRIVER,
    "spark.kubernetes.driver.service.annotation.": _Use.DRIVER,
    "spark.kubernetes.driver.service.label.": _Use.DRIVER,
    "spark.kubernetes.driver.volumes.": _Use.DRIVER,
    "spark.kubernetes.node.selector.": _Use.DRIVER,
}

_BY_DIGEST: Final = re.compile(r"[^@\s]+@sha256:[0-9a-f]{64}")
_FAMILIES: Final = ("spark.kubernetes.", "spark.dynamicAllocation.")
_ENVIRONMENT: Final = "environment variables are a part of the application of their own"
_FROM_SECRETS: Final = (
    "a cluster's Secrets are its administrator's to read: keys come from key services, to attested TEEs"
)
_NAMED: Final = "the run's id names its pods"
_CREDENTIALS: Final = "it would be stored on the cluster; pods have their service accounts: leave it out"
_CODE: Final = "it loads code that is not measured"
_TAKEN_IN: Final = "the packed application travels in ConfigMaps, and nothing else is taken in: leave it out"
_REASONS: Final[Mapping[str, str]] = {
    f"{ACCESS_PREFIX}oauthToken": (
        f"everybody on this machine sees a token on a command line: use {ACCESS_PREFIX}oauthTokenFile"
    ),
    "spark.kubernetes.driver.pod.name": _NAMED,
    POD_NAME_PREFIX: _NAMED,
    "spark.kubernetes.file.upload.path": _TAKEN_IN,
    "spark.kubernetes.local.dirs.tmpfs": "scratch is always memory of the TEE: leave it out",
    "spark.kubernetes.memoryOverheadFactor": f"use {DRIVER_OVERHEAD}Factor and {EXECUTOR_OVERHEAD}Factor",
    "spark.kubernetes.trust.certificates": f"name the cluster's certificate authority: {ACCESS_PREFIX}caCertFile",
}
_REASONS_BY_PREFIX: Final[Mapping[str, str]] = {
    "spark.kubernetes.driverEnv.": _ENVIRONMENT,
    "spark.kubernetes.driver.secretKeyRef.": _FROM_SECRETS,
    "spark.kubernetes.driver.secrets.": _FROM_SECRETS,
    "spark.kubernetes.executor.secretKeyRef.": _FROM_SECRETS,
    "spark.kubernetes.executor.secrets.": _FROM_SECRETS,
    "spark.kubernetes.authenticate.": _CREDENTIALS,
    "spark.kubernetes.driver.pod.": _CODE,
    "spark.kubernetes.executor.pod.": _CODE,
    "spark.kubernetes.allocation.pods.": _CODE,
    "spark.kubernetes.hadoop.": _TAKEN_IN,
    "spark.kubernetes.kerberos.": _TAKEN_IN,
    "spark.kubernetes.sgx.": "every run is in TEEs; --tee says of which kind: leave it out",
}
_UNKNOWN: Final = "it is not among the settings for Kubernetes that are taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class SortedSettings:
    """The settings of a command line, by whom they are for.

    Attributes:
        application: Part of the application and of its digest, where `application.settings` allows them.
        access: Whose cluster it is, and by which credentials.
        ours: What this program itself heeds: templates, waiting.
        driver: For Spark's submission client, which makes the driver's pod.
        pods: For Spark in the driver: they go into the descriptor.
    """

    application: Mapping[str, str]
    access: Mapping[str, str]
    ours: Mapping[str, str]
    driver: Mapping[str, str]
    pods: Mapping[str, str]


def is_placement(name: str) -> bool:
    """Return whether a setting says where and how pods run: it is no part of the application."""
    return name in _USES or name.startswith(_FAMILIES) or is_pod_setting(name)


def sort_settings(chosen: Mapping[str, str]) -> SortedSettings:
    """Sort the settings of a command line.

    Raises:
        RefusedError: Some are about pods and are not taken; the message names each and says why, without its value.
    """
    placed = {name: _use_of(name) for name in chosen if is_placement(name)}
    pods = {name: chosen[name] for name in placed if is_pod_setting(name)}
    faults = {
        name: _REASONS.get(name) or _why_not(name)
        for name, use in sorted(placed.items())
        if name in _REASONS or (use is None and name not in pods)
    }
    _refuse(faults)
    check_pod_settings(pods)

    def of(wanted: _Use) -> dict[str, str]:
        return {name: chosen[name] for name, use in placed.items() if use is wanted}

    return SortedSettings(
        application={name: value for name, value in chosen.items() if name not in placed},
        access=of(_Use.ACCESS),
        ours=of(_Use.OURS),
        driver=of(_Use.DRIVER),
        pods=pods,
    )


def check_images(chosen: Mapping[str, str], *, allow_tags: bool) -> None:
    """Demand images by their digests: a tag can mean another image tomorrow, or on another node.

    Args:
        chosen: Settings, of which those that name images are looked at.
        allow_tags: Whether a tag will do.

    Raises:
        RefusedError: There is no image, or one is named otherwise.
    """
    images = {name: chosen[name] for name in (IMAGE, DRIVER_IMAGE, EXECUTOR_IMAGE) if name in chosen}
    if IMAGE not in images and images.keys() != {DRIVER_IMAGE, EXECUTOR_IMAGE}:
        raise RefusedError(
            "no image is named for the pods", action=f"name it: --conf {IMAGE}=NAME@sha256:DIGEST", step=Step.SUBMIT
        )
    faults = tuple(
        Mismatch(name=name, expected="NAME@sha256:DIGEST", actual=value)
        for name, value in images.items()
        if not _BY_DIGEST.fullmatch(value)
    )
    if faults and not allow_tags:
        raise RefusedError(
            "an image is not named by its digest, so it can be another one on every node",
            action="name it as NAME@sha256:DIGEST, or say --allow-image-tag (evidence decides what runs all the same)",
            step=Step.SUBMIT,
            mismatches=faults,
        )


def _use_of(name: str) -> _Use | None:
    if name in _USES:
        return _USES[name]
    return next((use for prefix, use in _USES_BY_PREFIX.items() if name.startswith(prefix) and name != prefix), None)


def _why_not(name: str) -> str:
    return next((why for prefix, why in _REASONS_BY_PREFIX.items() if name.startswith(prefix)), _UNKNOWN)


def _refuse(faults: Mapping[str, str]) -> None:
    if faults:
        raise RefusedError(
            "; ".join(f"setting {name}: {why}" for name, why in faults.items()),
            action=f"leave the setting{'s' if len(faults) > 1 else ''} out, or do what is said there",
            step=Step.SUBMIT,
            mismatches=tuple(
                Mismatch(name=name, expected="not set", actual=f"set; {why}") for name, why in faults.items()
            ),
        )
