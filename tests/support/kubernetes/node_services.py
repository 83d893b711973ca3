"""What a cluster has beside Kubernetes, in one process of the node: names of services, and volumes on request."""

import shutil
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress

from tests.support.kubernetes import volumes
from tests.support.kubernetes.api import Api, Objects
from tests.support.kubernetes.dns import answer, resolve
from tests.support.kubernetes.site import Site

from strongroom.base.errors import NotFoundError, UnavailableError

_CLASSES = "/apis/storage.k8s.io/v1/storageclasses"
_VOLUMES = "/api/v1/persistentvolumes"


def main() -> None:
    """Serve until somebody ends this process."""
    site = Site.from_json(sys.argv[1])
    api = Api(site.api, site.certificates, "node-services")
    services: Objects = {}
    slices: Objects = {}
    _follow(api, "/api/v1/services", lambda objects: _replace(services, objects))
    _follow(api, "/apis/discovery.k8s.io/v1/endpointslices", lambda objects: _replace(slices, objects))
    _follow(api, "/api/v1/persistentvolumeclaims", lambda objects: _provide(api, site, objects))
    _follow(api, _VOLUMES, lambda objects: _take_back(api, site, objects))
    _serve_names(site, lambda name: resolve(name, services, slices))


def _follow(api: Api, path: str, changed: Callable[[Objects], None]) -> None:
    threading.Thread(target=api.follow, args=(path, changed), name=path, daemon=True).start()


def _replace(kept: Objects, objects: Objects) -> None:
    kept.update(objects)
    for key in kept.keys() - objects.keys():
        del kept[key]


def _provide(api: Api, site: Site, claims: Objects) -> None:
    """Make the storage class, and a volume for each claim that waits for one."""
    try:
        api.call("GET", f"{_CLASSES}/{volumes.CLASS}")
    except NotFoundError:
        api.call("POST", _CLASSES, volumes.storage_class())
    for claim in filter(volumes.wants_volume, claims.values()):
        folder = site.run / "volumes" / volumes.volume_name(claim)
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(UnavailableError):  # it is there already
            api.call("POST", _VOLUMES, volumes.volume_for(claim, str(folder)))


def _take_back(api: Api, site: Site, found: Objects) -> None:
    for volume in filter(volumes.is_released, found.values()):
        name = volume["metadata"]["name"]
        shutil.rmtree(site.run / "volumes" / name, ignore_errors=True)
        with suppress(NotFoundError):
            api.call("DELETE", f"{_VOLUMES}/{name}")


def _serve_names(site: Site, resolved: Callable[[str], list[str] | None]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind((site.node_address, 53))
        while True:
            query, peer = server.recvfrom(4096)
            said = answer(query, resolved)
            if said is not None:
                server.sendto(said, peer)


if __name__ == "__main__":
    main()
