"""A run as tests render it: everything fixed, so that what comes out is too."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from strongroom.cluster.kubernetes.render import Placement, Rendered, Start, render
from strongroom.cluster.shapes import SimulatedShape
from strongroom.wire.descriptor import ServiceAddress, Sizes

FOLDER: Final = Path(__file__).parents[2] / "golden" / "kubernetes"
RUN_ID: Final = "0123456789abcdef" * 2
KEY_SERVICE: Final = "c" * 64
IMAGE: Final = "registry.example/strongroom/spark@sha256:" + "5" * 64
_CERTIFICATE: Final = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n"
START: Final = Start(
    run_id=RUN_ID,
    application_name="report.py",
    application="a" * 64,
    ticket="eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJl",
    shape=SimulatedShape(),
    attestation_service=ServiceAddress(
        url="https://attestation-service.strongroom.svc:8443", certificate_pem=_CERTIFICATE
    ),
    key_services={
        KEY_SERVICE: ServiceAddress(url="https://key-service.strongroom.svc:8443", certificate_pem=_CERTIFICATE)
    },
    vaults={},
    storage={"report": "file:///data/report", "trips": "file:///data/trips"},
    sizes=Sizes(driver_memory_mb=1024, executor_memory_mb=2048, executor_cores=2, executors=3),
)
PLACEMENT: Final = Placement(
    namespace="analysts",
    driver={"spark.kubernetes.container.image": IMAGE},
    pods={"spark.kubernetes.container.image": IMAGE},
)
PACKAGE: Final = (b"the first part", b"the second part")
OWN_TEMPLATE: Final[Mapping[str, Any]] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"labels": {"team": "taxis"}, "annotations": {"note": "nightly"}},
    "spec": {
        "nodeSelector": {"disk": "fast"},
        "priorityClassName": "batch",
        "runtimeClassName": "kata-cc",
        "securityContext": {"supplementalGroups": [2000]},
        "tolerations": [{"key": "tee", "operator": "Exists"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "taxis"}}],
        "containers": [
            {
                "name": "spark",
                "resources": {"limits": {"sgx.intel.com/epc": "64Mi"}},
                "volumeMounts": [{"name": "data", "mountPath": "/data"}],
            }
        ],
    },
}


def rendered(*, start: Start = START, gated: bool = True, **placement: Any) -> Rendered:
    """A rendered run; with another placement where a field is given."""
    return render(start, replace(PLACEMENT, **placement), package=PACKAGE, gated=gated)
