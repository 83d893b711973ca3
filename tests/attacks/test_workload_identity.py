"""Workload identity: where an approval names service accounts, a TEE needs both token and evidence; either is nothing.

The cluster's administrator makes any token, and whoever runs a pod gets one: so a token alone must never do. And the
right application in the wrong hands is what the token is for: so evidence alone must not do either.
"""

import json
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import KeyBench, Tee, run_of
from tests.support.platform import NOW
from tests.support.receipts import verify_by_both
from tests.support.service_processes import CLOCK, Installation, start
from tests.support.tee import Runner
from tests.support.workloads import CLUSTER_URL, DRIVER, EXECUTOR, FakeCluster

from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.base.errors import FormatError, RefusedError, StrongroomError, VerificationError
from strongroom.crypto import jose
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import VerifiedJws, unverified_payload
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.policy.workloads import WorkloadDemand
from strongroom.wire import key_service as wire
from strongroom.wire.pod import token_audience

EACH = (
    WorkloadDemand(issuer=CLUSTER_URL, subject=DRIVER, role="driver"),
    WorkloadDemand(issuer=CLUSTER_URL, subject=EXECUTOR, role="executor"),
)
OTHER_CLUSTER = "https://other.example"


class Bench(KeyBench):
    """A key service that knows a cluster, and approvals that name one account for drivers, another for executors."""

    def __init__(self, folder: Path, *, report: tuple[WorkloadDemand, ...] = EACH) -> None:
        super().__init__(folder)
        self.cluster = FakeCluster(key_service=self.identity.identity)
        self.clusters = (self.cluster.settings(),)
        self.restart()
        self.create_dataset("trips")
        self.create_dataset("report")
        self.trips, _ = self.import_version("trips")
        self.approve("trips", "read", workloads=EACH, max_runs=100)
        self.approve("report", "write", workloads=report, max_runs=100)

    def workload(self, subject: str = DRIVER, **changed: Any) -> str:
        return self.cluster.token(subject, now=self.clock.now(), **changed)

    def opened(self) -> tuple[Tee, str, str]:
        """A run that was opened as it should be: its driver, ticket and the token that was shown."""
        driver, ticket, token = Tee(), self.ticket(), self.workload()
        self.open(driver, ticket, workload_token=token)
        return driver, ticket, token

    def members(self, ticket: str) -> int:
        with self.store.reading() as tx:
            return len(tx.members(run_of(ticket)))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.store.close()


def names(refusal: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refusal.value.mismatches}


def shown(refusal: pytest.ExceptionInfo[StrongroomError]) -> str:
    """Everything that the refused sees."""
    error = refusal.value
    return " ".join([error.message, error.action, *map(str, error.mismatches)])


# --- the good path ---------------------------------------------------------------------------------------------------


def test_token_and_evidence_together_open_and_join_and_the_log_names_the_pods(bench: Bench) -> None:
    driver, ticket, token = bench.opened()
    bench.join(Tee(number=1), driver, ticket, workload_token=bench.workload(EXECUTOR))
    leaves = [parse_json_object(proof.leaf) for proof in bench.record(driver, ticket).leaves]
    pod = json.loads(unverified_payload(token))["kubernetes.io"]["pod"]
    assert leaves[0]["workload"] == {
        "issuer": CLUSTER_URL,
        "subject": DRIVER,
        "pod": pod["name"],
        "pod_uid": pod["uid"],
    }
    assert [leaf["workload"]["subject"] for leaf in leaves] == [DRIVER, EXECUTOR]
    assert [leaf["shape"] for leaf in leaves] == ["process", "process"]


def test_an_approval_that_names_no_workload_asks_for_none(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path)
    bench.prepare(max_runs=2)
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket)
    assert "workload" not in parse_json_object(bench.record(driver, ticket).leaves[0].leaf)
    bench.open(Tee(), bench.ticket(), workload_token="a.b.c")
    bench.store.close()


# --- either alone ----------------------------------------------------------------------------------------------------


