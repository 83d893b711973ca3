"""From a run and where it is to run, to the objects and settings that start it. Pure: nothing is asked or made."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import (
    APPLICATION_ANNOTATION,
    APPLICATION_LABEL,
    NAME_ANNOTATION,
    RUN_ID_ANNOTATION,
    RUN_LABEL,
    RunNames,
    short_digest,
)
from strongroom.cluster.kubernetes.settings import (
    DRIVER_ACCOUNT,
    DRIVER_IMAGE,
    DRIVER_OVERHEAD,
    EXECUTOR_ACCOUNT,
    EXECUTOR_IMAGE,
    EXECUTOR_OVERHEAD,
    IMAGE,
    NAMESPACE,
    POD_NAME_PREFIX,
    WAIT,
)
from strongroom.cluster.kubernetes.template import Manifest, PodNeeds, Role, pod_template
from strongroom.cluster.shapes import Launch, Shape, apply_overlay, render_overlay
from strongroom.wire.descriptor import AttestationAddress, DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.pod import DESCRIPTOR_NAME, PodDescriptor, package_part_name
from strongroom.wire.vault_key import VaultAddress

APPLICATION_FILE: Final = "local:///strongroom/application.py"
"""What Spark's submission client is told to run: there is no such file, and the agent does not look for it."""
DEFAULT_DRIVER_ACCOUNT: Final = "strongroom-driver"
DEFAULT_EXECUTOR_ACCOUNT: Final = "strongroom-executor"

