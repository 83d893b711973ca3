"""What the cluster's parts are told: configuration files and command lines, all of them rendered here."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.kubernetes.site import DOMAIN, NODE, POD_IMAGE, SERVICE_NETWORK, Site

ETCD: Final = "http://127.0.0.1:2379"
CONTAINERD_SOCKET: Final = "/run/containerd/containerd.sock"
"""In the node's mount namespace, whose /run is its own."""
PAUSE_IMAGE: Final = f"{POD_IMAGE}:e2e"
API_SERVER: Final = "kube-apiserver"


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """One process of the node.

    Attributes:
        name: What it is called, and its log.
        command: Program and arguments.
        after_api: Whether it is started only when the API server answers.
    """

    name: str
    command: tuple[str, ...]
    after_api: bool = True


def files(site: Site, *, plugins: Path) -> dict[str, str]:
    """Return the content of each configuration file, by its path below the site's folder.

    Args:
        site: The site.
        plugins: The folder of the container network plugins.
    """
    return {
        "etcd.json": _json(_etcd(site)),
        "kubelet.json": _json(_kubelet(site)),
        "containerd.toml": _containerd(site, plugins),
        "cni/10-strongroom-e2e.conflist": _json(_network(site)),
        "resolv.conf": "nameserver 127.0.0.1\n",  # the node's, where nobody answers; pods get the node services'
    }


def components(site: Site, *, box: Path) -> tuple[Component, ...]:
    """Return the node's processes in the order of their start.

    Args:
        site: The site.
        box: The program kubebox.
    """
    server = str(box)
    services = (sys.executable, "-m", "tests.support.kubernetes.node_services", site.to_json())
    containerd = Component(
        name="containerd", command=("containerd", "--config", str(site.run / "containerd.toml")), after_api=False
    )
    kubelet = Component(name="kubelet", command=(server, "kubelet", *_flags(_kubelet_flags(site))))
    if site.alone:
        return containerd, kubelet
    return (
        Component(name="etcd", command=(server, "etcd", str(site.run / "etcd.json")), after_api=False),
        containerd,
        Component(name=API_SERVER, command=(server, API_SERVER, *_flags(_api_server(site))), after_api=False),
        # It ends at once when it finds no API server.
        Component(
            name="kube-controller-manager",
            command=(server, "kube-controller-manager", *_flags(_controller_manager(site))),
        ),
        Component(name="kube-scheduler", command=(server, "kube-scheduler", *_flags(_caller(site, "scheduler")))),
        Component(name="kube-proxy", command=(server, "kube-proxy", *_flags(_proxy(site)))),
        Component(name="node-services", command=services),
        kubelet,
    )


def _etcd(site: Site) -> dict[str, Any]:
    peer = "http://127.0.0.1:2380"
    return {
        "name": "default",
        "data-dir": str(site.run / "etcd" / "data"),
        "log-level": "error",
        "listen-client-urls": ETCD,
        "advertise-client-urls": ETCD,
        "listen-peer-urls": peer,
        "initial-advertise-peer-urls": peer,
        "initial-cluster": f"default={peer}",
    }


def _api_server(site: Site) -> dict[str, str]:
    folder = site.certificates
    return {
        "etcd-servers": ETCD,
        "bind-address": "0.0.0.0",
        "advertise-address": site.node_address,
        "secure-port": "6443",
        "authorization-mode": "Node,RBAC",
        "enable-admission-plugins": "NodeRestriction",
        "allow-privileged": "true",
        "service-cluster-ip-range": SERVICE_NETWORK,
        "client-ca-file": f"{folder}/ca.crt",
        "tls-cert-file": f"{folder}/apiserver.crt",
        "tls-private-key-file": f"{folder}/apiserver.key",
        "kubelet-client-certificate": f"{folder}/apiserver-kubelet-client.crt",
        "kubelet-client-key": f"{folder}/apiserver-kubelet-client.key",
        "kubelet-certificate-authority": f"{folder}/ca.crt",
        "kubelet-preferred-address-types": "InternalIP",
        "requestheader-client-ca-file": f"{folder}/ca.crt",
        "requestheader-allowed-names": "front-proxy-client",
        "requestheader-username-headers": "X-Remote-User",
        "requestheader-group-headers": "X-Remote-Group",
        "requestheader-extra-headers-prefix": "X-Remote-Extra-",
        "proxy-client-cert-file": f"{folder}/front-proxy-client.crt",
        "proxy-client-key-file": f"{folder}/front-proxy-client.key",
        "service-account-issuer": "https://kubernetes.default.svc",
        "service-account-key-file": f"{folder}/service-accounts.pub",
        "service-account-signing-key-file": f"{folder}/service-accounts.key",
    }


