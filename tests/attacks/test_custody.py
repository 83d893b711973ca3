"""Promise 5, and 1: a master key in custody exists only in the measured service that its custodians verified."""

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from starlette.applications import Starlette
from tests.support.asgi import send
from tests.support.custody import (
    KEY_SERVICE,
    NAMES,
    AsgiHttp,
    AttestedInstallation,
    Custodians,
    attested_installation,
    trust_in,
)
from tests.support.platform import Bench
from tests.support.service_processes import CLOCK
from tests.support.tee import Runner

from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, SgxAttributes
from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.encoding import from_b64url, to_b64url
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.secret import SecretBytes
from strongroom.cli.custody import custody_client
from strongroom.cli.main import strongroom
from strongroom.clients.custody import CustodyClient
from strongroom.crypto.jose import seal
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.crypto.random import random_bytes
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.keys.custody import ShareCollector, make_custody
from strongroom.keys.providers import open_master_key
from strongroom.receipts.verify import verify_receipt
from strongroom.services.key_service import KeyServiceSettings
from strongroom.services.key_state import back_up, restore
from strongroom.services.master_key import demand_fitting
from strongroom.submit.custody import new_nonce, pin_service, verify_locked
from strongroom.submit.services import verify_service_evidence, verify_services
from strongroom.wire.custody import CustodyShare, sealing_context
from strongroom.wire.service import ServiceEvidence, ServiceStatement
from strongroom.wire.trust import Trust, TrustedService

V1 = "/strongroom/v1"


@pytest.fixture(scope="module")
def custodians() -> Custodians:
    return Custodians()


@pytest.fixture
def http(custodians: Custodians) -> AsgiHttp:
    """A service that was just started, and the way to it."""
    return AsgiHttp(custodians.start())


def share_of(custodians: Custodians, owner: int, **changed: Any) -> SecretBytes:
    parsed = CustodyShare.from_json(custodians.made.shares[owner - 1].reveal())
    return SecretBytes(parsed.model_copy(update=changed).to_json())


def give_unchecked(custodians: Custodians, http: AsgiHttp, share: SecretBytes, **context: str) -> None:
    """Give a share without the checks of the custodian's own command."""
    nonce = new_nonce()
    client, expected = CustodyClient(http), custodians.expected()
    locked = verify_locked(client.evidence(nonce), expected=expected, nonce=nonce, clock=custodians.clock)
    fields = {"roster": locked.statement.roster, "configuration": locked.statement.configuration, **context}
    client.give(seal(share, recipient_jwk=locked.statement.sealing_key, context=sealing_context(**fields)))


# --- shares ---------------------------------------------------------------------------------------------------------


def test_fewer_shares_than_it_takes_unlock_nothing(custodians: Custodians, http: AsgiHttp) -> None:
    progress = custodians.give(http, 2)
    assert (progress.unlocked, progress.given, progress.needed) == (False, (2,), 2)
    assert CustodyClient(http).is_locked()
    collector = ShareCollector(custodians.roster)
    assert collector.add(custodians.made.shares[0]) is None
    assert custodians.give(http, 3).unlocked


def test_any_of_the_custodians_in_any_order_give_the_same_key(custodians: Custodians) -> None:
    wrapped = None
    for pair in ((1, 2), (3, 1), (2, 3)):
        collector = ShareCollector(custodians.roster)
        first, last = (custodians.made.shares[number - 1] for number in pair)
        assert collector.add(first) is None
        key = collector.add(last)
        assert key is not None
        if wrapped is None:
            wrapped = key.wrap(SecretBytes(b"store key"), context=b"c")
        assert key.unwrap(wrapped, context=b"c") == SecretBytes(b"store key")


def test_a_forged_share_is_refused_by_name_and_spoils_nothing(custodians: Custodians, http: AsgiHttp) -> None:
    forged = share_of(custodians, 1, share=to_b64url(random_bytes(32)))
    with pytest.raises(VerificationError, match="not the one that ann was given"):
        give_unchecked(custodians, http, forged)
    with pytest.raises(VerificationError, match="not the one that bob was given"):
        give_unchecked(custodians, http, share_of(custodians, 1, number=2))
    with pytest.raises(VerificationError, match="another master key"):
        give_unchecked(custodians, http, share_of(custodians, 1, number=9))
    assert custodians.give(http, 1).given == (1,)
    assert custodians.give(http, 2).unlocked


