"""The chart on a real cluster: installed by Helm, verified through the network, upgraded and rolled back."""

import json
import secrets
import ssl
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from tests.support.installed_chart import RELEASE, SERVICES, InstalledChart, ServiceImage, prepared_chart, service_image
from tests.support.kubernetes.cluster import Cluster, CommandError
from tests.support.kubernetes.kubebox import Say

from strongroom.cli.owner_keys import load_signing_key
from strongroom.crypto.keys import SigningKey
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect

pytestmark = pytest.mark.timeout(1200)

PEOPLE = "name,city\nAda,London\nBlaise,Paris\n"


@pytest.fixture(scope="module")
def image(cluster: Cluster, say: Say) -> ServiceImage:
    return service_image(cluster, say=say)


@pytest.fixture(scope="module")
def chart(cluster: Cluster, image: ServiceImage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstalledChart]:
    """One replica of each service, the collateral service too; a dataset with something in it."""
    with prepared_chart(tmp_path_factory.mktemp("chart"), cluster, image, options=("--collateral",)) as made:
        made.helm("install")
        with made.reached():
            made.done("dataset", "create", "people")
            (made.root / "people.csv").write_text(PEOPLE)
            made.done("dataset", "encrypt", "people", str(made.root / "people.csv"))
            made.vault("POST", "/keys/orders/create", {"kty": "RSA"})
        yield made


def demand_keys(chart: InstalledChart, *, kid: str) -> None:
    """Check that the key service has the keys that it had: the data opens, and a key is the same."""
    out = chart.root / f"plain-{secrets.token_hex(4)}"
    chart.done("dataset", "decrypt", "people", "--to", str(out))
    assert kid_of(chart) == kid


def kid_of(chart: InstalledChart) -> str:
    return str(chart.vault_get("/keys/orders")["key"]["kid"])


def restarts(chart: InstalledChart) -> dict[str, str]:
    """The pod of each service: another one after a restart."""
    return {name: chart.cluster.get("pod", f"{name}-0", chart.namespace)["metadata"]["uid"] for name in SERVICES}


def test_both_services_prove_their_code_and_configuration_through_the_network(chart: InstalledChart) -> None:
    with chart.reached():
        trust = load_trust(chart.state.trust)
        measured = json.loads(chart.image.measurement.read_text())["entries"]
        for service in trust.services:
            entry = f"strongroom.services.{service.service.replace('-', '_')}"
            assert service.measurement == measured[entry]["mrenclave"]
            assert service.cluster_url == f"https://{service.service}.{chart.namespace}.svc:8443"
            assert service.url.startswith("https://127.0.0.1:")


def test_services_of_other_code_are_refused(chart: InstalledChart) -> None:
    plan = chart.state.kubernetes

    def another_code(content: bytes) -> bytes:
        decided = json.loads(content)
        decided["services"]["key-service"] = "ab" * 32
        return json.dumps(decided).encode()

    before = chart.state.trust.read_bytes()
    with chart.forwarded(), chart.changed(plan, another_code):
        refused = chart.try_to_trust()
    assert refused.status == 1
    assert "code (mrenclave): expected " + "ab" * 32 in refused.stderr
    assert chart.state.trust.read_bytes() == before


def test_a_service_behind_the_other_ones_address_is_refused(chart: InstalledChart) -> None:
    with chart.forwarded():
        names = list(chart.addresses)
        chart.addresses = dict(zip(names, reversed(list(chart.addresses.values())), strict=True))
        refused = chart.try_to_trust()
    assert refused.status == 1
    assert "that was pinned" in refused.stderr


def test_keys_survive_an_upgrade_and_a_rollback(chart: InstalledChart) -> None:
    with chart.reached():
        kid, keys = kid_of(chart), chart.keys()
    first = restarts(chart)
    revision = revision_of(chart)

    chart.helm("upgrade", "--set=keyService.recoverableDays=30")
    upgraded = restarts(chart)
    assert upgraded["key-service"] != first["key-service"], "another configuration needs another process"
    assert upgraded["attestation-service"] == first["attestation-service"], "nothing of it changed"
    assert configured(chart)["recoverable_days"] == 30
    with chart.reached():
        assert chart.keys() == keys
        demand_keys(chart, kid=kid)

    chart.roll_back(revision)
    assert restarts(chart)["key-service"] != upgraded["key-service"]
    assert configured(chart)["recoverable_days"] == 90
    with chart.reached():
        assert chart.keys() == keys
        demand_keys(chart, kid=kid)


