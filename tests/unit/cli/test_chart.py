"""`strongroom chart`: what an owner gives to Helm and kubectl, and what he pins of services in a cluster."""

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.platform import NOW
from tests.support.service_processes import RunningService, start
from tests.support.trust_files import trust_file

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json
from strongroom.base.secret import SecretBytes
from strongroom.cli import chart
from strongroom.cli.chart import Plan, read_plan
from strongroom.cli.installation import free_port
from strongroom.cli.main import strongroom
from strongroom.cli.state import State
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, parse_pem_chain, to_pem
from strongroom.services.provision import install_identity
from strongroom.submit.run import load_trust
from strongroom.wire.trust import Anchors, Trust

CLOCK = SystemClock()
AGENT = "ab" * 32
MEASUREMENTS = {
    "version": 1,
    "image": f"sha256:{'00' * 32}",
    "files": "11" * 32,
    "entries": {"strongroom.agent": {"mrenclave": AGENT, "mrtd": "cd" * 48, "launch_digest": "ef" * 48}},
}


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(root=tmp_path / "state")


@pytest.fixture
def measurements(tmp_path: Path) -> Path:
    path = tmp_path / "spark.measurement.json"
    path.write_text(json.dumps(MEASUREMENTS))
    return path


def ran(state: State, *arguments: str) -> Result:
    return CliRunner().invoke(strongroom, ["chart", *arguments, "--state", str(state.root)])


def written(state: State, *arguments: str) -> Path:
    """Run `chart values`, which must succeed; return the folder."""
    out = state.root.parent / "install"
    result = ran(state, "values", "--out", str(out), *arguments)
    assert result.exit_code == 0, result.output
    return out


def secrets(out: Path) -> dict[tuple[str, str], dict[str, bytes]]:
    """The files of each Secret, by namespace and name."""
    items = json.loads((out / "secrets.json").read_text())["items"]
    return {
        (each["metadata"]["namespace"], each["metadata"]["name"]): {
            name: base64.b64decode(content) for name, content in each["data"].items()
        }
        for each in items
    }


# --- what is written --------------------------------------------------------------------------------------------------


def test_the_services_private_keys_are_in_secrets_that_their_owner_alone_reads(state: State) -> None:
    out = written(state)

    assert stat.S_IMODE((out / "secrets.json").stat().st_mode) == 0o600
    found = secrets(out)
    assert set(found) == {
        ("strongroom", "attestation-service-identity"),
        ("strongroom", "key-service-identity"),
        ("strongroom-platform", "simulated-platform"),
    }
    for name in ("attestation-service", "key-service"):
        files = found["strongroom", f"{name}-identity"]
        assert files == {path: (state.owner / name / path).read_bytes() for path in files}
        assert set(files) == {"identity.key", "identity.pem", "signing.key", "statement.key"}


def test_the_platforms_secret_holds_every_file_that_it_needs_and_no_other(state: State) -> None:
    files = secrets(written(state))["strongroom-platform", "simulated-platform"]

    paths = {path.relative_to(state.platform) for path in state.platform.rglob("*") if path.is_file()}
    assert {name.replace(".", "/") for name in files} == {str(path).replace(".", "/") for path in paths}
    assert len(files) == 21


def test_nothing_secret_is_in_the_files_for_everybody(state: State) -> None:
    out = written(state, "--collateral")

    for name in ("values.yaml", "namespaces.json"):
        text = (out / name).read_text()
        assert "PRIVATE KEY" not in text
        for path in state.owner.rglob("*.key"):
            body = path.read_text().splitlines()[1]
            assert body not in text, path


def test_keys_of_owners_are_texts_that_yaml_cannot_change(state: State) -> None:
    lines = (written(state) / "values.yaml").read_text().splitlines()

    text = json.loads(lines[lines.index("owners:") + 1].removeprefix("  - "))
    owner = json.loads(state.owner_key.with_suffix(".jwk").read_bytes())
    assert json.loads(text) == owner
    assert set(json.loads(text)) == {"kty", "crv", "x", "y"}


def test_run_again_it_changes_no_key(state: State) -> None:
    first = secrets(written(state))
    values = (state.root.parent / "install" / "values.yaml").read_bytes()

    assert secrets(written(state)) == first
    assert (state.root.parent / "install" / "values.yaml").read_bytes() == values


