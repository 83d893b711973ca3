"""Names of services: the addresses of `cluster.local` out of Services and EndpointSlices, and no others.

A stand-in for CoreDNS. A service with a cluster address answers with it, a headless one with its endpoints' addresses.
It forwards nothing: every other name does not exist.
"""

import socket
import struct
from collections.abc import Callable, Sequence

from tests.support.kubernetes.api import Objects
from tests.support.kubernetes.site import DOMAIN

_A, _IN = 1, 1
_LIFE_S = 2
_MOST_ADDRESSES = 25
"""As many as fit an answer over UDP."""
_NO_SUCH_NAME = 3
_AUTHORITATIVE_ANSWER = 0x8580
_LABEL_LIMIT = 64


def resolve(name: str, services: Objects, slices: Objects) -> list[str] | None:
    """Return the addresses of `SERVICE.NAMESPACE.svc.cluster.local` or `HOST.SERVICE.…`; None: no such name."""
    labels = name.lower().rstrip(".").split(".")
    zone = ["svc", *DOMAIN.split(".")]
    if labels[-len(zone) :] != zone or len(labels) - len(zone) not in (2, 3):
        return None
    *host, service, namespace = labels[: -len(zone)]
    found = services.get((namespace, service))
    if found is None:
        return None
    if found["spec"].get("clusterIP", "None") != "None":
        return None if host else [found["spec"]["clusterIP"]]
    addresses = _endpoints(
        namespace, service, host, slices, unready=found["spec"].get("publishNotReadyAddresses", False)
    )
    return None if host and not addresses else addresses


def answer(query: bytes, resolved: Callable[[str], Sequence[str] | None]) -> bytes | None:
    """Return the answer to a question; None when it is none.

    Args:
        query: The datagram.
        resolved: Returns the addresses of a name, or None when it does not exist.

    Source: RFC 1035, section 4.
    """
    try:
        name, end = _question(query)
        (kind,) = struct.unpack_from(">H", query, end)
    except (IndexError, UnicodeDecodeError, struct.error):
        return None
    addresses = resolved(name)
    status = _NO_SUCH_NAME if addresses is None else 0
    shown = list(addresses or ())[:_MOST_ADDRESSES] if kind == _A else []
    header = query[:2] + struct.pack(">HHHHH", _AUTHORITATIVE_ANSWER | status, 1, len(shown), 0, 0)
    records = [b"\xc0\x0c" + struct.pack(">HHIH", _A, _IN, _LIFE_S, 4) + socket.inet_aton(each) for each in shown]
    return header + query[12 : end + 4] + b"".join(records)


def _question(query: bytes) -> tuple[str, int]:
    """Return the name that is asked for, and where it ends."""
    position, labels = 12, []
    while size := query[position]:
        if size >= _LABEL_LIMIT:
            raise IndexError(position)
        labels.append(query[position + 1 : position + 1 + size].decode())
        position += size + 1
    return ".".join(labels), position + 1


def _endpoints(namespace: str, service: str, host: Sequence[str], slices: Objects, *, unready: bool) -> list[str]:
    found: list[str] = []
    for (place, _), each in list(slices.items()):
        of = each["metadata"].get("labels", {}).get("kubernetes.io/service-name")
        if place != namespace or of != service or each["addressType"] != "IPv4":
            continue
        for endpoint in each.get("endpoints") or []:
            ready = endpoint.get("conditions", {}).get("ready", True) or unready
            if ready and (not host or endpoint.get("hostname") == host[0]):
                found += endpoint["addresses"]
    return found