def test_the_right_token_with_another_applications_evidence_gets_nothing(bench: Bench) -> None:
    other = "ff" * 32
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=bench.workload(), application=other)
    assert "x-ms-runtime.application" in names(refusal)
    assert "workload" not in names(refusal)


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({"config_id": bytes(32)}, "x-ms-sgx-config-id"),
        ({"claims": {"x-ms-sgx-is-debuggable": True}}, "x-ms-sgx-is-debuggable"),
        ({"claims": {"x-ms-policy-hash": "B" * 43}}, "x-ms-policy-hash"),
        ({"role": "executor"}, "x-ms-runtime.role"),
    ],
)
def test_the_right_token_with_wrong_evidence_gets_nothing(bench: Bench, changed: dict[str, Any], name: str) -> None:
    more = {"driver_key": "ab" * 32} if "role" in changed else {}
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=bench.workload(), **changed, **more)
    assert name in names(refusal)
    assert "workload" not in names(refusal)


def test_the_right_evidence_without_a_token_gets_nothing(bench: Bench) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket())
    assert names(refusal) == {"workload"}
    driver, ticket, _ = bench.opened()
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket)
    assert names(refusal) == {"workload"}
    assert bench.members(ticket) == 1


WRONG: dict[str, Callable[[Bench, str], str]] = {
    "another audience": lambda bench, subject: bench.workload(subject, aud=[token_audience("c3" * 32)]),
    "the cluster's own audience": lambda bench, subject: bench.workload(
        subject, aud=["https://kubernetes.default.svc"]
    ),
    "a second audience": lambda bench, subject: bench.workload(
        subject, aud=[token_audience(bench.identity.identity), "https://kubernetes.default.svc"]
    ),
    "expired": lambda bench, subject: bench.workload(
        subject, iat=int(NOW.timestamp()) - 600, nbf=int(NOW.timestamp()) - 600, exp=int(NOW.timestamp())
    ),
    "not yet valid": lambda bench, subject: bench.workload(subject, nbf=int(NOW.timestamp()) + 300),
    "lives for years": lambda bench, subject: bench.workload(subject, exp=int(NOW.timestamp()) + 10**8),
    "another cluster": lambda bench, subject: bench.workload(subject, iss=OTHER_CLUSTER),
    "another cluster's key": lambda bench, subject: bench.workload(subject, key=SigningKey.generate("ES256")),
    "alg none": lambda bench, subject: bench.cluster.unsigned(subject, now=NOW) + "AAAA",
    "alg HS256": lambda bench, subject: bench.cluster.unsigned(subject, now=NOW, algorithm="HS256") + "AAAA",
    "another namespace": lambda bench, subject: bench.workload(subject.replace("team-a", "team-b")),
    "another account": lambda bench, _: bench.workload("system:serviceaccount:team-a:default"),
    "an account of no pod": lambda bench, subject: bench.workload(
        subject, **{"kubernetes.io": {"namespace": "team-a", "serviceaccount": {"name": subject.split(":")[3]}}}
    ),
    "another account's claims": lambda bench, subject: bench.workload(
        "system:serviceaccount:team-b:default", sub=subject
    ),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_right_evidence_with_a_wrong_token_gets_nothing(bench: Bench, wrong: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=WRONG[wrong](bench, DRIVER))
    assert names(refusal) == {"workload"}
    driver, ticket, _ = bench.opened()
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket, workload_token=WRONG[wrong](bench, EXECUTOR))
    assert names(refusal) == {"workload"}
    assert bench.members(ticket) == 1


def test_a_token_without_a_signature_does_not_even_arrive(bench: Bench) -> None:
    tee, ticket = Tee(), bench.ticket()
    request = json.loads(unverified_payload(bench.join_request(tee, ticket)))
    request["workload_token"] = bench.cluster.unsigned(now=NOW)

    class Raw:
        def to_json(self) -> bytes:
            return canonical_json(request)

    with pytest.raises(FormatError):
        bench.runs.open(bench.tee_call(tee.sign(Raw(), typ=wire.JOIN_TYP)))


