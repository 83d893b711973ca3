"""Promises 1, 3, 6, 7 and 9 where a dataset's key is in an Azure vault: what a host, a storage or a vault in the wrong
hands can say, and what comes of it.

The vault is our own key service, which speaks the same contract, over TLS; the TEEs are this process's, on a simulated
platform. Every test takes the good path of `tests.support.vault_releases` and changes one thing.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.tee import PlatformDevice
from tests.support.vault_releases import Said, TlsServer, VaultInstallation, VaultRunner, vault_installation

from strongroom.agent.finish import Kept
from strongroom.agent.member import Membership
from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import (
    ConfigurationError,
    ConflictError,
    FormatError,
    IntegrityError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.base.workflow import Step
from strongroom.cli.main import strongroom
from strongroom.crypto.keys import SigningKey
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import newest_version, read_version, sign_version
from strongroom.policy.key_back_ends import KeyBackEnd, not_enforced
from strongroom.policy.vault_approval import vault_release_policy
from strongroom.receipts.build import sign_receipt
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.wire.key_service import DatasetVersion
from strongroom.wire.receipt import ReceiptBody


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultInstallation]:
    with vault_installation(tmp_path_factory.mktemp("vault")) as made:
        yield made


@pytest.fixture(scope="module")
def runner(services: VaultInstallation, tmp_path_factory: pytest.TempPathFactory) -> VaultRunner:
    """An owner and an application that no test changes."""
    return VaultRunner(services, tmp_path_factory.mktemp("runner"))


@pytest.fixture(autouse=True)
def _honest(services: VaultInstallation) -> Iterator[None]:
    yield
    services.edit = services.token_answer = lambda said: said


def join(runner: VaultRunner, *, ticket: str | None = None, **changed: Any) -> Membership:
    return runner.join(runner.descriptor(ticket or runner.ticket(), **changed))


def refusal(runner: VaultRunner, error: type[StrongroomError], **changed: Any) -> StrongroomError:
    """Join with one thing changed; return the refusal, which names its step and what to do."""
    with pytest.raises(error) as refused:
        join(runner, **changed)
    assert refused.value.step in {Step.POLICY, Step.RELEASE, Step.DECRYPT}
    return refused.value


def with_address(runner: VaultRunner, **changed: Any) -> dict[str, Any]:
    return {"vaults": {runner.key.identity: runner.address(**changed)}}


def with_approval(runner: VaultRunner, name: str, token: str) -> dict[str, Any]:
    approvals = {each: runner.signed(runner.approvals[each]) for each in runner.under_key}
    return with_address(runner, approvals={**approvals, name: token})


def mismatches(error: StrongroomError) -> set[str]:
    return {mismatch.name for mismatch in error.mismatches}


# --- the good path ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"kty": "RSA-HSM"}, {"kty": "oct-HSM"}, {"mixed": True}],
    ids=["an RSA key", "a symmetric key", "two keepers"],
)
def test_a_whole_run_reads_writes_and_has_a_receipt(
    services: VaultInstallation, tmp_path: Path, options: dict[str, Any]
) -> None:
    runner = VaultRunner(services, tmp_path, **options)
    for number in (1, 2):
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        executor = runner.join(runner.descriptor(descriptor.ticket, driver=driver))
        assert driver.secret == executor.secret
        writes = [each.datasets["report"].write for each in (driver, executor)]
        assert len({(write.write_id, write.key.reveal()) for write in writes if write is not None}) == 1
        assert driver.datasets["trips"].write_keys == executor.datasets["trips"].write_keys
        runner.write(driver)
        kept = runner.finish(driver, descriptor)
        verified = verify_receipt((tmp_path / "out" / kept.receipt).read_bytes(), trust=runner.trust())
        assert verified.outputs["report"].number == number
        assert verified.inputs["trips"].number == 1
        assert set(verified.approvals) == {"trips", "report"}
        (vault,) = verified.vaults.values()
        assert (vault.back_end, vault.key) == (KeyBackEnd.AZURE_MANAGED_HSM, runner.key)
        assert set(vault.approvals) == set(runner.under_key)
        assert "number of runs" in not_enforced(vault.back_end)


# --- promise 1: who gets the key ----------------------------------------------------------------------------------


def test_no_key_for_an_application_that_the_keys_policy_does_not_name(
    services: VaultInstallation, tmp_path: Path
) -> None:
    runner = VaultRunner(services, tmp_path)
    other = [approval.model_copy(update={"application": "ab" * 32}) for approval in runner.approvals.values()]
    services.set_policy_of(runner.key, vault_release_policy(other).data)
    assert "does not release" in refusal(runner, RefusedError).message


def test_no_key_for_code_that_the_evidence_policy_does_not_know(runner: VaultRunner) -> None:
    device = PlatformDevice(services=runner.services, changed={"mrenclave": bytes(32)})
    with pytest.raises(StrongroomError):
        runner.join(runner.descriptor(runner.ticket()), device=device)


def test_no_key_for_an_executor_that_calls_itself_driver(services: VaultInstallation, tmp_path: Path) -> None:
    runner = VaultRunner(services, tmp_path)
    executors = vault_release_policy(list(runner.approvals.values()), roles=("executor",))
    services.set_policy_of(runner.key, executors.data)
    refusal(runner, RefusedError)


def test_no_key_after_the_owner_disabled_it(services: VaultInstallation, tmp_path: Path) -> None:
    runner = VaultRunner(services, tmp_path)
    join(runner)
    key = runner.key
    services.vault("PATCH", f"/keys/{key.key}/{key.key_version}", {"attributes": {"enabled": False}})
    assert "enabled" in refusal(runner, RefusedError).action


APPROVALS: dict[str, tuple[dict[str, Any], str]] = {
    "another dataset": ({"dataset": "others"}, "dataset"),
    "another key": ({"key_service": "ab" * 32}, "key"),
    "another application": ({"application": "ab" * 32}, "application"),
    "another access": ({"access": "write"}, "access"),
    "another submitter": ({"submitters": ("ab" * 32,)}, "submitter"),
    "another evidence policy": ({"evidence_policy_hash": "A" * 43}, "x-ms-policy-hash"),
    "a number of runs": ({"max_runs": 1}, "number of runs"),
    "an end": ({"not_after": "2099-01-01T00:00:00Z"}, "end of the approval"),
    "columns": ({"columns": ("tip",)}, "chosen columns with keys of their own"),
    "k of n": ({"roster": "ab" * 32}, "k of n signatures"),
    "a duration": ({"max_duration_s": 60}, "how long a run gets keys"),
    "a number of executors": ({"max_executors": 1}, "number of executors"),
    "a key service of Strongroom's": ({"back_end": "strongroom"}, "back end"),
    "a Key Vault": ({"back_end": "azure-key-vault"}, "back end"),
}


@pytest.mark.parametrize("name", APPROVALS)
def test_refuses_an_approval_that_does_not_cover_the_run_or_needs_more_than_a_vault(
    runner: VaultRunner, name: str
) -> None:
    changed, mismatch = APPROVALS[name]
    token = runner.signed(runner.approvals["trips"].model_copy(update=changed))
    assert mismatch in mismatches(refusal(runner, RefusedError, **with_approval(runner, "trips", token)))


def test_refuses_approvals_that_no_pinned_owner_signed(runner: VaultRunner) -> None:
    forged = runner.signed(runner.approvals["trips"], signer=runner.services.submitter)
    refusal(runner, VerificationError, **with_approval(runner, "trips", forged))
    head, payload, _ = runner.signed(runner.approvals["trips"]).split(".")
    edited = canonical_json({**parse_json_object(from_any_b64(payload)), "application": "ab" * 32})
    unsigned = f"{head}.{to_b64url(edited)}.{to_b64url(bytes(64))}"
    refusal(runner, VerificationError, **with_approval(runner, "trips", unsigned))


def test_refuses_without_an_approval_for_every_dataset(runner: VaultRunner) -> None:
    only = {"trips": runner.signed(runner.approvals["trips"])}
    assert "report" in refusal(runner, RefusedError, **with_address(runner, approvals=only)).message
    refusal(runner, RefusedError, **with_address(runner, approvals={}))


def test_asks_the_vault_for_nothing_where_an_approval_is_refused(runner: VaultRunner) -> None:
    runner.services.relay.requests.clear()
    refusal(runner, RefusedError, **with_address(runner, approvals={}))
    assert runner.services.relay.requests == []


def test_refuses_a_ticket_that_nobody_signed(runner: VaultRunner) -> None:
    ticket = runner.ticket()
    with pytest.raises(StrongroomError):
        join(runner, ticket=ticket[:-6] + ("A" * 6 if not ticket.endswith("A" * 6) else "B" * 6))
    other = SigningKey.generate("ES256")
    assert mismatches(refusal(runner, RefusedError, ticket=runner.ticket(submitter=other))) == {"submitter"}


# --- a vault, or what stands in its place, that lies -------------------------------------------------------------


def flip(text: str, position: int) -> str:
    raw = bytearray(from_any_b64(text))
    raw[position] ^= 1
    return to_b64url(bytes(raw))


def _forged(said: Said) -> Said:
    head, payload, signature = parse_json_object(said.body)["value"].split(".")
    return replace(said, body=canonical_json({"value": f"{head}.{payload}.{flip(signature, 9)}"}))


def _nonce(_header: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["request"]["nonce"] = "0"


def _kid(_header: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["response"]["key"]["key"]["kid"] = payload["response"]["key"]["key"]["kid"][:-1] + "x"


def _ciphertext(_header: dict[str, Any], payload: dict[str, Any]) -> None:
    key = payload["response"]["key"]["key"]
    envelope = parse_json_object(from_any_b64(key["key_hsm"]))
    key["key_hsm"] = to_b64url(canonical_json({**envelope, "ciphertext": flip(envelope["ciphertext"], -1)}))


def test_refuses_a_forged_answer(runner: VaultRunner) -> None:
    runner.services.edit = _forged
    refusal(runner, VerificationError)


@pytest.mark.parametrize(
    ("edit", "error"), [(_nonce, VerificationError), (_kid, VerificationError), (_ciphertext, IntegrityError)]
)
def test_refuses_an_answer_to_another_request_of_another_key_or_changed(
    runner: VaultRunner, edit: Callable[[dict[str, Any], dict[str, Any]], None], error: type[StrongroomError]
) -> None:
    runner.services.edit = runner.services.signed_again(edit)
    refusal(runner, error)


def test_refuses_a_replayed_answer(runner: VaultRunner) -> None:
    kept: list[Said] = []

    def replay(said: Said) -> Said:
        kept.append(said)
        return kept[0]

    runner.services.edit = replay
    join(runner)
    assert mismatches(refusal(runner, VerificationError)) == {"nonce"}


def test_refuses_a_vault_of_the_hosts_own(runner: VaultRunner) -> None:
    """The host chooses whom the TEE trusts at the vault's address; a release still ends at the pinned roots."""
    host = TlsServer(runner.services._relay, names=("127.0.0.1",))
    try:
        refusal(runner, VerificationError, **with_address(runner, roots_pem=host.authority_pem))
    finally:
        host.stop()


