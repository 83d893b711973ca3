"""The shapes as they are rendered: for golden files, and for a real API server."""

import base64
import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strongroom.base.encoding import from_b64url
from strongroom.cluster.shapes import INITDATA_ANNOTATION, Launch, Overlay, apply_overlay, parse_shape, render_overlay
from strongroom.wire.runtime_data import Role

FOLDER = Path(__file__).parents[1] / "golden" / "shapes"
APPLICATION = "3f9c" * 16
IMAGE = "registry.example/strongroom/spark@sha256:" + "1f" * 32
LAUNCH = Launch(application=APPLICATION, image=IMAGE)
MICROSOFT_POLICY = 'package policy\n\nimport future.keywords.every\n\napi_version := "0.10.0"\n\ncontainers := []\n'
CONTAINERS: dict[Role, str] = {"driver": "spark-kubernetes-driver", "executor": "spark-kubernetes-executor"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A shape with options, as the command line names it."""

    shape: str
    options: dict[str, str] = field(default_factory=dict)
    role: Role = "driver"

    def overlay(self) -> Overlay:
        return render_overlay(parse_shape(self.shape, self.options), LAUNCH, role=self.role)


CASES: dict[str, Case] = {
    "simulated": Case(shape="simulated"),
    "simulated-tdx": Case(shape="simulated", options={"tee": "tdx"}),
    "confidential-node-aks": Case(
        shape="confidential-node", options={"tee": "snp", "resource": "squat.ai/tpm", "group": "109"}
    ),
    "confidential-node-sev-guest": Case(
        shape="confidential-node",
        options={
            "tee": "snp",
            "device": "sev-guest",
            "resource": "squat.ai/sev-guest",
            "node-labels": "example.com/snp-guest=true",
        },
    ),
    "confidential-node-tsm": Case(
        shape="confidential-node",
        options={
            "tee": "tdx",
            "device": "tsm",
            "node-labels": "example.com/tdx-guest=true,example.com/pool=runs",
            "tolerated": "example.com/confidential",
        },
    ),
    "pod-kata-qemu-snp": Case(
        shape="pod", options={"runtime": "kata-qemu-snp", "environment": "PATH=/usr/bin:/bin", "storage": "/data"}
    ),
    "pod-kata-qemu-tdx": Case(shape="pod", options={"runtime": "kata-qemu-tdx"}, role="executor"),
    "pod-kata-remote": Case(shape="pod", options={"runtime": "kata-remote", "tee": "snp"}),
    "pod-kata-cc-isolation": Case(shape="pod", options={"runtime": "kata-cc-isolation", "policy": MICROSOFT_POLICY}),
    "pod-aci": Case(shape="pod", options={"runtime": "aci", "policy": MICROSOFT_POLICY}),
    "sgx-gramine": Case(shape="sgx", options={"flavour": "gramine", "epc-mib": "16384"}),
    "sgx-gramine-executor": Case(shape="sgx", options={"flavour": "gramine", "aesm": "false"}, role="executor"),
    "sgx-occlum": Case(shape="sgx", options={"flavour": "occlum"}),
    "sgx-occlum-azure": Case(shape="sgx", options={"flavour": "occlum", "plugin": "azure"}),
}
"""Every shape, with each choice of its options at least once."""


def render(name: str) -> str:
    """Return a case as its golden file has it: compressed initdata is written out, as any zlib may compress it."""
    case = CASES[name]
    document: Any = json.loads(json.dumps(case.overlay().to_json()))
    annotations = document["pod"]["metadata"].get("annotations", {})
    if INITDATA_ANNOTATION in annotations:
        text = gzip.decompress(base64.b64decode(annotations[INITDATA_ANNOTATION])).decode()
        annotations[INITDATA_ANNOTATION] = text.split("\n")
        document["device"]["initdata"] = (
            "(the same)" if from_b64url(document["device"]["initdata"]) == text.encode() else "(another)"
        )
    return json.dumps({"shape": case.shape, "role": case.role, "options": case.options, **document}, indent=2) + "\n"


def pod(name: str, *, namespace: str) -> dict[str, Any]:
    """Return a whole Pod of a case: a template as the submitter's, with the overlay merged in."""
    case = CASES[name]
    container = CONTAINERS[case.role]
    template = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"shape-{name}", "namespace": namespace, "labels": {"strongroom.run": "0123456789ab"}},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "fsGroup": 1000},
            "containers": [
                {
                    "name": container,
                    "image": IMAGE,
                    "command": ["/usr/local/bin/strongroom-agent", "--pod"],
                    "args": [case.role],
                    "resources": {"requests": {"cpu": "200m", "memory": "1Gi"}, "limits": {"memory": "1Gi"}},
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "spark-local-dir-1", "mountPath": "/strongroom/memory"}],
                }
            ],
            "volumes": [{"name": "spark-local-dir-1", "emptyDir": {"medium": "Memory"}}],
        },
    }
    return apply_overlay(template, case.overlay(), container=container)
