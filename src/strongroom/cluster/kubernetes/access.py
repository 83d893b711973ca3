"""Which cluster a run goes to, and by which credentials: as `--master` and Spark's own options name them.

The control plane is not trusted with data or keys; credentials only say what this person may ask it for. None of them
is ever in an argument, an object of the cluster or an environment variable: Spark's submission client reads the same
files.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from strongroom.base.errors import ConfigurationError, NotFoundError, RefusedError
from strongroom.base.workflow import Step
from strongroom.cluster.kubernetes.documents import parse_yaml
from strongroom.cluster.kubernetes.settings import ACCESS_PREFIX, CONTEXT

_SCHEME: Final = "k8s://"
_HOST_AND_PORT: Final = re.compile(r"[A-Za-z0-9.\-]+:[0-9]{1,5}|\[[0-9A-Fa-f:]+\]:[0-9]{1,5}")
_LOOPBACK: Final = frozenset({"127.0.0.1", "::1", "localhost"})
_SERVICE_ACCOUNT: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_INSTALL: Final = "install Strongroom with its extra: pip install strongroom[kubernetes]"
_PASSED_ON: Final = frozenset(
    {
        *("PATH", "HOME", "LANG", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY", "https_proxy", "http_proxy", "no_proxy"),
        *("AWS_CONFIG_FILE", "AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AZURE_CONFIG_DIR", "CLOUDSDK_CONFIG"),
    }
)
"""Variables that Spark's submission client inherits: how to reach the API, and where credential plugins of a kubeconfig
find their configuration. None of them holds a secret."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """A cluster, and how to speak to its API.

    Attributes:
        server: Address of the API.
        configuration: The official client's configuration, credentials included.
        spark: The same credentials as Spark's submission client reads them: names of files and of a context.
        environment: The environment of Spark's submission client.
        token_file: A file with the bearer token, which may be renewed; None where the configuration has credentials.
    """

    server: str
    configuration: Any = field(repr=False)
    spark: Mapping[str, str]
    environment: Mapping[str, str] = field(repr=False)
    token_file: Path | None = None


def open_access(master: str, settings: Mapping[str, str], *, environment: Mapping[str, str] | None = None) -> Access:
    """Find a cluster and this person's credentials for it.

    1. `k8s://CONTEXT` is a context of the kubeconfig, `k8s://[https://]HOST:PORT` an API's address.
    2. For an address, `spark.kubernetes.authenticate.submission.*` names files with credentials; without them, the
       context whose cluster has this very address (or the one that spark.kubernetes.context names); without that, the
       service account of the pod that this runs in. Credentials for one address are never sent to another.

    Args:
        master: As given.
        settings: Spark's settings about the connection (`settings.SortedSettings.access`).
        environment: The process's own if None: KUBECONFIG, HOME, proxies.

    Raises:
        ConfigurationError: No such context, no credentials, or a file is missing.
        RefusedError: An address without TLS that is not this machine.
    """
    variables = os.environ if environment is None else environment
    kubeconfig = _Kubeconfig.read(variables)
    files = {name: value for name, value in settings.items() if name.startswith(ACCESS_PREFIX)}
    target = master.removeprefix(_SCHEME)
    if target in kubeconfig.servers and "://" not in target:
        if files:
            raise ConfigurationError(
                f"{master} is a context of the kubeconfig, and files with credentials are named as well",
                action="name the cluster's address, or leave these settings out: " + ", ".join(sorted(files)),
                step=Step.SUBMIT,
            )
        return _by_context(target, kubeconfig, variables)
    server = _address(target, master=master, kubeconfig=kubeconfig)
    if files:
        return _by_files(server, files, variables)
    context = settings.get(CONTEXT) or kubeconfig.context_for(server)
    if context is not None:
        return _by_named_context(server, context, kubeconfig, variables)
    if (_SERVICE_ACCOUNT / "token").is_file():
        inside = {
            f"{ACCESS_PREFIX}oauthTokenFile": str(_SERVICE_ACCOUNT / "token"),
            f"{ACCESS_PREFIX}caCertFile": str(_SERVICE_ACCOUNT / "ca.crt"),
        }
        return _by_files(server, inside, variables)
    raise ConfigurationError(
        f"there are no credentials for {server}",
        action=f"name files with them, {ACCESS_PREFIX}oauthTokenFile and {ACCESS_PREFIX}caCertFile, or add a context"
        " with this address to the kubeconfig",
        step=Step.SUBMIT,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kubeconfig:
    """What one or several kubeconfig files say of contexts; credentials are left to the clients."""

    path: str
    servers: Mapping[str, str]
    current: str | None

    @classmethod
    def read(cls, variables: Mapping[str, str]) -> "_Kubeconfig":
        home = variables.get("HOME", "")
        path = variables.get("KUBECONFIG") or (f"{home}/.kube/config" if home else "")
        clusters: dict[str, str] = {}
        contexts: dict[str, str] = {}
        current: str | None = None
        for file in (Path(each) for each in path.split(os.pathsep) if each):
            if not file.is_file():
                continue
            content = parse_yaml(file.read_bytes(), what=f"the kubeconfig {file}")
            for entry in _entries(content, "clusters"):  # of one name, the first one counts
                clusters.setdefault(entry["name"], str(entry.get("cluster", {}).get("server", "")).rstrip("/"))
            for entry in _entries(content, "contexts"):
                contexts.setdefault(entry["name"], str(entry.get("context", {}).get("cluster", "")))
            current = current or content.get("current-context") or None
        servers = {name: clusters.get(cluster, "") for name, cluster in contexts.items()}
        return cls(path=path, servers=servers, current=current)

    def context_for(self, server: str) -> str | None:
        """Return the context for an address: the current one if it has it, else the only one that does.

        Raises:
            ConfigurationError: Several have it.
        """
        found = [name for name, each in self.servers.items() if each == server]
        if self.current in found:
            return self.current
        if len(found) > 1:
            raise ConfigurationError(
                f"several contexts of the kubeconfig have the address {server}: {', '.join(found)}",
                action=f"name one of them: --master k8s://CONTEXT, or --conf {CONTEXT}=CONTEXT",
                step=Step.SUBMIT,
            )
        return found[0] if found else None


def _entries(content: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = content.get(name) or []
    return [each for each in found if isinstance(each, dict) and isinstance(each.get("name"), str)]


def _address(target: str, *, master: str, kubeconfig: _Kubeconfig) -> str:
    url = f"https://{target}" if _HOST_AND_PORT.fullmatch(target) else target.rstrip("/")
    parts = urlsplit(url)
    if parts.scheme not in {"https", "http"} or not parts.hostname:
        known = ", ".join(kubeconfig.servers) or "none"
        raise NotFoundError(
            f"--master {master} is neither an address nor a context of the kubeconfig",
            action=f"give k8s://https://HOST:PORT, or k8s://CONTEXT; contexts there are: {known}",
            step=Step.SUBMIT,
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        raise RefusedError(
            f"{url} is an address without TLS: credentials would be readable on the way",
            action="give its https address, or run: kubectl proxy",
            step=Step.SUBMIT,
        )
    return url


def _by_context(context: str, kubeconfig: _Kubeconfig, variables: Mapping[str, str]) -> Access:
    client, config = _official_client()
    configuration = client.Configuration()
    try:
        config.load_kube_config(
            config_file=kubeconfig.path,
            context=context,
            client_configuration=configuration,
            persist_config=False,
        )
    except config.ConfigException as error:
        raise ConfigurationError(
            f"the kubeconfig's context {context} cannot be used: {error}",
            action="try it: kubectl --context CONTEXT get pods",
            step=Step.SUBMIT,
        ) from error
    return Access(
        server=kubeconfig.servers[context],
        configuration=configuration,
        spark={CONTEXT: context},
        environment={**_inherited(variables), "KUBECONFIG": kubeconfig.path},
    )


def _by_named_context(server: str, context: str, kubeconfig: _Kubeconfig, variables: Mapping[str, str]) -> Access:
    found = kubeconfig.servers.get(context)
    if found != server:
        raise ConfigurationError(
            f"the kubeconfig's context {context} is for {found or 'no cluster'}, not for {server}",
            action=f"leave the address to the context: --master k8s://{context}",
            step=Step.SUBMIT,
        )
    return _by_context(context, kubeconfig, variables)


def _by_files(server: str, files: Mapping[str, str], variables: Mapping[str, str]) -> Access:
    named = {name.removeprefix(ACCESS_PREFIX): Path(value).expanduser().absolute() for name, value in files.items()}
    if missing := [path for path in named.values() if not path.is_file()]:
        raise ConfigurationError(f"there is no file {missing[0]}", action="check the path", step=Step.SUBMIT)
    client, _ = _official_client()
    configuration = client.Configuration()
    configuration.host = server
    configuration.ssl_ca_cert = str(named["caCertFile"]) if "caCertFile" in named else None
    configuration.cert_file = str(named["clientCertFile"]) if "clientCertFile" in named else None
    configuration.key_file = str(named["clientKeyFile"]) if "clientKeyFile" in named else None
    return Access(
        server=server,
        configuration=configuration,
        spark={f"{ACCESS_PREFIX}{name}": str(path) for name, path in named.items()},
        # no kubeconfig: what it says of another cluster is not for this one
        environment={**_inherited(variables), "KUBECONFIG": os.devnull},
        token_file=named.get("oauthTokenFile"),
    )


def _inherited(variables: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in variables.items() if name in _PASSED_ON}


def _official_client() -> tuple[Any, Any]:
    try:
        from kubernetes import client, config  # noqa: PLC0415 - comes with the extra, and is slow to load
    except ImportError as error:
        raise ConfigurationError("the Kubernetes client is not installed", action=_INSTALL) from error
    return client, config