def test_refuses_a_server_that_the_hosts_authorities_do_not_know(runner: VaultRunner) -> None:
    refusal(runner, VerificationError, **with_address(runner, authorities_pem=runner.services.entra.authority_pem))


def test_refuses_another_statement_than_the_one_that_the_application_pins(runner: VaultRunner) -> None:
    other = runner.services.create_key(
        "the-hosts", "RSA-HSM", owners=(runner.services.submitter.verifying_key.thumbprint,)
    )
    swapped = with_address(runner, statement=other.to_json().decode())
    refusal(runner, ConfigurationError, **swapped)
    with pytest.raises(StrongroomError):  # under its own digest nothing is bound to it
        join(runner, vaults={other.identity: runner.address(statement=other.to_json().decode())})


def test_refuses_another_key_under_the_pinned_name(services: VaultInstallation, tmp_path: Path) -> None:
    """A vault that gives a key of its own choosing: everything is signed and right, but the key."""
    runner = VaultRunner(services, tmp_path)
    mallory = VaultRunner(services, tmp_path / "mallory")
    services.set_policy_of(mallory.key, vault_release_policy(list(runner.approvals.values())).data)

    own, path = services.edit, f"/keys/{mallory.key.key}/{mallory.key.key_version}"

    def exchange(_header: dict[str, Any], payload: dict[str, Any]) -> None:
        payload["request"]["kid"] = payload["response"]["key"]["key"]["kid"] = runner.key.kid

    services.edit = services.signed_again(exchange)
    services.paths = {f"/keys/{runner.key.key}/{runner.key.key_version}": path}
    try:
        assert "pinned" in refusal(runner, IntegrityError).message
    finally:
        services.edit, services.paths = own, {}


