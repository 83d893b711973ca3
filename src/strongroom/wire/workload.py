"""Who a pod is in its cluster's words: the service account that it runs as, and which pod it is.

The cluster signs that, not the hardware: whoever administers the cluster says it. So it never replaces evidence.
"""

from typing import Annotated

from pydantic import StringConstraints
from typing_extensions import override

from strongroom.wire.model import Message, Url

ServiceAccount = Annotated[
    str,
    StringConstraints(
        pattern=r"^system:serviceaccount:[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?:[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z"
    ),
]
"""A service account as tokens name it (`sub`): `system:serviceaccount:NAMESPACE:NAME`."""
PodName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?\Z")]
PodUid = Annotated[str, StringConstraints(pattern=r"^[0-9A-Za-z-]{1,64}\Z")]


class Workload(Message):
    """A pod, as its service account's token names it.

    Attributes:
        issuer: The cluster, as its tokens name it (`iss`).
        subject: The service account.
        pod: The pod's name.
        pod_uid: Its uid: a pod of the same name that comes later has another.
    """

    issuer: Url
    subject: ServiceAccount
    pod: PodName
    pod_uid: PodUid

    @override
    def __str__(self) -> str:
        return f"{self.subject} of {self.issuer}"
