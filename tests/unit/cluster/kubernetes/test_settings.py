import re
from pathlib import Path

import pytest

from strongroom.base.errors import RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.settings import (
    DRIVER_IMAGE,
    EXECUTOR_IMAGE,
    IMAGE,
    check_images,
    is_placement,
    sort_settings,
)

BY_DIGEST = "registry.example/spark@sha256:" + "ab" * 32


def test_sorts_settings_by_whom_they_are_for() -> None:
    found = sort_settings(
        {
            "spark.sql.shuffle.partitions": "8",
            "spark.kubernetes.namespace": "analysts",
            "spark.kubernetes.authenticate.submission.oauthTokenFile": "/t",
            "spark.kubernetes.driver.podTemplateFile": "driver.yaml",
            "spark.kubernetes.container.image": BY_DIGEST,
            "spark.kubernetes.driver.volumes.hostPath.data.mount.path": "/data",
            "spark.kubernetes.executor.volumes.hostPath.data.mount.path": "/data",
            "spark.dynamicAllocation.maxExecutors": "4",
            "spark.executor.memoryOverhead": "1g",
        }
    )

    assert found.application == {"spark.sql.shuffle.partitions": "8"}
    assert found.access.keys() == {
        "spark.kubernetes.namespace",
        "spark.kubernetes.authenticate.submission.oauthTokenFile",
    }
    assert found.ours == {"spark.kubernetes.driver.podTemplateFile": "driver.yaml"}
    assert found.driver.keys() == {IMAGE, "spark.kubernetes.driver.volumes.hostPath.data.mount.path"}
    assert found.pods.keys() == {
        IMAGE,
        "spark.kubernetes.executor.volumes.hostPath.data.mount.path",
        "spark.dynamicAllocation.maxExecutors",
        "spark.executor.memoryOverhead",
    }


def test_what_says_how_pods_run_is_no_part_of_the_application() -> None:
    assert is_placement("spark.kubernetes.node.selector.disk")
    assert is_placement("spark.dynamicAllocation.enabled")
    assert is_placement("spark.driver.memoryOverhead")
    assert not is_placement("spark.sql.ansi.enabled")
    assert not is_placement("spark.executor.memory")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spark.kubernetes.authenticate.submission.oauthToken", "oauthTokenFile"),
        ("spark.kubernetes.authenticate.driver.oauthToken", "service accounts"),
        ("spark.kubernetes.driver.secrets.credentials", "attested TEEs"),
        ("spark.kubernetes.executor.secretKeyRef.KEY", "attested TEEs"),
        ("spark.kubernetes.driverEnv.KEY", "environment variables"),
        ("spark.kubernetes.executor.pod.featureSteps", "loads code"),
        ("spark.kubernetes.driver.pod.featureSteps", "loads code"),
        ("spark.kubernetes.driver.pod.name", "run's id"),
        ("spark.kubernetes.executor.podNamePrefix", "run's id"),
        ("spark.kubernetes.file.upload.path", "ConfigMaps"),
        ("spark.kubernetes.kerberos.krb5.path", "ConfigMaps"),
        ("spark.kubernetes.sgx.enabled", "--tee"),
        ("spark.kubernetes.local.dirs.tmpfs", "memory of the TEE"),
        ("spark.kubernetes.memoryOverheadFactor", "spark.driver.memoryOverheadFactor"),
        ("spark.kubernetes.no.such.setting", "not among the settings"),
        ("spark.kubernetes.driver.label.", "not among the settings"),
    ],
)
def test_refuses_by_name_what_would_let_the_host_in(name: str, says: str) -> None:
    with pytest.raises(RefusedError, match=re.escape(says)) as caught:
        sort_settings({name: "s3cret", "spark.sql.ansi.enabled": "true"})

    assert caught.value.step is Step.SUBMIT
    assert name in caught.value.message
    assert "s3cret" not in str(caught.value.message) + caught.value.action + str(caught.value.mismatches)


def test_names_everything_that_is_refused() -> None:
    with pytest.raises(RefusedError) as caught:
        sort_settings({"spark.kubernetes.driver.pod.name": "x", "spark.kubernetes.driverEnv.A": "y"})

    assert [each.name for each in caught.value.mismatches] == [
        "spark.kubernetes.driver.pod.name",
        "spark.kubernetes.driverEnv.A",
    ]


def test_refuses_here_what_the_agent_would_refuse_in_the_pod() -> None:
    with pytest.raises(RefusedError, match=r"spark\.kubernetes\.executor\.request\.cores"):
        sort_settings({"spark.kubernetes.executor.request.cores": "${env:SECRET}"})


def test_images_are_named_by_digest() -> None:
    check_images({IMAGE: BY_DIGEST}, allow_tags=False)
    check_images({DRIVER_IMAGE: BY_DIGEST, EXECUTOR_IMAGE: BY_DIGEST}, allow_tags=False)
    check_images({IMAGE: "spark:latest"}, allow_tags=True)


@pytest.mark.parametrize("image", ["spark", "spark:4.3", "spark@sha256:abc", f"{BY_DIGEST}0", f"a {BY_DIGEST}"])
def test_refuses_images_that_can_be_another_one_tomorrow(image: str) -> None:
    with pytest.raises(RefusedError, match="not named by its digest") as caught:
        check_images({IMAGE: BY_DIGEST, EXECUTOR_IMAGE: image}, allow_tags=False)

    assert "--allow-image-tag" in caught.value.action
    assert [each.name for each in caught.value.mismatches] == [EXECUTOR_IMAGE]


@pytest.mark.parametrize("images", [{}, {DRIVER_IMAGE: BY_DIGEST}])
def test_demands_an_image_for_every_pod(images: dict[str, str]) -> None:
    with pytest.raises(RefusedError, match="no image is named"):
        check_images(images, allow_tags=True)


def test_the_page_lists_every_setting_that_is_taken(repo_root: Path) -> None:
    page = (repo_root / "docs" / "reference" / "submit.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(spark\.[A-Za-z0-9.*]+)`", page))
    from strongroom.cluster.kubernetes import settings  # noqa: PLC0415 - its tables

    for name in settings._USES:
        assert name in named, name
    for prefix in settings._USES_BY_PREFIX:
        assert f"{prefix}*" in named, prefix
    for name in [*settings._REASONS, *(f"{prefix}*" for prefix in settings._REASONS_BY_PREFIX)]:
        assert name in named, name
