import os
from pathlib import Path
from typing import Any

import pytest

from strongroom.base.errors import ConfigurationError, NotFoundError, RefusedError
from strongroom.cluster.kubernetes.access import Access, open_access
from strongroom.cluster.kubernetes.documents import yaml_text

SUBMISSION = "spark.kubernetes.authenticate.submission."
SERVER = "https://10.0.0.1:6443"


def kubeconfig(path: Path, *, current: str = "prod", servers: dict[str, str] | None = None) -> Path:
    """A kubeconfig with a context for each server."""
    servers = {"prod": SERVER, "test": "https://10.0.0.2:6443"} if servers is None else servers
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": current,
        "clusters": [{"name": f"c-{name}", "cluster": {"server": url}} for name, url in servers.items()],
        "contexts": [{"name": name, "context": {"cluster": f"c-{name}", "user": f"u-{name}"}} for name in servers],
        "users": [{"name": f"u-{name}", "user": {"token": f"token-of-{name}"}} for name in servers],
    }
    path.write_text(yaml_text([document]))
    return path


def opened(master: str, file: Path | None = None, **settings: str) -> Access:
    variables = {"HOME": "/nowhere", "PATH": "/bin", "SECRET": "s3cret"}
    if file is not None:
        variables["KUBECONFIG"] = str(file)
    named = {f"{SUBMISSION}{name}": value for name, value in settings.items() if name != "context"}
    if "context" in settings:
        named["spark.kubernetes.context"] = settings["context"]
    return open_access(master, named, environment=variables)


def test_a_context_is_a_cluster_and_its_credentials(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config")
    access = opened("k8s://test", file)

    assert access.server == "https://10.0.0.2:6443"
    assert access.spark == {"spark.kubernetes.context": "test"}
    assert access.environment["KUBECONFIG"] == str(file)
    assert "token-of-test" in str(access.configuration.api_key)


@pytest.mark.parametrize("master", [f"k8s://{SERVER}", f"k8s://{SERVER}/", "k8s://10.0.0.1:6443"])
def test_an_address_takes_the_context_that_has_it(tmp_path: Path, master: str) -> None:
    access = opened(master, kubeconfig(tmp_path / "config", current="test"))

    assert access.server == SERVER
    assert access.spark == {"spark.kubernetes.context": "prod"}
    assert "token-of-prod" in str(access.configuration.api_key)


def test_credentials_for_one_address_are_never_sent_to_another(tmp_path: Path) -> None:
    file = kubeconfig(tmp_path / "config")

    with pytest.raises(ConfigurationError, match=r"no credentials for https://10\.0\.0\.9:6443"):
        opened("k8s://https://10.0.0.9:6443", file)
    with pytest.raises(ConfigurationError, match=r"is for https://10\.0\.0\.2:6443, not for"):
        opened(f"k8s://{SERVER}", file, context="test")


def test_of_several_contexts_for_an_address_the_current_one_counts(tmp_path: Path) -> None:
    servers = {"ana": SERVER, "bob": SERVER}
    assert opened(f"k8s://{SERVER}", kubeconfig(tmp_path / "a", current="bob", servers=servers)).spark == {
        "spark.kubernetes.context": "bob"
    }
    unsure = kubeconfig(tmp_path / "b", current="", servers=servers)
    with pytest.raises(ConfigurationError, match="several contexts"):
        opened(f"k8s://{SERVER}", unsure)
    assert opened(f"k8s://{SERVER}", unsure, context="ana").spark == {"spark.kubernetes.context": "ana"}


def test_several_kubeconfigs_are_one_and_the_first_counts(tmp_path: Path) -> None:
    first = kubeconfig(tmp_path / "first", servers={"prod": SERVER})
    second = kubeconfig(tmp_path / "second", servers={"prod": "https://evil:1", "more": "https://10.0.0.3:1"})
    both = Path(f"{first}{os.pathsep}{second}")

    assert opened("k8s://prod", both).server == SERVER
    assert opened("k8s://more", both).server == "https://10.0.0.3:1"


def test_files_with_credentials_are_spelled_as_spark_spells_them(tmp_path: Path) -> None:
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("s3cret")
    authority.write_text("")
    access = opened(f"k8s://{SERVER}", oauthTokenFile=str(token), caCertFile=str(authority))

    assert access.token_file == token
    assert access.configuration.ssl_ca_cert == str(authority)
    assert access.configuration.verify_ssl is True
    assert access.spark == {f"{SUBMISSION}oauthTokenFile": str(token), f"{SUBMISSION}caCertFile": str(authority)}
    assert access.environment["KUBECONFIG"] == os.devnull
    assert "s3cret" not in repr(access) + str(access.spark) + str(access.environment)


def test_spark_inherits_no_more_than_it_needs(tmp_path: Path) -> None:
    access = opened("k8s://prod", kubeconfig(tmp_path / "config"))

    assert access.environment.keys() == {"HOME", "PATH", "KUBECONFIG"}
    assert "token-of-prod" not in repr(access)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="there is no file"):
        opened(f"k8s://{SERVER}", oauthTokenFile=str(tmp_path / "none"))


def test_a_context_and_files_contradict_each_other(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    with pytest.raises(ConfigurationError, match="is a context of the kubeconfig"):
        opened("k8s://prod", kubeconfig(tmp_path / "config"), oauthTokenFile=str(token))


@pytest.mark.parametrize("master", ["k8s://no-such-context", "k8s://ftp://x:1", "k8s://https://"])
def test_what_is_no_cluster_says_which_there_are(tmp_path: Path, master: str) -> None:
    with pytest.raises(NotFoundError, match="neither an address nor a context") as caught:
        opened(master, kubeconfig(tmp_path / "config"))
    assert "prod, test" in caught.value.action


def test_without_tls_only_this_machine_is_spoken_to(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("x")
    assert opened("k8s://http://127.0.0.1:8001", oauthTokenFile=str(token)).server == "http://127.0.0.1:8001"
    with pytest.raises(RefusedError, match="without TLS"):
        opened("k8s://http://10.0.0.1:8080", oauthTokenFile=str(token))


def test_a_kubeconfig_that_is_none_says_so(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text("a: [")
    with pytest.raises(ConfigurationError, match="is not YAML"):
        opened("k8s://prod", file)