def test_namespaces_say_what_their_pods_may_do(state: State) -> None:
    out = written(state, "--namespace", "keys", "--platform-namespace", "machine")

    levels = {
        each["metadata"]["name"]: each["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
        for each in json.loads((out / "namespaces.json").read_text())["items"]
    }
    assert levels == {"keys": "restricted", "machine": "privileged"}


def test_real_hardware_has_no_simulated_platform(state: State, tmp_path: Path) -> None:
    key = SigningKey.generate("ES256")
    root = new_identity(common_name="A vendor", key=key, not_before=NOW, not_after=NOW.replace(year=2040))
    (tmp_path / "root.pem").write_text(to_pem(root))

    out = written(state, "--shape", "confidential-node", "--root", str(tmp_path / "root.pem"))

    assert ("strongroom-platform", "simulated-platform") not in secrets(out)
    assert len(json.loads((out / "namespaces.json").read_text())["items"]) == 1
    plan = read_plan(state)
    assert (plan.hardware, [each.simulated for each in plan.roots]) == ("real", [False])
    assert parse_pem_chain(plan.roots[0].certificate_pem.encode()) == (root,)


def test_replicas_share_a_master_key_and_a_databases_password(state: State, tmp_path: Path) -> None:
    (tmp_path / "pgpass").write_text("db:5432:keys:keys:a password")
    url = "postgresql://keys@db/keys?passfile=/strongroom/private/pgpass"

    out = written(state, "--replicas", "3", "--database", url, "--file", f"pgpass={tmp_path / 'pgpass'}")

    files = secrets(out)["strongroom", "key-service-files"]
    assert files["pgpass"] == b"db:5432:keys:keys:a password"
    assert files["master.key"] == (state.key_service / "master.key").read_bytes()
    assert len(files["master.key"]) == 32
    assert "a password" not in (out / "values.yaml").read_text()
    assert '"file:///strongroom/private/master.key"' in (out / "values.yaml").read_text()


def test_the_clusters_whose_workloads_are_believed_are_pinned(state: State, tmp_path: Path) -> None:
    written(state)
    without = chart.trust_on_kubernetes(read_plan(state), state=state, before=None, addresses={}, clock=CLOCK)
    key = {**SigningKey.generate("ES256").verifying_key.to_jwk(), "kid": "1", "alg": "ES256", "use": "sig"}
    (tmp_path / "jwks.json").write_text(json.dumps({"keys": [key]}))

    out = written(state, "--workload-issuer", f"https://kubernetes.default.svc={tmp_path / 'jwks.json'}")

    text = next(line for line in (out / "values.yaml").read_text().splitlines() if "workloadIssuers" in line)
    (issuer,) = json.loads(json.loads(text.partition(": ")[2]))
    assert issuer["issuer"] == "https://kubernetes.default.svc"
    assert json.loads(issuer["jwks"]) == {"keys": [key]}
    pinned = chart.trust_on_kubernetes(read_plan(state), state=state, before=None, addresses={}, clock=CLOCK)
    assert pinned.services[1].configuration != without.services[1].configuration


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--replicas", "2"], "none is named"),
        (["--database", "postgresql://keys:word@db/keys"], "without a password"),
        (["--database", "postgresql://db/keys?password=word"], "without a password"),
        (["--database", "mysql://db/keys"], "without a password"),
        (["--shape", "sgx"], "no root of a hardware vendor"),
        (["--namespace", "Not_A_Name"], "namespace"),
    ],
)
def test_a_plan_that_cannot_work_is_refused_before_anything_is_made(
    state: State, arguments: list[str], says: str
) -> None:
    refused = ran(state, "values", "--out", str(state.root.parent / "install"), *arguments)

    assert refused.exit_code == 1, refused.output
    assert says in refused.output
    assert "word" not in refused.output.replace("password", "")
    assert not (state.root.parent / "install").exists()
    assert not state.kubernetes.exists()