def test_the_owners_secrets_are_needed_once(chart: InstalledChart) -> None:
    with chart.reached():
        kid = kid_of(chart)
    for name in (*SERVICES, "collateral-service"):
        chart.cluster.delete("secret", f"{name}-identity", chart.namespace)
        chart.cluster.delete("pod", f"{name}-0", chart.namespace)
    chart.wait_ready(*SERVICES, "collateral-service")
    with chart.reached():
        demand_keys(chart, kid=kid)
    left = chart.cluster.find("secret", chart.namespace)
    assert [each["metadata"]["name"] for each in left if each["type"] == "Opaque"] == []


def test_clients_refuse_a_configuration_that_is_not_the_owners(chart: InstalledChart) -> None:
    revision = revision_of(chart)
    own = load_signing_key(chart.state.owner_key).verifying_key.to_jwk()
    stranger = SigningKey.generate("ES256").verifying_key.to_jwk()
    more = chart.root / "more.yaml"
    more.write_text(json.dumps({"owners": [json.dumps(own), json.dumps(stranger)]}))
    try:
        chart.helm("upgrade", f"--values={more}")
        with chart.forwarded():
            refused = chart.try_to_trust()
        assert refused.status == 1
        assert "configuration: expected" in refused.stderr
    finally:
        chart.roll_back(revision)
    with chart.reached():
        assert chart.keys()


def test_keys_survive_the_removal_of_the_release(chart: InstalledChart) -> None:
    with chart.reached():
        kid, keys = kid_of(chart), chart.keys()

    chart.uninstall()
    claims = {each["metadata"]["name"] for each in chart.cluster.find("persistentvolumeclaim", chart.namespace)}
    assert claims == {"attestation-service-state", "collateral-service-state", "key-service-state"}
    chart.helm("install")

    with chart.reached():
        assert chart.keys() == keys
        demand_keys(chart, kid=kid)


def test_an_evidence_policy_is_kept_and_metrics_are_shown(chart: InstalledChart) -> None:
    with chart.reached():
        service = next(each for each in load_trust(chart.state.trust).services if each.service == "attestation-service")
        http = connect(service)
        assert b"strongroom_http_requests_total" in http.request("GET", "/metrics").require_success()
        assert json.loads(http.request("GET", "/readyz").require_success())["checks"]["endorsements"] == "ok"


def test_the_collateral_service_serves_the_platforms_documents(chart: InstalledChart) -> None:
    with chart.cluster.forward("collateral-service", chart.namespace, 8443) as place:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        crl = f"https://{place}/sgx/certification/v4/pckcrl?ca=platform&encoding=pem"
        with urlopen(f"https://{place}/readyz", context=context) as ready, urlopen(crl, context=context) as answer:
            assert ready.status == 200
            assert answer.read().startswith(b"-----BEGIN X509 CRL-----")


def test_another_installations_volume_is_not_taken_over(
    chart: InstalledChart, cluster: Cluster, image: ServiceImage, tmp_path: Path
) -> None:
    """A namespace of another owner that is given this one's claim: its pods end, and say whose the volume is."""
    stranger = tmp_path / "stranger"
    stranger.mkdir()
    with prepared_chart(stranger, cluster, image) as other:
        foreign = json.loads((other.files / "secrets.json").read_text())["items"]
        secret = next(each for each in foreign if each["metadata"]["name"] == "key-service-identity")
        secret["metadata"]["namespace"] = chart.namespace
        cluster.apply(secret)
        try:
            chart.cluster.kubectl("delete", "pod", "key-service-0", f"--namespace={chart.namespace}")
            chart.cluster.wait_until(
                lambda: "the volume belongs to the service" in log_of_provision(chart), "the refusal", 120
            )
        finally:
            chart.cluster.delete("secret", "key-service-identity", chart.namespace)
            chart.cluster.delete("pod", "key-service-0", chart.namespace)
            chart.wait_ready("key-service")
    with chart.reached():
        assert chart.keys()


def log_of_provision(chart: InstalledChart) -> str:
    try:
        return chart.cluster.kubectl("logs", "key-service-0", "--container=provision", f"--namespace={chart.namespace}")
    except CommandError:
        return ""


def revision_of(chart: InstalledChart) -> int:
    history = json.loads(chart.cluster.helm("history", RELEASE, f"--namespace={chart.namespace}", "--output=json"))
    return int(history[-1]["revision"])


def configured(chart: InstalledChart) -> dict[str, object]:
    data = chart.cluster.get("configmap", "key-service", chart.namespace)["data"]
    found: dict[str, object] = json.loads(data["config.json"])
    return found
