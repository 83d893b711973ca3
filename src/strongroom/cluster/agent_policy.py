"""What the Kata agent in a pod of a TEE of its own may start: Strongroom's agent, and nothing else.

The policy goes into the initdata that the pod is launched with (`attestation.evidence.initdata`), so whoever edits it
gets another digest in the evidence. It names its image in the one line that owners can trust by itself.

Source: Kata Containers, "Kata Agent Policy".
"""

import json
import re
from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from strongroom.base.errors import FormatError
from strongroom.wire.pod import DRIVER_KEY_ENV, MEMORY_FOLDER, PACKAGE_FOLDER, POD_NAME_ENV, RUN_FOLDER, TOKEN_FOLDER

AGENT_COMMAND: Final = ("/usr/local/bin/strongroom-agent", "--pod")
TSM_FOLDER: Final = "/sys/kernel/config/tsm/report"
"""Where the guest's kernel is asked for quotes (see `attestation.attester.tsm`)."""

IMAGE_VARIABLES: Final = ("LANG=C.UTF-8", "PATH=/usr/local/bin:/usr/bin", "PYTHONDONTWRITEBYTECODE=1", "TZ=UTC")
"""What the image of runs sets itself (`deploy/images`)."""
_MOUNTED_BY_SPARK: Final = "/opt/spark/conf"
"""Where Spark's submission client mounts the driver's settings. The agent reads nothing of them."""

_HOST_FILES: Final = (
    "/dev/termination-log",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/resolv.conf",
    _MOUNTED_BY_SPARK,
    RUN_FOLDER,
    PACKAGE_FOLDER,
    TOKEN_FOLDER,
    "/var/run/secrets/kubernetes.io/serviceaccount",
)
_HOST_VARIABLES: Final = (
    "HOSTNAME",
    "SPARK_APPLICATION_ID",
    "SPARK_CONF_DIR",
    "SPARK_DRIVER_BIND_ADDRESS",
    "SPARK_DRIVER_POD_IP",
    "SPARK_DRIVER_URL",
    "SPARK_EXECUTOR_CORES",
    "SPARK_EXECUTOR_DIRS",
    "SPARK_EXECUTOR_ID",
    "SPARK_EXECUTOR_MEMORY",
    "SPARK_EXECUTOR_POD_IP",
    "SPARK_EXECUTOR_POD_NAME",
    "SPARK_LOCAL_DIRS",
    "SPARK_RESOURCE_PROFILE_ID",
    "SPARK_USER",
    DRIVER_KEY_ENV,
    POD_NAME_ENV,
)
"""What Kubernetes, Spark and the submitter put into the environment. None of it loads code: `LD_PRELOAD`,
`PYTHONPATH` and the like are not among them, and the Kata agent refuses a container that has them."""
_VARIABLE_PATTERNS: Final = (
    *(f"^{name}=" for name in _HOST_VARIABLES),
    "^SPARK_JAVA_OPT_[0-9]+=",
    # Addresses of services, for programs that do not ask the DNS.
    "^[A-Z][A-Z0-9_]*_SERVICE_(HOST|PORT)(_[A-Z0-9_]+)?=[0-9a-f.:]+$",
    "^[A-Z][A-Z0-9_]*_PORT(_[0-9]+_(TCP|UDP)(_(PROTO|PORT|ADDR))?)?=[0-9a-z.:/]+$",
)

_IMAGE: Final = re.compile(r"[a-z0-9][a-z0-9._:/-]{0,254}@sha256:[0-9a-f]{64}")


def agent_policy(
    image: str,
    *,
    environment: Sequence[str] = IMAGE_VARIABLES,
    storage: Sequence[str] = (),
    user: int = 1000,
    with_tsm: bool = True,
) -> str:
    """Return a policy (Rego) under which the Kata agent starts Strongroom's agent out of one image, and nothing else.

    Args:
        image: The image's reference, by digest (`NAME@sha256:…`). The digest is what counts.
        environment: `NAME=VALUE` of the variables that the image itself sets; each must stand there exactly so.
        storage: Folders in the container at which datasets' storage is mounted.
        user: The user that the agent runs as.
        with_tsm: Whether the guest's own folder for quotes may be mounted (see `TSM_FOLDER`).

    Raises:
        FormatError: The image is named by no digest: a tag can mean another image tomorrow.
    """
    if not _IMAGE.fullmatch(image):
        raise FormatError(
            f"the image {image} is not named by its digest", action="name it in lower case: NAME@sha256:DIGEST"
        )
    data = {
        "command": list(AGENT_COMMAND),
        "environment": sorted(environment),
        "environment_patterns": list(_VARIABLE_PATTERNS),
        "guest_folders": [TSM_FOLDER] if with_tsm else [],
        "host_files": sorted({*_HOST_FILES, *storage}),
        "memory": [MEMORY_FOLDER],
        "roles": ["driver", "executor"],
        "users": [user],
    }
    rules = files("strongroom.cluster").joinpath("agent_policy.rego").read_text(encoding="utf-8")
    return f'{rules}\nstrongroom_image := "{image}"\n\npolicy_data := {json.dumps(data, indent=2)}\n'