def test_measurements_that_are_something_else_are_refused(state: State, tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{}")
    refused = ran(state, "values", "--out", str(tmp_path / "out"), "--measurements", str(tmp_path / "x.json"))

    assert refused.exit_code == 1
    assert "*.measurement.json" in refused.output


def test_no_services_are_started_on_this_machine_beside_those_in_the_cluster(state: State) -> None:
    written(state)

    refused = CliRunner().invoke(strongroom, ["up", "--state", str(state.root)])

    assert refused.exit_code == 1
    assert "run on Kubernetes" in refused.output
    assert not state.trust.exists()


def test_without_a_plan_there_is_nothing_to_trust(state: State) -> None:
    refused = ran(state, "trust")

    assert refused.exit_code == 1
    assert "strongroom chart values" in refused.output


# --- what is pinned ---------------------------------------------------------------------------------------------------


class InCluster:
    """Both services as a cluster runs them: with what their Secrets hold, under names that are unknown here."""

    def __init__(self, state: State, folder: Path) -> None:
        self.state, self.folder = state, folder
        self.plan = read_plan(state)
        self.mounted = secrets(folder / "install")
        self.running: list[RunningService] = []
        self.addresses: dict[str, str] = {}

    def start(self, name: str, **changed: Any) -> None:
        identities = chart._identities(self.plan, self.state, clock=CLOCK)
        if name == "attestation-service":
            config = chart._attestation_config(self.plan, self.state).model_dump(mode="json")
        else:
            attestation = identities["attestation-service"]
            config = chart._key_settings(self.plan, self.state, attestation, partners=()).model_dump(mode="json")
            config["master_key"] = (self.folder / "master.key").as_uri()
        secret, place = self.folder / f"{name}.secret", self.folder / f"{name}.state"
        secret.mkdir()
        for file, content in self.mounted["strongroom", f"{name}-identity"].items():
            (secret / file).write_bytes(content)
        install_identity(secret, state=place)
        port = free_port()
        config |= {"host": "127.0.0.1", "port": port, "names": ["127.0.0.1"], "state": str(place), **changed}
        path = self.folder / f"{name}.json"
        path.write_bytes(canonical_json(config))
        self.addresses[name] = f"https://127.0.0.1:{port}"
        self.running.append(start(name.replace("-", "_"), path, url=self.addresses[name], state=place))

    def trust(self) -> Result:
        return ran(self.state, "trust", *(f"--{name}={url}" for name, url in self.addresses.items()))

    def stop(self) -> None:
        for service in self.running:
            service.stop()


@pytest.fixture
def in_cluster(state: State, tmp_path: Path, measurements: Path) -> Iterator[InCluster]:
    written(state, "--measurements", str(measurements))
    found = InCluster(state, tmp_path)
    yield found
    found.stop()


def test_services_that_are_what_their_owner_made_are_trusted(in_cluster: InCluster, state: State) -> None:
    in_cluster.start("attestation-service")
    in_cluster.start("key-service")

    verified = in_cluster.trust()

    assert verified.exit_code == 0, verified.output
    trust = load_trust(state.trust)
    for service in trust.services:
        assert service.url == in_cluster.addresses[service.service]
        assert service.cluster_url == f"https://{service.service}.strongroom.svc:8443" == service.own_url
        key = SigningKey.from_pem(SecretBytes((state.owner / service.service / "identity.key").read_bytes()))
        assert service.identity == key.verifying_key.thumbprint
    assert (trust.agent_measurements, trust.hardware) == ((AGENT,), "simulated")
    assert "evidence policy" in verified.output
    shown = CliRunner().invoke(strongroom, ["policy", "show", "--state", str(state.root)])
    assert AGENT in shown.output
    assert "in cluster" in CliRunner().invoke(strongroom, ["trust", "show", "--state", str(state.root)]).output
    again = in_cluster.trust()
    assert (again.exit_code, "registered" in again.output) == (0, False)


@pytest.mark.parametrize("name", ["attestation-service", "key-service"])
def test_a_service_that_believes_somebody_else_is_refused(in_cluster: InCluster, state: State, name: str) -> None:
    stranger = SigningKey.generate("ES256").verifying_key.to_jwk()
    owner = json.loads(state.owner_key.with_suffix(".jwk").read_bytes())
    for each in ("attestation-service", "key-service"):
        in_cluster.start(each, **({"owners": [owner, stranger]} if each == name else {}))

    refused = in_cluster.trust()

    assert refused.exit_code == 1
    assert "configuration: expected" in refused.output
    assert not state.trust.exists()


def test_a_service_with_an_identity_of_the_operators_is_refused(in_cluster: InCluster, state: State) -> None:
    in_cluster.start("attestation-service")
    foreign = State(root=state.root.parent / "foreign")
    out = state.root.parent / "other"
    assert ran(foreign, "values", "--out", str(out)).exit_code == 0
    in_cluster.mounted["strongroom", "key-service-identity"] = secrets(out)["strongroom", "key-service-identity"]
    in_cluster.start("key-service")

    refused = in_cluster.trust()

    assert refused.exit_code == 1
    assert "is not the key service that was pinned" in refused.output
    assert not state.trust.exists()


def test_partners_stay_in_the_trust_file(state: State, tmp_path: Path) -> None:
    written(state)
    theirs = trust_file(tmp_path / "theirs.json", port=2000)
    own = trust_file(state.trust, port=1000)
    anchors = Anchors.from_object(theirs.model_dump(mode="json", include=set(Anchors.model_fields))).model_dump(
        mode="json"
    )
    partner = {"name": "hospital", "accept_results": True, "anchors": anchors}
    before = Trust.from_object({**own.model_dump(mode="json"), "partners": [partner]})
    state.trust.write_bytes(before.to_json())

    pinned = chart.trust_on_kubernetes(read_plan(state), state=state, before=before, addresses={}, clock=CLOCK)

    assert [each.name for each in pinned.partners] == ["hospital"]
    alone = chart.trust_on_kubernetes(read_plan(state), state=state, before=None, addresses={}, clock=CLOCK)
    assert pinned.services[1].configuration != alone.services[1].configuration, "it believes that partner's results"
    text = (written(state) / "values.yaml").read_text()
    believed = next(line for line in text.splitlines() if "attestationServices" in line)
    assert theirs.services[0].identity in believed


def test_a_damaged_plan_is_a_clear_error(state: State) -> None:
    written(state)
    state.kubernetes.write_text("{}")

    assert "Restore it" in ran(state, "trust").output
    assert isinstance(Plan.from_object({"namespace": "a", "platform_namespace": "b", "shape": "simulated"}), Plan)