def test_a_repeated_share_does_not_count_twice(custodians: Custodians, http: AsgiHttp) -> None:
    custodians.give(http, 1)
    with pytest.raises(ConflictError, match="ann"):
        custodians.give(http, 1)
    assert CustodyClient(http).is_locked()


def test_a_share_of_another_master_key_is_refused(custodians: Custodians, http: AsgiHttp) -> None:
    with pytest.raises(VerificationError, match="another master key"):
        give_unchecked(custodians, http, make_custody(NAMES, threshold=2).shares[0])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"version":1}', b"\xff" * 40])
def test_what_is_no_share_is_refused_without_showing_it(custodians: Custodians, http: AsgiHttp, content: bytes) -> None:
    with pytest.raises(FormatError) as refused:
        give_unchecked(custodians, http, SecretBytes(content))
    assert refused.value.message == "this is no custodian's share"


def test_shares_that_give_another_key_than_the_rosters_unlock_nothing(custodians: Custodians) -> None:
    other = custodians.roster.model_copy(update={"key_check": "0" * 64})
    collector = ShareCollector(other)
    collector.add(custodians.made.shares[0])
    with pytest.raises(IntegrityError):
        collector.add(custodians.made.shares[1])
    assert collector.given == ()


def test_a_share_replayed_at_a_second_start_is_refused(custodians: Custodians) -> None:
    """The host keeps what a custodian sent, and starts the service again."""
    first, nonce = AsgiHttp(custodians.start()), new_nonce()
    client, expected = CustodyClient(first), custodians.expected()
    locked = verify_locked(client.evidence(nonce), expected=expected, nonce=nonce, clock=custodians.clock)
    context = sealing_context(roster=locked.statement.roster, configuration=locked.statement.configuration)
    kept = seal(custodians.made.shares[0], recipient_jwk=locked.statement.sealing_key, context=context)
    assert client.give(kept).given == (1,)
    again = CustodyClient(AsgiHttp(custodians.start()))
    with pytest.raises(VerificationError, match="started anew"):
        again.give(kept)


def test_a_share_sealed_for_another_configuration_or_roster_is_refused(custodians: Custodians, http: AsgiHttp) -> None:
    for context in ({"configuration": "0" * 64}, {"roster": "0" * 64}):
        with pytest.raises(VerificationError, match="sealed to another service"):
            give_unchecked(custodians, http, custodians.made.shares[0], **context)


# --- services that ask for shares -----------------------------------------------------------------------------------


def other_roster() -> Any:
    return make_custody(NAMES, threshold=2).roster


@pytest.mark.parametrize(
    ("started", "says"),
    [
        ({"mrenclave": bytes(32)}, "code"),
        ({"configuration": "0" * 64}, "configuration"),
        ({"roster": other_roster()}, "custodians"),
    ],
    ids=["other code", "other configuration", "other custodians"],
)
def test_a_service_that_is_another_one_gets_no_share(
    custodians: Custodians, started: dict[str, Any], says: str
) -> None:
    http = AsgiHttp(custodians.start(**started))
    with pytest.raises(RefusedError) as refused:
        custodians.give(http, 1)
    assert [mismatch.name.split()[0] for mismatch in refused.value.mismatches] == [says]
    assert "POST" not in {method for method, _ in http.sent}


def test_a_debug_enclave_gets_no_share(custodians: Custodians) -> None:
    attributes = custodians.bench.report().attributes
    debug = SgxAttributes(flags=attributes.flags | FLAG_DEBUG, xfrm=attributes.xfrm)
    http = AsgiHttp(custodians.start(attributes=debug))
    with pytest.raises(StrongroomError, match="debug"):
        custodians.give(http, 1)
    assert "POST" not in {method for method, _ in http.sent}