# --- promise 3: one run -------------------------------------------------------------------------------------------


def test_tees_of_different_drivers_runs_and_applications_have_different_secrets(
    services: VaultInstallation, runner: VaultRunner
) -> None:
    ticket = runner.ticket()
    first, second = join(runner, ticket=ticket), join(runner, ticket=ticket)
    misled = runner.join(runner.descriptor(ticket, driver=second))
    assert misled.secret == second.secret
    other_run = join(runner)
    assert len({each.secret.reveal() for each in (first, second, other_run)}) == 3
    writes = [each.datasets["report"].write for each in (first, second, other_run)]
    assert len({write.write_id for write in writes if write is not None}) == 3
    assert len({write.key.reveal() for write in writes if write is not None}) == 3


# --- promise 6: versions ------------------------------------------------------------------------------------------


def stored(runner: VaultRunner, name: str, number: int) -> Path:
    return Storage(runner.storage[name]).path(f"_strongroom/versions/{number}.jws")


def replaced(runner: VaultRunner, text: str, *, name: str = "trips", number: int = 1) -> None:
    path = stored(runner, name, number)
    path.chmod(0o600)
    path.write_text(text)


def test_refuses_versions_that_no_owner_and_no_run_signed(services: VaultInstallation, tmp_path: Path) -> None:
    runner = VaultRunner(services, tmp_path)
    good = read_version(Storage(runner.storage["trips"]), 1)
    payload = parse_json_object(from_any_b64(good.split(".")[1]))
    version = DatasetVersion.from_object(payload)
    submitter = services.submitter
    for key, changed in (
        (submitter, {}),
        (submitter, {"writer": f"owner:{submitter.verifying_key.thumbprint}"}),
        (submitter, {"writer": "run:" + "11" * 32}),
        (services.owner, {"dataset": "report"}),
        (services.owner, {"number": 2}),
        (services.owner, {"key_service": "ab" * 32}),
    ):
        replaced(runner, sign_version(version.model_copy(update=changed), key=key))
        refusal(runner, VerificationError)
    replaced(runner, "not a statement")
    refusal(runner, FormatError)
    stored(runner, "trips", 1).unlink()
    refusal(runner, NotFoundError)
    with pytest.raises(NotFoundError):
        join(runner, ticket=runner.ticket(datasets={"trips": 2, "report": None}))