def test_each_role_has_its_own_account(bench: Bench) -> None:
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=bench.workload(EXECUTOR))
    assert names(refusal) == {"workload"}
    driver, ticket, _ = bench.opened()
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=1), driver, ticket, workload_token=bench.workload(DRIVER))
    assert names(refusal) == {"workload"}


def test_the_same_account_of_another_cluster_that_is_known_is_another_account(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    other = FakeCluster(key_service=bench.identity.identity, issuer=OTHER_CLUSTER)
    bench.clusters = (*bench.clusters, other.settings())
    bench.restart()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=other.token(now=bench.clock.now()))
    assert names(refusal) == {"workload"}
    bench.store.close()


def test_a_cluster_that_is_no_longer_configured_is_believed_no_more(bench: Bench) -> None:
    bench.clusters = ()
    bench.restart()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), bench.ticket(), workload_token=bench.workload())
    assert names(refusal) == {"workload"}


# --- replay ----------------------------------------------------------------------------------------------------------


def test_a_token_that_let_a_tee_in_lets_no_other_in(bench: Bench) -> None:
    """Whoever sees the driver's token, as its host does, starts another good TEE with it: one that it feeds."""
    *_, token = bench.opened()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=1), bench.ticket(), workload_token=token)
    assert names(refusal) == {"workload"}
    bench.restart()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=1), bench.ticket(), workload_token=token)
    assert names(refusal) == {"workload"}


def test_a_token_signed_again_over_the_same_claims_is_the_same_token(bench: Bench) -> None:
    """ECDSA signs differently each time, and anybody turns one signature into another: what is signed counts."""
    *_, token = bench.opened()
    payload = json.loads(unverified_payload(token))
    again = bench.cluster.token(now=bench.clock.now(), **payload)
    assert again != token
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(number=1), bench.ticket(), workload_token=again)
    assert names(refusal) == {"workload"}


def test_a_stolen_token_that_was_refused_is_not_used_up(bench: Bench) -> None:
    """Otherwise whoever sees tokens keeps pods out: a TEE with other evidence neither gets in nor burns the token."""
    token = bench.workload()
    with pytest.raises(RefusedError):
        bench.open(Tee(number=1), bench.ticket(), workload_token=token, config_id=bytes(32))
    bench.open(Tee(), bench.ticket(), workload_token=token)


def test_a_pod_is_one_tee_of_a_run(bench: Bench) -> None:
    """The kubelet renews a pod's token: the next one of the same pod lets no second TEE into the run."""
    driver, ticket, _ = bench.opened()
    pod = {
        "namespace": "team-a",
        "serviceaccount": {"name": "executor", "uid": "u"},
        "pod": {"name": "executor-pod", "uid": str(uuid.uuid4())},
    }

    def renewed(**changed: Any) -> str:
        return bench.workload(EXECUTOR, **{"kubernetes.io": pod | changed})

    bench.join(Tee(number=1), driver, ticket, workload_token=renewed())
    with pytest.raises(RefusedError) as refusal:
        bench.join(Tee(number=2), driver, ticket, workload_token=renewed())
    assert names(refusal) == {"workload"}
    later = pod["pod"] | {"uid": str(uuid.uuid4())}  # type: ignore[operator]
    bench.join(Tee(number=2), driver, ticket, workload_token=renewed(pod=later))


def test_a_request_that_carries_a_token_is_its_tees_alone(bench: Bench) -> None:
    """The token stands in what the TEE signed: nobody puts it beside another TEE's evidence."""
    mine, other, ticket = Tee(), Tee(number=1), bench.ticket()
    request = json.loads(unverified_payload(bench.join_request(other, ticket, workload_token=bench.workload())))
    message = wire.JoinRequest.from_object(request)
    with pytest.raises(VerificationError):
        bench.runs.open(bench.tee_call(mine.sign(message, typ=wire.JOIN_TYP)))