def test_a_service_on_a_platform_that_is_out_of_date_gets_no_share() -> None:
    custodians = Custodians(tcb_status="OutOfDate")
    http = AsgiHttp(custodians.start())
    with pytest.raises(RefusedError, match="not the key service") as refused:
        custodians.give(http, 1)
    assert [mismatch.actual for mismatch in refused.value.mismatches] == ["OutOfDate"]


def test_evidence_under_an_untrusted_root_gets_no_share(custodians: Custodians, http: AsgiHttp) -> None:
    trust = trust_in([Bench.new().platform.root_der])
    with pytest.raises(VerificationError):
        custodians.give(http, 1, expected=custodians.expected(trust=trust))


def test_evidence_of_an_earlier_question_gets_no_share(custodians: Custodians, http: AsgiHttp) -> None:
    evidence = CustodyClient(http).evidence("an earlier nonce")
    with pytest.raises(RefusedError) as refused:
        verify_locked(evidence, expected=custodians.expected(), nonce="mine", clock=custodians.clock)
    assert [mismatch.name for mismatch in refused.value.mismatches] == ["nonce"]


def test_a_key_that_the_host_puts_into_the_evidence_gets_no_share(custodians: Custodians, http: AsgiHttp) -> None:
    nonce = "a nonce"
    evidence, other = CustodyClient(http).evidence(nonce), CustodyClient(AsgiHttp(custodians.start())).evidence(nonce)
    with pytest.raises(VerificationError):
        verify_locked(
            evidence.model_copy(update={"statement": other.statement}),
            expected=custodians.expected(),
            nonce=nonce,
            clock=custodians.clock,
        )


# --- a locked service -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def locked_app(custodians: Custodians) -> Starlette:
    return custodians.start().app()


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/"),
        ("GET", "/readyz"),
        ("GET", f"{V1}/evidence?nonce=a"),
        ("GET", f"{V1}/log/checkpoint"),
        ("POST", f"{V1}/nonces"),
        ("POST", f"{V1}/runs"),
        ("POST", f"{V1}/datasets"),
        ("DELETE", f"{V1}/approvals/a"),
        ("GET", "/keys?api-version=7.4"),
        ("PUT", "/keys/k?api-version=7.4"),
        ("PATCH", "/keys/k/v?api-version=7.4"),
    ],
)
def test_a_locked_service_refuses_everything_and_says_what_to_do(locked_app: Starlette, method: str, path: str) -> None:
    answer = send(locked_app, method, path)
    error = json.loads(answer.body)["error"]
    assert (answer.status, error["code"]) == (503, UnavailableError.code)
    assert "locked" in error["message"]
    assert "2 more" in error["action"]
    assert "strongroom custody unlock" in error["action"]


def test_a_locked_service_says_so_to_whoever_watches_it(locked_app: Starlette) -> None:
    answer = send(locked_app, "GET", "/healthz")
    assert answer.status == 503
    assert json.loads(answer.body) == {
        "given": [],
        "mode": "attested",
        "needed": 2,
        "service": "key-service",
        "status": "locked",
    }


# --- what is said of the mode ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "mode", "has_platform"),
    [
        ("file:///mek", "attested", True),
        ("custody:///roster.json", "attested", False),
        ("pkcs11:token=t;object=k", "attested", False),
        ("custody:///roster.json", "owner-operated", True),
        ("vault://h/transit/k?token-source=/t&ca=/ca.pem", "attested", True),
        ("vault://h/transit/k?token-source=/t", "attested", True),
        ("https://h/keys/k?credential=token-file&token-source=/t", "attested", True),
        ("pkcs11:token=t;object=k?module-path=/m.so&pin-source=/p", "attested", True),
        ("ftp://h/k", "attested", True),
    ],
)
def test_a_mode_and_a_master_key_that_do_not_go_together_are_refused(uri: str, mode: Any, has_platform: bool) -> None:  # noqa: FBT001
    with pytest.raises(ConfigurationError) as refused:
        demand_fitting(uri, mode=mode, has_platform=has_platform)
    assert refused.value.action