def test_reads_the_version_that_the_application_is_bound_to_and_no_other(
    services: VaultInstallation, tmp_path: Path
) -> None:
    runner = VaultRunner(services, tmp_path, version=1)
    runner.import_version("trips", number=2)
    join(runner)
    assert mismatches(refusal(runner, RefusedError, ticket=runner.ticket(datasets={"trips": 2, "report": None}))) == {
        "version of trips"
    }


def test_refuses_a_manifest_whose_write_key_is_of_another_place(services: VaultInstallation, tmp_path: Path) -> None:
    """The owner signs the manifest's digest; a whole manifest of another dataset is not this one's."""
    runner = VaultRunner(services, tmp_path)
    good = DatasetVersion.from_object(
        parse_json_object(from_any_b64(read_version(Storage(runner.storage["trips"]), 1).split(".")[1]))
    )
    runner.import_version("report")
    other = DatasetVersion.from_object(
        parse_json_object(from_any_b64(read_version(Storage(runner.storage["report"]), 1).split(".")[1]))
    )
    manifest = Storage(runner.storage["report"]).read_manifest(other.manifest_digest)
    Storage(runner.storage["trips"]).write_manifest(manifest, other.manifest_digest)
    swapped = good.model_copy(update={"manifest_digest": other.manifest_digest, "write_ids": other.write_ids})
    replaced(runner, sign_version(swapped, key=services.owner))
    with pytest.raises(StrongroomError) as refused:
        join(runner)
    assert isinstance(refused.value, VerificationError | IntegrityError)


def test_of_two_runs_that_write_one_is_told_to_start_again(services: VaultInstallation, tmp_path: Path) -> None:
    runner = VaultRunner(services, tmp_path)
    runs = [
        (descriptor, runner.join(descriptor))
        for descriptor in map(runner.descriptor, [runner.ticket(), runner.ticket()])
    ]
    for _, driver in runs:
        runner.write(driver)
    runner.finish(runs[0][1], runs[0][0])
    first = read_version(Storage(runner.storage["report"]), 1)
    with pytest.raises(ConflictError) as refused:
        runner.finish(runs[1][1], runs[1][0])
    assert refused.value.step == Step.WRITE
    assert newest_version(Storage(runner.storage["report"])) == 1
    assert read_version(Storage(runner.storage["report"]), 1) == first