_SCRATCH_MB: Final = 512
"""Scratch lies in the pod's memory, beside what Spark reckons with."""
_OVERHEAD_SHARE: Final = 0.4
_OVERHEAD_LEAST_MB: Final = 384


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """What a run is, as for one machine (`wire.descriptor.Descriptor`).

    Attributes:
        run_id: The ticket's run id.
        application_name: How people call the application.
        application: The application digest.
        shape: Where its TEEs are on the cluster.
    """

    run_id: str
    application_name: str
    application: str
    ticket: str
    shape: Shape
    attestation_service: AttestationAddress
    key_services: Mapping[str, ServiceAddress]
    vaults: Mapping[str, VaultAddress]
    storage: Mapping[str, str]
    sizes: Sizes


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where and how a run's pods run, as asked for on the command line.

    Attributes:
        namespace: The namespace of its pods.
        driver: Settings of Spark's submission client.
        pods: Settings of Spark in the driver.
        driver_template, executor_template: The person's pod templates.
        driver_container, executor_container: Which of their containers is Spark's.
        driver_cores: Cores that the driver's pod asks for; None for Spark's default.
        archive: A folder on the pods' storage that gets a copy of receipt and sealed output.
    """

    namespace: str
    driver: Mapping[str, str] = field(default_factory=dict)
    pods: Mapping[str, str] = field(default_factory=dict)
    driver_template: Manifest | None = None
    executor_template: Manifest | None = None
    driver_container: str | None = None
    executor_container: str | None = None
    driver_cores: int | None = None
    archive: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """Everything that starts a run.

    Attributes:
        names: The run's names.
        namespace: The namespace of everything.
        descriptor: What the agents are handed.
        config_maps: The descriptor's and the package's, without an owner.
        driver_template: The driver's pod template.
        submission: Settings of Spark's submission client, without the template's file and without any credential.
    """

    names: RunNames
    namespace: str
    descriptor: PodDescriptor
    config_maps: tuple[Manifest, ...]
    driver_template: Manifest
    submission: Mapping[str, str]


def render(start: Start, placement: Placement, *, package: Sequence[bytes], gated: bool) -> Rendered:
    """Return everything that starts a run.

    Args:
        start: What runs.
        placement: Where and how.
        package: The packed application's parts (`application.parts`).
        gated: Whether the driver's pod waits until its submitter has made everything else; False where somebody else
            submits it, after the ConfigMaps.

    Raises:
        ConfigurationError, RefusedError: A pod template is none, or contradicts what the agent needs.
    """
    names = RunNames(run_id=start.run_id)
    package_maps = [names.package_config_map(number) for number in range(len(package))]
    labels = {**names.labels(), APPLICATION_LABEL: short_digest(start.application)}
    annotations = {
        RUN_ID_ANNOTATION: start.run_id,
        APPLICATION_ANNOTATION: start.application,
        NAME_ANNOTATION: start.application_name,
    }

    def needs(role: Role, service_account: str) -> PodNeeds:
        return PodNeeds(
            role=role,
            labels=labels,
            annotations=annotations,
            config_map=names.config_map,
            package_config_maps=package_maps,
            key_services=tuple(start.key_services),
            service_account=service_account,
            gated=gated and role == "driver",
        )

    driver_account = placement.driver.get(DRIVER_ACCOUNT, DEFAULT_DRIVER_ACCOUNT)
    executor_account = placement.pods.get(EXECUTOR_ACCOUNT, DEFAULT_EXECUTOR_ACCOUNT)
    driver_template, device = _shaped(
        pod_template(
            needs("driver", driver_account), own=placement.driver_template, container_name=placement.driver_container
        ),
        start,
        role="driver",
        image=placement.driver.get(DRIVER_IMAGE) or placement.driver.get(IMAGE, ""),
    )
    executor_template, _ = _shaped(
        pod_template(
            needs("executor", executor_account),
            own=placement.executor_template,
            container_name=placement.executor_container,
        ),
        start,
        role="executor",
        image=placement.pods.get(EXECUTOR_IMAGE) or placement.pods.get(IMAGE, ""),
    )
    descriptor = PodDescriptor(
        application=start.application,
        ticket=start.ticket,
        device=device,
        attestation_service=start.attestation_service,
        key_services=dict(start.key_services),
        vaults=dict(start.vaults),
        storage=dict(start.storage),
        sizes=start.sizes,
        settings={
            EXECUTOR_ACCOUNT: executor_account,
            POD_NAME_PREFIX: names.config_map,
            **_overhead(EXECUTOR_OVERHEAD, placement.pods, heap_mb=start.sizes.executor_memory_mb),
            **placement.pods,
        },
        executor_template=_json(executor_template),
        namespace=placement.namespace,
        archive=placement.archive,
    )
    return Rendered(
        names=names,
        namespace=placement.namespace,
        descriptor=descriptor,
        config_maps=_config_maps(names, placement.namespace, descriptor, package),
        driver_template=driver_template,
        submission=_submission(start, placement, names),
    )


def owned_by(manifest: Manifest, pod: Manifest) -> Manifest:
    """Return an object with a pod as its owner: it goes when the pod does."""
    metadata = pod["metadata"]
    owner = {"apiVersion": "v1", "kind": "Pod", "name": metadata["name"], "uid": metadata["uid"]}
    return {**manifest, "metadata": {**manifest["metadata"], "ownerReferences": [owner]}}


def _shaped(template: Manifest, start: Start, *, role: Role, image: str) -> tuple[Manifest, DeviceSetting]:
    """Return a template with what the run's shape adds, which counts before everything else; and what quotes there.

    Raises:
        RefusedError: Evidence of this shape names no application, so no key service would give a key.
        StrongroomError: The shape's options contradict each other, or the image is named by no digest.
    """
    overlay = render_overlay(start.shape, Launch(application=start.application, image=image), role=role)
    if overlay.device is None:
        raise RefusedError(
            "evidence of this shape names no application, so that no key service gives a key",
            action="choose another shape: docs/reference/shapes.md",
            step=Step.SUBMIT,
        )
    return apply_overlay(template, overlay, container=template["spec"]["containers"][0]["name"]), overlay.device


def _submission(start: Start, placement: Placement, names: RunNames) -> dict[str, str]:
    cores = {} if placement.driver_cores is None else {"spark.driver.cores": str(placement.driver_cores)}
    return {
        "spark.app.name": start.application_name,
        "spark.driver.memory": f"{start.sizes.driver_memory_mb}m",
        **_overhead(DRIVER_OVERHEAD, placement.driver, heap_mb=start.sizes.driver_memory_mb),
        **cores,
        DRIVER_ACCOUNT: DEFAULT_DRIVER_ACCOUNT,
        "spark.kubernetes.driver.pod.name": names.driver_pod,
        f"spark.kubernetes.driver.service.label.{RUN_LABEL}": names.short,
        NAMESPACE: placement.namespace,
        "spark.ui.enabled": "false",
        WAIT: "false",
        **placement.driver,
    }


def _overhead(name: str, chosen: Mapping[str, str], *, heap_mb: int) -> dict[str, str]:
    """Return the memory beside the heap, unless it is chosen: as Spark reckons for Python, and room for scratch."""
    if name in chosen or f"{name}Factor" in chosen:
        return {}
    return {name: f"{max(int(heap_mb * _OVERHEAD_SHARE), _OVERHEAD_LEAST_MB) + _SCRATCH_MB}m"}


def _config_maps(
    names: RunNames, namespace: str, descriptor: PodDescriptor, package: Sequence[bytes]
) -> tuple[Manifest, ...]:
    def config_map(name: str, content: Manifest) -> Manifest:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"labels": names.labels(), "name": name, "namespace": namespace},
            "immutable": True,
            **content,
        }

    return (
        config_map(names.config_map, {"data": {DESCRIPTOR_NAME: descriptor.to_json().decode()}}),
        *(
            config_map(
                names.package_config_map(number),
                {"binaryData": {package_part_name(number): base64.b64encode(part).decode("ascii")}},
            )
            for number, part in enumerate(package)
        ),
    )


def _json(template: Manifest) -> str:
    return canonical_json(template).decode()