@pytest.mark.parametrize(
    ("uri", "mode"),
    [
        ("file:///mek", "owner-operated"),
        ("pkcs11:token=t;object=k?module-path=/m.so&pin-source=/p", "owner-operated"),
        ("custody:///roster.json", "attested"),
        ("vault://h/transit/k?token-source=/t&ca=/ca.pem&ca-sha256=00", "attested"),
        ("pkcs11:token=t;object=k?module-path=/m.so&module-sha256=00&pin-source=/p", "attested"),
    ],
)
def test_a_mode_and_a_master_key_that_go_together_are_accepted(uri: str, mode: Any) -> None:
    demand_fitting(uri, mode=mode, has_platform=True)


def attested_service(**changed: Any) -> dict[str, Any]:
    return {
        "service": "key-service",
        "url": "https://127.0.0.1:1",
        "identity": "0" * 64,
        "certificate_pem": "",
        "mode": "attested",
        "measurement": "0" * 64,
        "configuration": "0" * 64,
        "log_key": None,
        "master_key": "custody",
        **changed,
    }


@pytest.mark.parametrize("changed", [{"master_key": "file"}, {"master_key": None}, {"measurement": None}])
def test_a_trust_file_that_calls_such_a_service_attested_is_refused(changed: dict[str, Any]) -> None:
    assert TrustedService.from_object(attested_service())
    with pytest.raises(FormatError):
        TrustedService.from_object(attested_service(**changed))


# --- real processes -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttestedInstallation]:
    with attested_installation(tmp_path_factory.mktemp("attested")) as made:
        yield made


@pytest.fixture
def running(installed: AttestedInstallation) -> AttestedInstallation:
    """The installation with an unlocked key service."""
    if installed.keys.process.poll() is not None:
        installed.start_unlocked()
    return installed


