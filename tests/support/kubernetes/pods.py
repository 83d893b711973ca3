"""Manifests of podbox, for tests of the cluster itself."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

RESTRICTED: Final = {
    "runAsNonRoot": True,
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}
"""A container that may do nothing special, as the pod security standard "restricted" wants it."""
PORT: Final = 8000


def pod_spec(image: str, *arguments: str, mounts: Mapping[str, str] | None = None, **more: Any) -> dict[str, Any]:
    """Return the specification of a pod with one container, which ends once.

    Args:
        image: podbox, by its digest.
        arguments: What podbox does.
        mounts: Paths in the container, by the names of volumes.
        more: Further fields of the specification.
    """
    container = {
        "name": "podbox",
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(arguments),
        "securityContext": RESTRICTED,
        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
        "volumeMounts": [{"name": name, "mountPath": path} for name, path in (mounts or {}).items()],
    }
    return {
        "containers": [container],
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
        **more,
    }


def pod(name: str, namespace: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, **metadata},
        "spec": dict(spec),
    }


def server(kind: str, name: str, namespace: str, image: str, *, replicas: int = 1) -> list[dict[str, Any]]:
    """Return a Deployment, or a StatefulSet and a headless service; its pods answer with its name and their own."""
    labels = {"app": name}
    spec = pod_spec(image, "serve", str(PORT), name)
    (container,) = spec["containers"]
    container["readinessProbe"] = {"httpGet": {"port": PORT, "path": "/"}, "periodSeconds": 1}
    del spec["restartPolicy"]
    workload: dict[str, Any] = {
        "replicas": replicas,
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": spec},
    }
    if kind == "StatefulSet":
        workload |= {"serviceName": name, "podManagementPolicy": "Parallel"}
    headless = {"clusterIP": "None"} if kind == "StatefulSet" else {}
    place = {"name": name, "namespace": namespace}
    return [
        {"apiVersion": "apps/v1", "kind": kind, "metadata": place, "spec": workload},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": place,
            "spec": {"selector": labels, "ports": [{"port": PORT}], **headless},
        },
    ]


def configuration(name: str, namespace: str, data: Mapping[str, str], **more: Any) -> dict[str, Any]:
    """Return a ConfigMap; `more` are further fields of the object."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": dict(data),
        **more,
    }


def files_of(sources: Sequence[Mapping[str, Any]], name: str = "files") -> dict[str, Any]:
    """Return a projected volume that a process without root can read."""
    return {"name": name, "projected": {"defaultMode": 0o440, "sources": list(sources)}}
