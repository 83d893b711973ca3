"""Which claims get a volume, and which volumes are taken back."""

from typing import Any

import pytest
from tests.support.kubernetes.volumes import CLASS, is_released, storage_class, volume_for, wants_volume

METADATA = {"name": "state", "namespace": "team", "uid": "u-1"}
SPEC = {
    "storageClassName": CLASS,
    "accessModes": ["ReadWriteOnce"],
    "resources": {"requests": {"storage": "1Gi"}},
}


def claim(
    *, metadata: dict[str, str] | None = None, status: dict[str, str] | None = None, **spec: Any
) -> dict[str, Any]:
    return {"metadata": {**METADATA, **(metadata or {})}, "spec": {**SPEC, **spec}, "status": status or {}}


def test_a_claim_that_waits_gets_a_volume_for_itself_alone() -> None:
    assert wants_volume(claim())
    volume = volume_for(claim(), "/folder")

    assert volume["spec"]["claimRef"]["uid"] == "u-1"
    assert volume["spec"]["local"] == {"path": "/folder"}
    assert volume["spec"]["capacity"] == {"storage": "1Gi"}
    assert volume["spec"]["storageClassName"] == storage_class()["metadata"]["name"]


@pytest.mark.parametrize(
    "other",
    [
        claim(storageClassName=""),
        claim(volumeName="there"),
        claim(status={"phase": "Bound"}),
        claim(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}),
    ],
)
def test_other_claims_get_none(other: dict[str, Any]) -> None:
    assert not wants_volume(other)


@pytest.mark.parametrize(
    ("phase", "policy", "released"),
    [("Released", "Delete", True), ("Released", "Retain", False), ("Bound", "Delete", False)],
)
def test_a_volume_goes_with_its_claim_unless_it_is_to_stay(phase: str, policy: str, released: bool) -> None:  # noqa: FBT001
    volume = volume_for(claim(), "/folder") | {"status": {"phase": phase}}
    volume["spec"]["persistentVolumeReclaimPolicy"] = policy
    assert is_released(volume) is released