def ended(installed: AttestedInstallation, config: Path) -> tuple[int, str]:
    """Start a key service that does not come up; return its status and what it says."""
    command = [*entry_command(sys.executable, KEY_SERVICE), "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stderr


def test_a_run_of_an_attested_service_proves_its_mode_offline(running: AttestedInstallation, tmp_path: Path) -> None:
    pinned = running.pinned()
    runner = Runner(running, tmp_path)
    runner.approve_all()
    descriptor = runner.descriptor(runner.ticket())
    driver = runner.join(descriptor)
    runner.write(driver)
    kept = runner.finish(driver, descriptor)
    receipt = (tmp_path / "out" / kept.receipt).read_bytes()
    trust = runner.trust()
    attested = trust.model_copy(update={"services": (trust.services[0], pinned)})

    verified = verify_receipt(receipt, trust=attested, required_mode="attested")
    assert set(verified.modes.values()) == {"attested"}
    assert set(verified.master_keys.values()) == {"custody"}
    with pytest.raises(RefusedError, match="not run as it is demanded"):
        verify_receipt(receipt, trust=attested, required_mode="owner-operated")
    with pytest.raises(VerificationError, match="mode of the key service"):
        verify_receipt(receipt, trust=trust)
    (tmp_path / "trust.json").write_bytes(attested.to_json())
    file, anchors = str(tmp_path / "out" / kept.receipt), ("--trust", str(tmp_path / "trust.json"))
    shown = CliRunner().invoke(strongroom, ["receipt", "show", file])
    checked = CliRunner().invoke(strongroom, ["receipt", "verify", file, *anchors, "--require-mode", "attested"])
    other = CliRunner().invoke(strongroom, ["receipt", "verify", file, *anchors, "--require-mode", "owner-operated"])
    assert [result.exit_code for result in (shown, checked, other)] == [0, 0, 1], checked.output + other.output
    assert all("(attested: measured; master key: custody)" in result.output for result in (shown, checked))
    assert "expected owner-operated, found attested" in other.output
    in_an_hsm = pinned.model_copy(update={"master_key": "pkcs11"})
    with pytest.raises(VerificationError, match="holder of the master key"):
        verify_receipt(receipt, trust=attested.model_copy(update={"services": (trust.services[0], in_an_hsm)}))


def test_every_client_verifies_the_attested_service_and_what_it_is_not(running: AttestedInstallation) -> None:
    pinned = running.pinned()
    trust = Trust.from_json(running.trust_file.read_bytes()).model_copy(update={"services": (pinned,)})
    verify_services(trust, clock=CLOCK)
    for changed in ({"measurement": "0" * 64}, {"configuration": "0" * 64}, {"master_key": "pkcs11"}):
        other = pinned.model_copy(update=changed)
        with pytest.raises(RefusedError):
            verify_services(trust.model_copy(update={"services": (other,)}), clock=CLOCK)
    owner_operated = pinned.model_copy(update={"mode": "owner-operated", "master_key": None})
    with pytest.raises(RefusedError, match="not the one that was pinned"):
        verify_services(trust.model_copy(update={"services": (owner_operated,)}), clock=CLOCK)


def test_a_service_that_only_says_it_is_attested_is_refused(running: AttestedInstallation) -> None:
    """The operator has the identity key of an owner-operated service, and signs whatever statement he likes."""
    pinned, nonce = running.pinned(), "a nonce"
    trust = Trust.from_json(running.trust_file.read_bytes())
    genuine = custody_client(running.expected()).service_evidence(nonce)
    identity = running.attestation  # any identity whose private key the operator holds
    key_file = running.folder / "attestation" / "identity.key"
    key = SigningKey.from_pem(SecretBytes(key_file.read_bytes()))
    statement = ServiceStatement.from_json(from_b64url(genuine.statement))
    said = statement.model_copy(update={"identity": identity.identity}).to_json()
    evidence = ServiceEvidence(
        statement=to_b64url(said),
        signature=to_b64url(key.sign(said)),
        quote=None,
        endorsements=None,
        identity_certificate=to_b64url(_certificate(identity.certificate_pem)),
    )
    known = pinned.model_copy(update={"identity": identity.identity})
    with pytest.raises(VerificationError, match="no evidence"):
        verify_service_evidence(evidence, service=known, trust=trust, nonce=nonce, clock=CLOCK)
    borrowed = evidence.model_copy(update={"quote": genuine.quote, "endorsements": genuine.endorsements})
    with pytest.raises(VerificationError):
        verify_service_evidence(borrowed, service=known, trust=trust, nonce=nonce, clock=CLOCK)
    without = known.model_copy(update={"measurement": None})  # what no trust file can say
    with pytest.raises(RefusedError, match="not the one that was pinned"):
        verify_service_evidence(evidence, service=without, trust=trust, nonce=nonce, clock=CLOCK)


def _certificate(pem: str) -> bytes:
    return parse_pem_chain(pem.encode())[0]


def test_a_restarted_service_is_locked_and_then_the_same_one(running: AttestedInstallation) -> None:
    before = running.pinned()
    running.owner_client().create_dataset("kept")
    running.keys.stop()
    process = running.start_locked()
    client = custody_client(running.expected())
    assert client.is_locked()
    with pytest.raises(UnavailableError, match="locked"):
        pin_service(client, expected=running.expected(), clock=CLOCK)
    with pytest.raises(VerificationError) as unpinned:
        verify_services(
            Trust.from_json(running.trust_file.read_bytes()).model_copy(update={"services": (before,)}), clock=CLOCK
        )
    assert "custody status" in unpinned.value.action
    running.give("eve")
    assert client.is_locked()
    running.give("bob")
    running.unlocked(process)
    assert running.pinned() == before
    assert "kept" in {each["dataset"] for each in running.owner_client().datasets()["datasets"]}


def test_nothing_of_the_key_stands_in_the_state_folder(running: AttestedInstallation) -> None:
    state = running.folder / "attested"
    files = {path.name: path.read_bytes() for path in state.rglob("*") if path.is_file()}
    assert {"identity.key.sealed", "statement.key.sealed", "signing.key.sealed"} <= set(files)
    assert not [name for name in files if name.endswith(".key")]
    assert b"PRIVATE KEY" not in b"".join(files.values())


@pytest.mark.parametrize("swap", ["identity", "store", "from-file"])
def test_swapped_wrapped_keys_are_noticed(running: AttestedInstallation, tmp_path: Path, swap: str) -> None:
    """The operator exchanges what the master key wrapped: for another of its keys, or for one that he knows."""
    running.keys.stop()
    state, copy = running.folder / "attested", tmp_path / "attested"
    shutil.copytree(state, copy)
    if swap == "identity":
        first, second = copy / "identity.key.sealed", copy / "statement.key.sealed"
        kept = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(kept)
    else:
        other = (copy / "identity.key.sealed").read_bytes() if swap == "store" else _wrapped_by_the_operator(tmp_path)
        with sqlite3.connect(copy / "keys.db") as database:
            database.execute("UPDATE meta SET value = ? WHERE name = 'store-key'", (other,))
        database.close()
    config = json.loads(running.key_config.read_text()) | {"state": str(copy)}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(config))
    process = running.start_locked(path)
    for name in NAMES[:2]:
        running.give(name)
    assert process.wait(60) == 1
    assert process.stdout is not None
    assert "ready" not in process.stdout.read()
    process.stdout.close()


