"""What the cluster's parts are told, where a mistake would not show at once."""

import json
import tomllib
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from tests.support.kubernetes.certificates import make_certificates
from tests.support.kubernetes.configuration import PAUSE_IMAGE, components, files
from tests.support.kubernetes.site import Site, default_site, second_site, state_folder


@pytest.fixture
def site(tmp_path: Path) -> Site:
    state = tmp_path / 'a "folder"'
    state.mkdir()
    return Site(name="e2e", link="sr", number=0, state=state, run=state / "run", store=state / "store")


def test_files_are_what_their_readers_read(site: Site) -> None:
    rendered = files(site, plugins=Path("/plugins"))

    containerd = tomllib.loads(rendered["containerd.toml"])
    cri = containerd["plugins"]["io.containerd.grpc.v1.cri"]
    assert containerd["root"] == str(site.store)
    assert cri["sandbox_image"] == PAUSE_IMAGE
    assert cri["cni"] == {"bin_dir": "/plugins", "conf_dir": str(site.run / "cni")}
    assert cri["containerd"]["runtimes"]["runc"]["options"] == {"SystemdCgroup": False}
    for name in ("etcd.json", "kubelet.json", "cni/10-strongroom-e2e.conflist"):
        assert json.loads(rendered[name])


def test_only_what_needs_no_api_server_starts_before_it(site: Site) -> None:
    first = [part.name for part in components(site, box=Path("/box")) if not part.after_api]
    assert first == ["etcd", "containerd", "kube-apiserver"]


def test_a_site_survives_the_way_to_another_process(site: Site) -> None:
    assert Site.from_json(site.to_json()) == site


def test_two_sites_share_nothing_that_they_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STRONGROOM_E2E_DIR", str(tmp_path))
    sites = default_site(), default_site(1), default_site(2), second_site()
    for name in ("name", "link", "run", "store", "lock", "link_network", "pod_network", "node_address", "last_logs"):
        assert len({getattr(each, name) for each in sites}) == len(sites), name
    assert {each.state for each in sites} == {tmp_path}


def test_state_lies_in_the_users_cache_unless_said_otherwise(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("STRONGROOM_E2E_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "strongroom-e2e"
    monkeypatch.setenv("STRONGROOM_E2E_DIR", str(tmp_path / "own"))
    assert state_folder() == tmp_path / "own"


def test_certificates_are_the_authoritys_and_secrets_are_the_owners_alone(site: Site) -> None:
    make_certificates(site)

    authority = x509.load_pem_x509_certificate((site.certificates / "ca.crt").read_bytes())
    for path in sorted(site.certificates.glob("*.crt")):
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.verify_directly_issued_by(authority)
        key = load_pem_private_key(path.with_suffix(".key").read_bytes(), None)
        assert key.public_key() == certificate.public_key()
    assert {path.stat().st_mode & 0o077 for path in site.certificates.iterdir()} == {0}
    config = json.loads((site.certificates / "admin.kubeconfig").read_text())
    assert config["clusters"][0]["cluster"]["server"] == site.api