def _controller_manager(site: Site) -> dict[str, str]:
    folder = site.certificates
    return {
        **_caller(site, "controller-manager"),
        "controllers": "*,-nodeipam",
        "allocate-node-cidrs": "false",
        "service-account-private-key-file": f"{folder}/service-accounts.key",
        "root-ca-file": f"{folder}/ca.crt",
        "cluster-signing-cert-file": f"{folder}/ca.crt",
        "cluster-signing-key-file": f"{folder}/ca.key",
        "use-service-account-credentials": "true",
        "kube-api-qps": "200",  # each controller asks for an account first: with the default of 20 that takes 4 s
        "kube-api-burst": "300",
        "service-cluster-ip-range": SERVICE_NETWORK,
    }


def _caller(site: Site, name: str) -> dict[str, str]:
    config = f"{site.certificates}/{name}.kubeconfig"
    return {
        "kubeconfig": config,
        "authentication-kubeconfig": config,
        "authorization-kubeconfig": config,
        "leader-elect": "false",
        "bind-address": "127.0.0.1",
    }


def _proxy(site: Site) -> dict[str, str]:
    return {
        "kubeconfig": f"{site.certificates}/proxy.kubeconfig",
        "proxy-mode": "iptables",
        "cluster-cidr": site.pod_network,
        "hostname-override": NODE,
        "bind-address": site.node_address,
        "healthz-bind-address": "127.0.0.1:10256",
        "metrics-bind-address": "127.0.0.1:10249",
        "conntrack-max-per-core": "0",  # a setting of the whole machine: it stays as it is
        "nodeport-addresses": "primary",
    }


def _kubelet_flags(site: Site) -> dict[str, str]:
    return {
        "config": f"{site.run}/kubelet.json",
        **({} if site.alone else {"kubeconfig": f"{site.certificates}/kubelet.kubeconfig"}),
        "root-dir": "/var/lib/kubelet",
        "hostname-override": NODE,
        "node-ip": site.node_address,
    }


def _kubelet(site: Site) -> dict[str, Any]:
    folder = site.certificates
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": site.node_address,
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": not site.alone},
            "x509": {"clientCAFile": f"{folder}/ca.crt"},
        },
        "authorization": {"mode": "AlwaysAllow" if site.alone else "Webhook"},
        **({"staticPodPath": str(site.pod_files)} if site.alone else {}),
        "tlsCertFile": f"{folder}/kubelet-server.crt",
        "tlsPrivateKeyFile": f"{folder}/kubelet-server.key",
        "containerRuntimeEndpoint": f"unix://{CONTAINERD_SOCKET}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{site.name}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "enforceNodeAllocatable": ["pods"],
        "clusterDomain": DOMAIN,
        "clusterDNS": [site.node_address],
        "resolvConf": f"{site.run}/resolv.conf",
        "healthzBindAddress": "127.0.0.1",
        "evictionHard": {"memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
        "imageGCHighThresholdPercent": 100,
        "maxPods": 60,
        "podPidsLimit": 4096,
        "nodeStatusUpdateFrequency": "10s",
        "serializeImagePulls": False,
    }


def _network(site: Site) -> dict[str, Any]:
    """Return the pods' network: a bridge in the node, without a way further than to the node and over its link."""
    first = site.pod_network.removesuffix("/16") + "/24"
    return {
        "cniVersion": "0.4.0",
        "name": "strongroom-e2e",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "mtu": 1500,
                "ipam": {"type": "host-local", "ranges": [[{"subnet": first}]], "routes": [{"dst": "0.0.0.0/0"}]},
            },
            {"type": "portmap", "capabilities": {"portMappings": True}},
        ],
    }


def _containerd(site: Site, plugins: Path) -> str:
    """Return containerd's configuration; a JSON string is a TOML string as well."""
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return "\n".join(
        [
            "version = 2",
            f"root = {json.dumps(str(site.store))}",
            f"state = {json.dumps(str(site.run / 'containerd-state'))}",
            "[grpc]",
            f"address = {json.dumps(CONTAINERD_SOCKET)}",
            '[plugins."io.containerd.internal.v1.opt"]',
            f"path = {json.dumps(str(site.store / 'opt'))}",
            f"{cri}]",
            f"sandbox_image = {json.dumps(PAUSE_IMAGE)}",
            "disable_apparmor = true",
            # Without CAP_SYS_RESOURCE the kernel refuses a negative score, and runc ends.
            "restrict_oom_score_adj = true",
            f"{cri}.cni]",
            f"bin_dir = {json.dumps(str(plugins))}",
            f"conf_dir = {json.dumps(str(site.run / 'cni'))}",
            f"{cri}.containerd]",
            'snapshotter = "overlayfs"',
            'default_runtime_name = "runc"',
            f"{cri}.containerd.runtimes.runc]",
            'runtime_type = "io.containerd.runc.v2"',
            f"{cri}.containerd.runtimes.runc.options]",
            "SystemdCgroup = false",  # and runc, not crun, where cgroups are v1 and v2 mixed
            "",
        ]
    )


def _flags(values: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"--{name}={value}" for name, value in values.items())


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1) + "\n"