# --- who learns what -------------------------------------------------------------------------------------------------


def test_the_refused_sees_what_it_showed_and_the_owner_sees_what_was_missing(bench: Bench) -> None:
    ticket = bench.ticket()
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), ticket, workload_token=bench.workload("system:serviceaccount:team-b:driver"))
    assert "team-b" in shown(refusal)
    assert DRIVER not in shown(refusal)
    told = [each for part in bench.why(run=run_of(ticket)) for each in part["differences"]]
    assert {(each["name"], each["expected"], each["actual"]) for each in told} == {
        ("workload", str(EACH[0]), f"system:serviceaccount:team-b:driver of {CLUSTER_URL}")
    }
    with pytest.raises(RefusedError) as refusal:
        bench.open(Tee(), ticket, workload_token=WRONG["expired"](bench, DRIVER))
    assert "expired" in shown(refusal)
    assert DRIVER not in shown(refusal)


def test_a_token_is_neither_remembered_nor_stored_nor_logged_nor_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary, remembered = f"canary-{uuid.uuid4()}", jose._remembered
    told: list[str] = []

    def remember(token: str, key: VerifyingKey, typ: str | None) -> VerifiedJws:
        told.extend((token, unverified_payload(token).decode()))
        return remembered(token, key, typ)

    monkeypatch.setattr(jose, "_remembered", remember)
    monkeypatch.setattr(jose, "_REMEMBERED_BYTES", 1 << 20)  # evidence may be short
    good = bench.workload(canary=canary)
    wrong = bench.workload(EXECUTOR, canary=canary)
    broken = bench.workload(canary=canary, **{"kubernetes.io": canary})
    driver, ticket = Tee(), bench.ticket()
    bench.open(driver, ticket, workload_token=good)
    for token in (wrong, broken):
        with pytest.raises(RefusedError) as refusal:
            bench.open(Tee(number=1), bench.ticket(), workload_token=token)
        told.append(shown(refusal))
    told.append(json.dumps(bench.why()))
    told.append(bench.record(driver, ticket).to_json().decode())
    with bench.store.reading() as tx:
        told += tx.leaves(0, 1000)
    bench.store.close()
    needles = {canary, *(part for token in (good, wrong, broken) for part in token.split(".")[1:])}
    for path in (bench.folder / "state").rglob("*"):
        if path.is_file():
            told.append(path.read_bytes().decode("latin-1"))
    assert not [needle for needle in needles for text in told if needle in text]
    assert any(sha256_hex(unverified_payload(good)) in text for text in told)  # the search finds what is there
    bench.start()


# --- approvals -------------------------------------------------------------------------------------------------------


def test_an_approval_of_accounts_of_an_unknown_cluster_is_refused(bench: Bench) -> None:
    unknown = (WorkloadDemand(issuer=OTHER_CLUSTER, subject=DRIVER),)
    with pytest.raises(RefusedError, match="cluster that this key service does not know"):
        bench.approve("trips", "read", workloads=unknown)


def test_every_approval_of_a_run_has_its_say(tmp_path: Path) -> None:
    """One dataset's owner names an account, another's names another: no pod is both."""
    other = (WorkloadDemand(issuer=CLUSTER_URL, subject="system:serviceaccount:team-b:spark"),)
    bench = Bench(tmp_path, report=other)
    for subject in (DRIVER, other[0].subject):
        with pytest.raises(RefusedError) as refusal:
            bench.open(Tee(), bench.ticket(), workload_token=bench.workload(subject))
        assert names(refusal) == {"workload"}
    bench.store.close()


# --- whole runs, with the services' processes and an agent -----------------------------------------------------------


