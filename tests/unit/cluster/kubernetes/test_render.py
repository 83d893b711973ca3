import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from tests.support.kubernetes.rendering import IMAGE, KEY_SERVICE, OWN_TEMPLATE, PACKAGE, RUN_ID, START, rendered

from strongroom.base.errors import RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.names import RunNames
from strongroom.cluster.kubernetes.render import Rendered, owned_by
from strongroom.cluster.shapes import ConfidentialNodeShape, PodShape
from strongroom.engine.pod_settings import check_pod_settings
from strongroom.wire.pod import PodDescriptor

KUBERNETES_OBJECT_BYTES = 1 << 20


def test_objects_are_named_and_labelled_by_the_run() -> None:
    run = rendered()

    assert run.names == RunNames(run_id=RUN_ID)
    assert [each["metadata"]["name"] for each in run.config_maps] == [
        "strongroom-0123456789ab",
        "strongroom-0123456789ab-package-000",
        "strongroom-0123456789ab-package-001",
    ]
    for each in [*run.config_maps, run.driver_template, json.loads(run.descriptor.executor_template)]:
        assert each["metadata"]["labels"]["strongroom.run"] == "0123456789ab"
        assert each["metadata"]["labels"]["app.kubernetes.io/part-of"] == "strongroom"
    assert all(each["immutable"] is True for each in run.config_maps)
    assert all(each["metadata"]["namespace"] == "analysts" for each in run.config_maps)


def test_the_descriptor_and_the_package_arrive_as_they_are() -> None:
    descriptor, *parts = rendered().config_maps

    assert PodDescriptor.from_json(descriptor["data"]["descriptor.json"]) == rendered().descriptor
    assert [base64.b64decode(part["binaryData"][f"part-00{n}"]) for n, part in enumerate(parts)] == list(PACKAGE)


def test_a_full_part_fits_into_an_object() -> None:
    from strongroom.cluster.kubernetes.render import _config_maps  # noqa: PLC0415 - one part of it
    from strongroom.wire.pod import PACKAGE_PART_BYTES  # noqa: PLC0415

    run = rendered()
    _, full = _config_maps(run.names, run.namespace, run.descriptor, [b"\xff" * PACKAGE_PART_BYTES])

    assert len(json.dumps(full)) < KUBERNETES_OBJECT_BYTES


def test_the_agent_takes_every_setting_that_the_descriptor_has() -> None:
    settings = rendered().descriptor.settings

    check_pod_settings(settings)
    assert settings["spark.kubernetes.authenticate.executor.serviceAccountName"] == "strongroom-executor"
    assert settings["spark.kubernetes.executor.podNamePrefix"] == "strongroom-0123456789ab"
    assert settings["spark.kubernetes.container.image"] == IMAGE


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ({}, "1331m"),  # 40 % of 2048 MiB, and 512 for scratch
        ({"spark.executor.memoryOverhead": "4g"}, "4g"),
        ({"spark.executor.memoryOverheadFactor": "0.5"}, None),
    ],
)
def test_pods_have_room_for_python_and_scratch(chosen: dict[str, str], expected: str | None) -> None:
    assert (
        rendered(pods={"spark.kubernetes.container.image": IMAGE, **chosen}).descriptor.settings.get(
            "spark.executor.memoryOverhead"
        )
        == expected
    )


def test_the_submission_client_is_told_no_more_than_it_needs() -> None:
    submission = rendered().submission

    assert submission["spark.kubernetes.driver.pod.name"] == "strongroom-0123456789ab-driver"
    assert submission["spark.kubernetes.submission.waitAppCompletion"] == "false"
    assert submission["spark.driver.memory"] == "1024m"
    assert submission["spark.driver.memoryOverhead"] == "921m"
    assert submission["spark.kubernetes.authenticate.driver.serviceAccountName"] == "strongroom-driver"
    assert not any("submission." in name and "waitAppCompletion" not in name for name in submission)


def test_nothing_of_the_run_but_the_ticket_tells_what_it_reads() -> None:
    """The driver's pod says who runs what, and neither arguments nor storage."""
    run = rendered()
    visible = json.dumps([run.driver_template, dict(run.submission), json.loads(run.descriptor.executor_template)])

    assert "file:///data" not in visible
    assert "strongroom://" not in visible
    assert START.ticket not in visible
    assert KEY_SERVICE in visible  # whose tokens are projected


def test_service_accounts_may_be_others() -> None:
    run = rendered(
        driver={
            "spark.kubernetes.container.image": IMAGE,
            "spark.kubernetes.authenticate.driver.serviceAccountName": "mine",
        },
        pods={
            "spark.kubernetes.container.image": IMAGE,
            "spark.kubernetes.authenticate.executor.serviceAccountName": "theirs",
        },
    )

    assert run.driver_template["spec"]["serviceAccountName"] == "mine"
    assert json.loads(run.descriptor.executor_template)["spec"]["serviceAccountName"] == "theirs"
    assert run.submission["spark.kubernetes.authenticate.driver.serviceAccountName"] == "mine"


def test_the_simulated_platform_is_there_in_the_simulated_shape_alone() -> None:
    def host_paths(run: Rendered) -> list[list[str]]:
        templates = (run.driver_template, json.loads(run.descriptor.executor_template))
        return [
            [volume["hostPath"]["path"] for volume in template["spec"]["volumes"] if "hostPath" in volume]
            for template in templates
        ]

    assert host_paths(rendered()) == [["/run/strongroom/platform"]] * 2
    assert rendered().descriptor.device.kind == "simulated-sgx"
    node = ConfidentialNodeShape(tee="snp", device="sev-guest", resource="squat.ai/sev-guest")
    assert host_paths(rendered(start=replace(START, shape=node))) == [[], []]


def test_what_a_shape_needs_counts_before_a_template_of_ones_own() -> None:
    shape = PodShape(runtime="kata-qemu-tdx")
    run = rendered(start=replace(START, shape=shape), driver_template=dict(OWN_TEMPLATE))

    spec = run.driver_template["spec"]
    assert spec["runtimeClassName"] == "kata-qemu-tdx"
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert [each["name"] for each in spec["containers"]] == ["spark"]
    assert run.descriptor.device.shape == "pod"


def test_a_shape_whose_evidence_names_no_application_is_refused() -> None:
    with pytest.raises(RefusedError, match="names no application") as caught:
        rendered(start=replace(START, shape=PodShape(runtime="aci", policy="package policy")))
    assert caught.value.step is Step.SUBMIT


def test_each_role_has_its_own_template() -> None:
    own: dict[str, Any] = {**OWN_TEMPLATE, "metadata": {"labels": {"of": "executors"}}}
    run = rendered(executor_template=own)

    assert "of" not in run.driver_template["metadata"]["labels"]
    assert json.loads(run.descriptor.executor_template)["metadata"]["labels"]["of"] == "executors"


def test_rendering_is_the_same_every_time() -> None:
    assert rendered() == rendered()


def test_an_owner_takes_its_objects_with_it() -> None:
    pod = {"metadata": {"name": "driver", "uid": "u-1"}}
    (config_map, *_) = rendered().config_maps
    owned = owned_by(config_map, pod)

    assert owned["metadata"]["ownerReferences"] == [{"apiVersion": "v1", "kind": "Pod", "name": "driver", "uid": "u-1"}]
    assert "ownerReferences" not in config_map["metadata"]