# --- promises 5 and 7: what is left behind ------------------------------------------------------------------------


class Finished:
    """A run with its receipt and the driver's key."""

    def __init__(self, services: VaultInstallation, folder: Path) -> None:
        self.runner = VaultRunner(services, folder)
        descriptor = self.runner.descriptor(self.runner.ticket())
        self.driver = self.runner.join(descriptor)
        self.runner.write(self.driver)
        kept: Kept = self.runner.finish(self.driver, descriptor)
        self.receipt = (folder / "out" / kept.receipt).read_bytes()
        self.trust = self.runner.trust()

    def signed_again(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        """The receipt with another body, signed by the driver's own TEE: no log would notice."""
        copy = json.loads(self.receipt)
        edit(copy["body"])
        return sign_receipt(ReceiptBody.from_object(copy["body"]), key=self.driver.signing_key, closings={})

    def verify(self, receipt: bytes) -> VerifiedReceipt:
        return verify_receipt(receipt, trust=self.trust)


@pytest.fixture(scope="module")
def finished(services: VaultInstallation, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(services, tmp_path_factory.mktemp("finished"))


def test_no_key_is_left_outside_the_tee(finished: Finished) -> None:
    (vault,) = finished.driver.vaults.values()
    released = vault.admission.release.released
    secrets = [
        released.material.reveal(),
        released.root.reveal(),
        released.kek("trips").reveal(),
        released.kek("report").reveal(),
        finished.driver.secret.reveal(),
        vault.admission.share.reveal(),
    ]
    texts = [
        form
        for secret in secrets
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), to_b64url(secret).encode())
    ]
    folders = [finished.runner.folder, finished.runner.services.folder / "attestation"]
    seen = 0
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        data = path.read_bytes()
        seen += 1
        assert not [text for text in texts if text in data], path
    assert seen > 5


def _vault(body: dict[str, Any]) -> dict[str, Any]:
    (record,) = body["vaults"].values()
    found: dict[str, Any] = record
    return found


def _without_record(body: dict[str, Any]) -> None:
    del body["vaults"]


def _under_another_digest(body: dict[str, Any]) -> None:
    body["vaults"] = {"ab" * 32: _vault(body)}


def _without_an_approval(body: dict[str, Any]) -> None:
    del _vault(body)["approvals"]["report"]


def _as_an_executor(body: dict[str, Any]) -> None:
    _vault(body)["member"]["role"] = "executor"


def _as_a_later_member(body: dict[str, Any]) -> None:
    _vault(body)["member"]["number"] = 1


def _forged_result(body: dict[str, Any]) -> None:
    head, payload, signature = _vault(body)["member"]["result"].split(".")
    _vault(body)["member"]["result"] = f"{head}.{payload}.{flip(signature, 3)}"


def _another_output(body: dict[str, Any]) -> None:
    body["outputs"]["report"]["manifest_digest"] = "ab" * 32


def _without_output_statement(body: dict[str, Any]) -> None:
    _vault(body)["outputs"] = {}


def _output_of_an_input(body: dict[str, Any]) -> None:
    _vault(body)["outputs"] = {"trips": body["inputs"]["trips"]}


def _another_input_number(body: dict[str, Any]) -> None:
    body["inputs"]["trips"] = body["inputs"]["trips"][:-8] + "AAAAAAAA"


def _without_inputs(body: dict[str, Any]) -> None:
    body["inputs"] = {}


def _another_statement(body: dict[str, Any]) -> None:
    _vault(body)["statement"] = _vault(body)["statement"].replace("azure-managed-hsm", "azure-key-vault")


EDITS = [
    _without_record,
    _under_another_digest,
    _without_an_approval,
    _as_an_executor,
    _as_a_later_member,
    _forged_result,
    _another_output,
    _without_output_statement,
    _output_of_an_input,
    _another_input_number,
    _without_inputs,
    _another_statement,
]


@pytest.mark.parametrize("edit", EDITS)
def test_a_receipt_holds_what_its_bindings_pin_even_if_the_driver_signed_it(
    finished: Finished, edit: Callable[[dict[str, Any]], None]
) -> None:
    assert finished.verify(finished.signed_again(lambda _: None))
    with pytest.raises(StrongroomError):
        finished.verify(finished.signed_again(edit))