class Finished:
    """A run whose agents showed tokens, its receipt, and the auditor's trust file.

    Args:
        folder: For files.
        lie: What the key service's operator made of it: a program in the service's place.
        tokens: The claims of the driver's and the executor's tokens beside the account; None for no token.
    """

    def __init__(
        self, folder: Path, *, lie: str = "", tokens: tuple[dict[str, Any] | None, dict[str, Any] | None] = ({}, {})
    ) -> None:
        services = Installation(folder)
        try:
            cluster = FakeCluster(key_service=services.keys.identity)
            services.keys.stop()
            config = services.write_key_config(workload_issuers=[cluster.settings().model_dump(mode="json")])
            url = json.loads(config.read_text())["url"]
            services.keys = start("key_service", config, url=url, state=folder / "keys", program=lie)
            runner = Runner(services, folder)
            runner.approve_all(workloads=EACH)
            now = CLOCK.now()
            self.tokens = [
                None if claims is None else cluster.token(account, now=now, **claims)
                for account, claims in zip((DRIVER, EXECUTOR), tokens, strict=True)
            ]
            descriptor = runner.descriptor(runner.ticket())
            member = runner.join(descriptor, workload_token=self.tokens[0])
            executor = runner.descriptor(descriptor.ticket, driver=member)
            runner.join(executor, workload_token=self.tokens[1])
            runner.write(member)
            kept = runner.finish(member, descriptor)
            self.receipt = (folder / "out" / kept.receipt).read_bytes()
            self.trust = runner.trust()
        finally:
            services.stop()

    @property
    def pods(self) -> list[dict[str, str]]:
        shown = [token for token in self.tokens if token is not None]
        return [json.loads(unverified_payload(token))["kubernetes.io"]["pod"] for token in shown]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(tmp_path_factory.mktemp("workloads"))


def test_a_receipt_names_the_pods_and_holds_without_their_tokens(finished: Finished) -> None:
    verified = verify_by_both(finished.receipt, trust=finished.trust)
    assert [member["service_account"] for member in verified.members] == [DRIVER, EXECUTOR]
    found = [(member["pod"], member["pod_uid"]) for member in verified.members]
    assert found == [(pod["name"], pod["uid"]) for pod in finished.pods]
    parts = [part for token in finished.tokens if token for part in token.split(".")[1:]]
    assert parts
    assert not [part for part in parts if part.encode() in finished.receipt]


def test_a_receipt_whose_leaf_names_another_account_does_not_hold(finished: Finished) -> None:
    """Whoever edits it later breaks the log's proof."""
    edited = finished.receipt.replace(b"team-a:executor", b"team-b:executor")
    assert edited != finished.receipt
    with pytest.raises(StrongroomError):
        verify_by_both(edited, trust=finished.trust)


ASKS_FOR_NO_TOKEN = """
from strongroom.keys import admission
from strongroom.services import key_service

admission.workload_mismatches = lambda *demands, **more: ()
key_service.main()
"""
TAKES_A_POD_TWICE = """
from strongroom.services import key_service, runs

runs._with_first_use = lambda tx, applicant, runs: applicant
key_service.main()
"""
SAME_POD = {"name": "a-pod", "uid": "a-uid"}


@pytest.mark.parametrize("tokens", [(None, None), ({}, None), (None, {})])
def test_a_key_service_that_asked_for_no_token_is_caught(tmp_path: Path, tokens: Any) -> None:
    """Its operator let TEEs in that showed none; the approvals in the receipt name accounts."""
    made = Finished(tmp_path, lie=ASKS_FOR_NO_TOKEN, tokens=tokens)
    with pytest.raises(RefusedError, match="does not meet an approval") as refusal:
        verify_by_both(made.receipt, trust=made.trust)
    assert "workload" in names(refusal)


def test_a_key_service_that_let_one_pod_in_twice_is_caught(tmp_path: Path) -> None:
    def of(account: str) -> dict[str, Any]:
        return {
            "kubernetes.io": {
                "namespace": "team-a",
                "serviceaccount": {"name": account, "uid": "u"},
                "pod": SAME_POD,
            }
        }

    made = Finished(tmp_path, lie=TAKES_A_POD_TWICE, tokens=(of("driver"), of("executor")))
    with pytest.raises(VerificationError, match="pods that joined more than once"):
        verify_by_both(made.receipt, trust=made.trust)
