"""Volumes on request: a folder of the node for each claim of the default storage class."""

from typing import Any, Final

from tests.support.kubernetes.site import NODE

CLASS: Final = "strongroom-e2e"
_PROVISIONER: Final = "strongroom.example/folders"


def storage_class() -> dict[str, Any]:
    """Return the default storage class."""
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": CLASS, "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": _PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "Immediate",
    }


def wants_volume(claim: dict[str, Any]) -> bool:
    """Return whether a claim waits for a volume of the class."""
    return (
        claim["spec"].get("storageClassName") == CLASS
        and not claim["spec"].get("volumeName")
        and claim.get("status", {}).get("phase", "Pending") == "Pending"
        and "deletionTimestamp" not in claim["metadata"]
    )


def volume_name(claim: dict[str, Any]) -> str:
    return f"pvc-{claim['metadata']['uid']}"


def volume_for(claim: dict[str, Any], folder: str) -> dict[str, Any]:
    """Return the volume for a claim.

    Args:
        claim: The claim.
        folder: The folder, which is there already.
    """
    metadata = claim["metadata"]
    hostname = {"key": "kubernetes.io/hostname", "operator": "In", "values": [NODE]}
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": volume_name(claim),
            "annotations": {"pv.kubernetes.io/provisioned-by": _PROVISIONER},
        },
        "spec": {
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
            "accessModes": claim["spec"]["accessModes"],
            "persistentVolumeReclaimPolicy": "Delete",
            "storageClassName": CLASS,
            "claimRef": {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
            "local": {"path": folder},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [hostname]}]}},
        },
    }


def is_released(volume: dict[str, Any]) -> bool:
    """Return whether a volume's claim is gone, and its folder should go as well."""
    return (
        volume["spec"].get("storageClassName") == CLASS
        and volume["spec"].get("persistentVolumeReclaimPolicy") == "Delete"
        and volume.get("status", {}).get("phase") == "Released"
    )