def _wrapped_by_the_operator(folder: Path) -> bytes:
    key = open_master_key(f"file://{folder}/mek", create=True)
    return key.wrap(SecretBytes(bytes(32)), context=b"strongroom store key 1")


def test_a_file_is_no_master_key_of_an_attested_service(installed: AttestedInstallation, tmp_path: Path) -> None:
    config = json.loads(installed.key_config.read_text()) | {"state": str(tmp_path / "state")}
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(config | {"master_key": f"file://{tmp_path}/mek"}))
    status, text = ended(installed, path)
    assert (status, "no master key in a file" in text) == (1, True)
    assert not (tmp_path / "mek").exists()
    path.write_text(json.dumps(config | {"platform": None}))
    status, text = ended(installed, path)
    assert (status, "names no platform" in text) == (1, True)


@pytest.mark.parametrize("change", ["owners", "custodians"])
def test_an_operator_who_puts_himself_into_the_configuration_gets_no_share(
    running: AttestedInstallation, tmp_path: Path, change: str
) -> None:
    """As an owner, or as the only custodians: the real ones expect the configuration that they were given."""
    running.keys.stop()
    config = json.loads(running.key_config.read_text()) | {"state": str(tmp_path / "state")}
    if change == "owners":
        config["owners"].append(SigningKey.generate("ES256").verifying_key.to_jwk())
    else:
        roster = tmp_path / "roster.json"
        roster.write_bytes(make_custody(NAMES, threshold=2).roster.to_json())
        config["master_key"] = f"custody://{roster}"
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(config))
    process = running.start_locked(path)
    try:
        with pytest.raises(RefusedError, match="not the key service") as refused:
            running.give("ann")
        assert "configuration" in {mismatch.name for mismatch in refused.value.mismatches}
    finally:
        with process:
            process.terminate()


@pytest.mark.parametrize("holder", ["custody", "vault"])
def test_an_attested_services_state_is_not_taken_out_of_its_tee(
    installed: AttestedInstallation, tmp_path: Path, holder: str
) -> None:
    """By a backup with a recipient, or by restoring one to where its keys lie in the clear."""
    config = json.loads(installed.key_config.read_text())
    if holder == "vault":
        config["master_key"] = f"vault://127.0.0.1:1/transit/k?token-source={tmp_path}/t"
    settings = KeyServiceSettings.from_object(config)
    recipient = ReceivingKey.generate_p256()
    with pytest.raises(ConfigurationError, match="measured service alone") as refused:
        back_up(settings, tmp_path / "backup", recipients=[recipient.public_jwk], clock=CLOCK)
    assert "copy its state folder" in refused.value.action
    with pytest.raises(ConfigurationError, match="measured service alone"):
        restore(settings, tmp_path / "backup", recipient=recipient, clock=CLOCK)