def test_a_receipt_needs_an_owner_whom_the_auditor_knows(finished: Finished) -> None:
    stranger = finished.trust.model_copy(update={"owners": ("ab" * 32,)})
    with pytest.raises(RefusedError):
        verify_receipt(finished.receipt, trust=stranger)


def test_the_receipt_says_what_nobody_enforced(finished: Finished, tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_bytes(finished.receipt)
    (tmp_path / "trust.json").write_bytes(finished.trust.to_json())
    shown = CliRunner().invoke(strongroom, ["receipt", "show", str(tmp_path / "receipt.json")])
    assert (shown.exit_code, "azure-managed-hsm: " in shown.output) == (0, True)
    assert "no log, runs and TEEs not counted" in shown.output
    arguments = ["receipt", "verify", str(tmp_path / "receipt.json"), "--trust", str(tmp_path / "trust.json")]
    verified = CliRunner().invoke(strongroom, arguments)
    assert verified.exit_code == 0, verified.output
    for words in ("in any number of runs", finished.runner.key.kid, *not_enforced(KeyBackEnd.AZURE_MANAGED_HSM)):
        assert words in verified.output


def test_a_vault_is_no_attested_key_service(finished: Finished) -> None:
    with pytest.raises(VerificationError, match="no such mode"):
        verify_receipt(finished.receipt, trust=finished.trust, required_mode="attested")


def test_an_approval_in_a_receipt_is_an_owners_and_met(finished: Finished) -> None:
    runner = finished.runner
    for token in (
        runner.signed(runner.approvals["trips"], signer=runner.services.submitter),
        runner.signed(runner.approvals["trips"].model_copy(update={"evidence_policy_hash": "A" * 43})),
        runner.signed(runner.approvals["trips"].model_copy(update={"max_runs": 2})),
        runner.signed(runner.approvals["report"]),
    ):
        with pytest.raises((RefusedError, VerificationError)):
            finished.verify(
                finished.signed_again(lambda body, token=token: _vault(body)["approvals"].update(trips=token))
            )


def test_a_receipt_is_about_the_key_that_the_application_is_bound_to(finished: Finished) -> None:
    """An owner of two keys, and a driver that tells of the other one: everything else is made to fit."""
    runner, owner = finished.runner, finished.runner.services.owner
    other = runner.key.model_copy(update={"key": "another"})
    signs = SigningKey.generate("Ed25519")

    def of_other(token: str, key: SigningKey) -> str:
        version = DatasetVersion.from_object(parse_json_object(from_any_b64(token.split(".")[1])))
        return sign_version(version.model_copy(update={"key_service": other.identity}), key=key)

    def exchange(body: dict[str, Any]) -> None:
        record = _vault(body)
        record["statement"] = other.to_json().decode()
        record["version_keys"] = dict.fromkeys(record["version_keys"], signs.verifying_key.to_jwk())
        record["approvals"] = {
            name: runner.signed(approval.model_copy(update={"key_service": other.identity}))
            for name, approval in runner.approvals.items()
        }
        record["outputs"] = {name: of_other(token, signs) for name, token in record["outputs"].items()}
        body["inputs"] = {name: of_other(token, owner) for name, token in body["inputs"].items()}

    with pytest.raises(VerificationError, match="vault key's statement"):
        finished.verify(finished.signed_again(exchange))


def test_an_output_in_a_receipt_is_this_runs(finished: Finished) -> None:
    record = _vault(json.loads(finished.receipt)["body"])
    version = DatasetVersion.from_object(parse_json_object(from_any_b64(record["outputs"]["report"].split(".")[1])))
    (vault,) = finished.driver.vaults.values()
    of_another_run = version.model_copy(update={"writer": "run:" + "11" * 32})
    key = vault.admission.release.released.version_key("report")
    for text in (
        sign_version(of_another_run, key=key),
        sign_version(version, key=finished.runner.services.submitter),
        sign_version(version.model_copy(update={"created_at": "2020-01-01T00:00:00Z", "dataset": "trips"}), key=key),
    ):
        with pytest.raises(StrongroomError):
            finished.verify(finished.signed_again(lambda body, text=text: _vault(body)["outputs"].update(report=text)))
