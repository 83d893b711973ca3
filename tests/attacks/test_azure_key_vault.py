"""Promises 1, 3, 6, 7 and 9 where a dataset's key is in an Azure vault: what a host, a storage or a vault in the wrong
hands can say, and what comes of it.

The vault is our own key service, which speaks the same contract, over TLS; the TEEs are this process's, on a simulated
platform; a provider of Azure Attestation is our own service, with what it says signed again. Every test takes the
good path of `tests.support.vault_releases` or `azure_attestation` and changes one thing; receipts are verified by the
product and by the auditor's file.
"""

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tests.support.azure_attestation import (
    AZURE_HOST,
    AzureInstallation,
    AzureProvider,
    AzureRunner,
    ProviderKey,
    azure_attested,
)
from tests.support.receipts import verify_by_both
from tests.support.service_processes import CLOCK
from tests.support.tee import PlatformDevice
from tests.support.vault_releases import (
    AttestedTee,
    Said,
    TlsServer,
    VaultInstallation,
    VaultRunner,
    vault_installation,
)

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
from strongroom.crypto.jose import unverified_header, unverified_payload
from strongroom.crypto.keys import ReceivingKey, SigningKey
from strongroom.datasets.storage import Storage
from strongroom.datasets.vault_versions import newest_version, read_version, sign_version
from strongroom.policy.key_back_ends import KeyBackEnd, not_enforced
from strongroom.policy.vault_approval import vault_release_policy
from strongroom.receipts.build import sign_receipt
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.submit.services import verify_azure_attestation
from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.descriptor import ServiceAddress
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
        verified = verify_by_both((tmp_path / "out" / kept.receipt).read_bytes(), trust=runner.trust())
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
    """A run with its receipt and the driver's key. What it is verified with is the product and the auditor's file."""

    def __init__(self, runner: VaultRunner, *, device: PlatformDevice | None = None) -> None:
        self.runner = runner
        descriptor = runner.descriptor(runner.ticket())
        self.driver = runner.join(descriptor, device=device)
        runner.write(self.driver)
        kept: Kept = runner.finish(self.driver, descriptor)
        self.receipt = (runner.folder / "out" / kept.receipt).read_bytes()
        self.trust = runner.trust()

    def signed_again(self, edit: Callable[[dict[str, Any]], None]) -> bytes:
        """The receipt with another body, signed by the driver's own TEE: no log would notice."""
        copy = json.loads(self.receipt)
        edit(copy["body"])
        return sign_receipt(ReceiptBody.from_object(copy["body"]), key=self.driver.signing_key, closings={})

    def verify(self, receipt: bytes) -> VerifiedReceipt:
        return verify_by_both(receipt, trust=self.trust)


@pytest.fixture(scope="module")
def finished(services: VaultInstallation, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return Finished(VaultRunner(services, tmp_path_factory.mktemp("finished")))


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


def _with_an_approval_of_nothing(body: dict[str, Any]) -> None:
    _vault(body)["approvals"]["others"] = _vault(body)["approvals"]["trips"]


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
    _with_an_approval_of_nothing,
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
        verify_by_both(finished.receipt, trust=stranger)


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


APPROVED_OTHERWISE: dict[str, dict[str, Any]] = {
    "another dataset": {"dataset": "report"},
    "another key": {"key_service": "ab" * 32},
    "another application": {"application": "ab" * 32},
    "another access": {"access": "write"},
    "another submitter": {"submitters": ("ab" * 32,)},
    "another evidence policy": {"evidence_policy_hash": "A" * 43},
    "a number of runs": {"max_runs": 2},
    "another back end": {"back_end": "strongroom"},
}


@pytest.mark.parametrize("name", APPROVED_OTHERWISE)
def test_an_approval_in_a_receipt_is_of_this_run_and_met(finished: Finished, name: str) -> None:
    runner = finished.runner
    token = runner.signed(runner.approvals["trips"].model_copy(update=APPROVED_OTHERWISE[name]))
    with pytest.raises((RefusedError, VerificationError)):
        finished.verify(finished.signed_again(lambda body: _vault(body)["approvals"].update(trips=token)))


def test_an_approval_in_a_receipt_is_the_owners_whom_the_key_names(finished: Finished) -> None:
    """Whoever else the auditor trusts has no say about this key."""
    runner = finished.runner
    signer = runner.services.submitter
    token = runner.signed(runner.approvals["trips"], signer=signer)
    owners = (*finished.trust.owners, signer.verifying_key.thumbprint)
    told = finished.signed_again(lambda body: _vault(body)["approvals"].update(trips=token))
    for trust in (finished.trust, finished.trust.model_copy(update={"owners": owners})):
        with pytest.raises(VerificationError, match="not signed by an owner"):
            verify_by_both(told, trust=trust)


@pytest.mark.parametrize("approved", ["the other key", "the key"])
def test_a_receipt_is_about_the_key_that_the_application_is_bound_to(finished: Finished, approved: str) -> None:
    """An owner of two keys, and a driver that tells of the other one: everything else is made to fit."""
    runner, owner = finished.runner, finished.runner.services.owner
    other = runner.key.model_copy(update={"key": "another"})
    named = {"key_service": other.identity} if approved == "the other key" else {}
    signs = SigningKey.generate("Ed25519")

    def of_other(token: str, key: SigningKey) -> str:
        version = DatasetVersion.from_object(parse_json_object(from_any_b64(token.split(".")[1])))
        return sign_version(version.model_copy(update={"key_service": other.identity}), key=key)

    def exchange(body: dict[str, Any]) -> None:
        record = _vault(body)
        record["statement"] = other.to_json().decode()
        record["version_keys"] = dict.fromkeys(record["version_keys"], signs.verifying_key.to_jwk())
        record["approvals"] = {
            name: runner.signed(approval.model_copy(update=named)) for name, approval in runner.approvals.items()
        }
        record["outputs"] = {name: of_other(token, signs) for name, token in record["outputs"].items()}
        body["inputs"] = {name: of_other(token, owner) for name, token in body["inputs"].items()}

    with pytest.raises(VerificationError, match="vault key's statement"):
        finished.verify(finished.signed_again(exchange))


def _version(token: str) -> DatasetVersion:
    return DatasetVersion.from_object(parse_json_object(unverified_payload(token)))


def test_an_output_in_a_receipt_is_this_runs(finished: Finished) -> None:
    version = _version(_vault(json.loads(finished.receipt)["body"])["outputs"]["report"])
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


def test_an_output_in_a_receipt_is_of_a_dataset_that_the_application_writes(finished: Finished) -> None:
    signs = SigningKey.generate("Ed25519")

    def as_written(body: dict[str, Any]) -> None:
        record = _vault(body)
        version = _version(record["outputs"]["report"]).model_copy(update={"dataset": "trips"})
        record["version_keys"]["trips"] = signs.verifying_key.to_jwk()
        record["outputs"]["trips"] = sign_version(version, key=signs)
        body["outputs"]["trips"] = body["outputs"]["report"]

    with pytest.raises(VerificationError, match="does not write"):
        finished.verify(finished.signed_again(as_written))


def test_an_input_in_a_receipt_is_an_owners_or_a_runs(finished: Finished) -> None:
    stranger = finished.runner.services.submitter
    version = _version(json.loads(finished.receipt)["body"]["inputs"]["trips"])
    for writer in (version.writer, f"owner:{stranger.verifying_key.thumbprint}"):
        text = sign_version(version.model_copy(update={"writer": writer}), key=stranger)
        with pytest.raises(StrongroomError):
            finished.verify(finished.signed_again(lambda body, text=text: body["inputs"].update(trips=text)))


# --- promises 1, 7 and 8 where Azure Attestation appraises ------------------------------------------------------------


@pytest.fixture(scope="module")
def azure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureInstallation]:
    with azure_attested(tmp_path_factory.mktemp("azure")) as made:
        yield made


@pytest.fixture(scope="module")
def mallory(azure: AzureInstallation) -> Iterator[AzureProvider]:
    """Another provider that is as good as the one that counts, but is not that one."""
    made = AzureProvider(azure.attestation.http())
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def azures(azure: AzureInstallation, tmp_path_factory: pytest.TempPathFactory) -> AzureRunner:
    """An owner and an application that no test changes; the provider vouches for its TEEs."""
    return AzureRunner(azure, tmp_path_factory.mktemp("azures"))


@pytest.fixture
def provider(azure: AzureInstallation) -> Iterator[AzureProvider]:
    """The provider; what a test makes of it is taken back."""
    before = azure.provider.signing, azure.provider.published
    yield azure.provider
    azure.provider.signing, azure.provider.published = before
    azure.provider.honest()


@pytest.fixture(scope="module")
def appraised(azures: AzureRunner) -> Finished:
    return Finished(azures)


@pytest.fixture(scope="module")
def stranger(azure: AzureInstallation) -> ProviderKey:
    """A key with the provider's name that the provider does not have."""
    return ProviderKey.new(azure.provider.url)


def in_kind(azure: AzureInstallation, folder: Path, kind: Any, *others: Any) -> tuple[AzureRunner, PlatformDevice]:
    """A runner whose approvals name one kind of TEE, or others as well, and a TEE of the first."""
    runner = AzureRunner(azure, folder)
    runner.approvals = {
        name: approval.model_copy(update={"tees": (kind, *others)}) for name, approval in runner.approvals.items()
    }
    runner.open_key()
    return runner, PlatformDevice(services=azure, kind=kind)


@pytest.mark.parametrize(("kind", "sent"), [("sgx", "quote"), ("snp", "report")])
def test_a_whole_run_that_azure_attestation_appraises(
    azure: AzureInstallation, tmp_path: Path, kind: Any, sent: str
) -> None:
    runner, device = in_kind(azure, tmp_path, kind)
    azure.provider.server.requests.clear()
    descriptor = runner.descriptor(runner.ticket())
    driver = runner.join(descriptor, device=device)
    executor = runner.join(runner.descriptor(descriptor.ticket, driver=driver), device=device)
    assert driver.secret == executor.secret
    runner.write(driver)
    kept = runner.finish(driver, descriptor)
    receipt = (tmp_path / "out" / kept.receipt).read_bytes()
    verified = verify_by_both(receipt, trust=runner.trust())
    assert (verified.outputs["report"].number, verified.members[0]["tee"]) == (1, kind)
    assert verified.body.attestation_service == azure.provider.url
    assert set(verified.body.attestation_keys) == {azure.provider.signing.kid}
    assert b"attestation_certificates" not in receipt
    assert {line.partition("?")[0] for line in azure.provider.server.requests} == {
        f"POST /attest/{'SgxEnclave' if kind == 'sgx' else 'SevSnpVm'}",
        "GET /certs",
    }
    body = azure.provider.bodies[-1]
    assert set(body) == {sent, "runtimeData", "nonce"}
    assert body["runtimeData"]["dataType"] == "JSON"


def test_azure_attestation_cannot_vouch_for_a_domain_that_may_move(azure: AzureInstallation, tmp_path: Path) -> None:
    runner, device = in_kind(azure, tmp_path, "tdx")
    with pytest.raises(RefusedError) as refused:
        runner.join(runner.descriptor(runner.ticket()), device=device)
    assert "x-ms-strongroom-migratable" in mismatches(refused.value)


def _now(**shifted: int) -> int:
    return int((CLOCK.now() + timedelta(**shifted)).timestamp())


def _of_another_application(claims: dict[str, Any]) -> dict[str, Any]:
    runtime = {**claims["x-ms-runtime"], "application": "ab" * 32}
    return {**claims, "x-ms-runtime": runtime, "x-ms-sgx-config-id": "ab" * 32 + "00" * 32}


def _of_another_runtime(claims: dict[str, Any]) -> dict[str, Any]:
    """What an application says whose launch is that of the approved one."""
    return {**claims, "x-ms-runtime": {**claims["x-ms-runtime"], "application": "ab" * 32}}


FORGED: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "expired": lambda claims: {**claims, "exp": _now(hours=-1)},
    "not valid yet": lambda claims: {**claims, "nbf": _now(hours=1)},
    "another application": _of_another_application,
    "another application at run time": _of_another_runtime,
    "another role": lambda claims: {**claims, "x-ms-runtime": {**claims["x-ms-runtime"], "role": "auditor"}},
    "another evidence policy": lambda claims: {**claims, "x-ms-policy-hash": "A" * 43},
    "debug": lambda claims: {**claims, "x-ms-sgx-is-debuggable": True},
    "another kind": lambda claims: {**claims, "x-ms-attestation-type": "sevsnpvm"},
    "another issuer": lambda claims: {**claims, "iss": "https://another.weu.attest.azure.net"},
}


@pytest.mark.parametrize("name", FORGED)
def test_no_key_for_what_azure_attestation_says_of_others(azures: AzureRunner, name: str) -> None:
    """The provider's own word, signed with its own key: only what it says is not what was approved."""
    tee = AttestedTee.of(azures)
    claims = parse_json_object(unverified_payload(tee.result))
    tee.client(azures).release(azures.services.provider.sign(claims))
    with pytest.raises(RefusedError, match="does not release"):
        tee.client(azures).release(azures.services.provider.sign(FORGED[name](claims)))


def test_no_key_for_a_result_that_the_provider_did_not_sign(
    azures: AzureRunner, mallory: AzureProvider, stranger: ProviderKey
) -> None:
    tee, provider = AttestedTee.of(azures), azures.services.provider
    claims = parse_json_object(unverified_payload(tee.result))
    for token in (
        mallory.sign({**claims, "iss": mallory.url}),
        mallory.sign(claims),
        provider.sign(claims, key=stranger),
        provider.sign(claims, key=stranger, kid=provider.signing.kid),
    ):
        with pytest.raises(RefusedError, match="does not release"):
            tee.client(azures).release(token)


def test_a_result_about_another_tee_opens_nothing_here(azures: AzureRunner) -> None:
    first, second = AttestedTee.of(azures), AttestedTee.of(azures)
    with pytest.raises(IntegrityError):
        second.client(azures).release(first.result)


def unattested(runner: AzureRunner, error: type[StrongroomError], **changed: Any) -> StrongroomError:
    """Join with one thing changed; return the refusal, from which the vault learned nothing."""
    runner.services.relay.requests.clear()
    with pytest.raises(error) as refused:
        join(runner, **changed)
    assert refused.value.step == Step.ATTEST
    assert refused.value.action
    assert runner.services.relay.requests == []
    return refused.value


ANSWERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "expired": FORGED["expired"],
    "not valid yet": FORGED["not valid yet"],
    "another issuer": FORGED["another issuer"],
    "another request's": lambda claims: {**claims, "nonce": "another"},
    "without a nonce": lambda claims: {name: value for name, value in claims.items() if name != "nonce"},
    "another TEE's key": lambda claims: {
        **claims,
        "x-ms-runtime": {**claims["x-ms-runtime"], "keys": [ReceivingKey.generate_rsa().public_jwk]},
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_agent_takes_no_answer_that_is_none_to_its_own_request(
    azures: AzureRunner, provider: AzureProvider, name: str
) -> None:
    provider.claims = ANSWERS[name]
    unattested(azures, VerificationError)


def test_an_agent_takes_no_result_under_a_key_that_the_provider_does_not_publish(
    azures: AzureRunner, provider: AzureProvider, stranger: ProviderKey
) -> None:
    provider.signing = stranger
    assert "does not publish" in unattested(azures, VerificationError).message
    provider.header = {"kid": provider.published[-1].kid}
    assert "publish" not in unattested(azures, VerificationError).message


def test_an_agent_takes_no_answer_twice(azures: AzureRunner, provider: AzureProvider) -> None:
    kept: list[Said] = []

    def replay(said: Said) -> Said:
        if b'"token"' not in said.body:
            return said
        kept.append(said)
        return kept[0]

    provider.answer = replay
    join(azures)
    unattested(azures, VerificationError)


def test_an_agent_knows_a_provider_by_its_certificate(azures: AzureRunner) -> None:
    foreign = azures.services.address(authorities_pem=azures.services.entra.authority_pem)
    unattested(azures, VerificationError, attestation_service=foreign)


def test_code_that_the_providers_policy_does_not_know_is_refused_there(azures: AzureRunner) -> None:
    device = PlatformDevice(services=azures.services, changed={"mrenclave": bytes(32)})
    with pytest.raises(RefusedError, match="policy of") as refused:
        azures.join(azures.descriptor(azures.ticket()), device=device)
    assert "strongroom policy azure" in refused.value.action


def test_the_host_cannot_choose_who_appraises(azures: AzureRunner, mallory: AzureProvider) -> None:
    """Another provider, or Strongroom's own service: the approval names the one whose results count."""
    services = azures.services
    ours = ServiceAddress(url=services.attestation.url, certificate_pem=services.attestation.certificate_pem)
    for address in (mallory.address(services.vendors), ours):
        services.relay.requests.clear()
        assert "iss" in mismatches(refusal(azures, RefusedError, attestation_service=address))
        assert services.relay.requests == []


def _azures_result(body: dict[str, Any]) -> dict[str, Any]:
    return parse_json_object(unverified_payload(_vault(body)["member"]["result"]))


def _said_again(
    appraised: Finished, change: Callable[[dict[str, Any]], dict[str, Any]], *, key: ProviderKey | None = None
) -> bytes:
    """A receipt whose result says something else, signed by the provider, or with a key that is shown as its own."""
    provider = appraised.runner.services.provider  # type: ignore[attr-defined]

    def edit(body: dict[str, Any]) -> None:
        signer = key or provider.signing
        _vault(body)["member"]["result"] = provider.sign(change(_azures_result(body)), key=signer)
        body["attestation_keys"] = {signer.kid: to_b64url(signer.certificate)}

    return appraised.signed_again(edit)


TOLD: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    **{name: FORGED[name] for name in FORGED if name != "not valid yet"},
    "not valid then": lambda claims: {**claims, "nbf": _now(hours=1)},
    "another TEE's key": ANSWERS["another TEE's key"],
    "another quote": lambda claims: {**claims, "x-ms-sgx-collateral": {"quotehash": "ab" * 32}},
    "no quote": lambda claims: {name: value for name, value in claims.items() if name != "x-ms-sgx-collateral"},
    "another measurement": lambda claims: {**claims, "x-ms-sgx-mrenclave": "ab" * 32},
    "real hardware": lambda claims: {**claims, "x-ms-strongroom-hardware": "real"},
    "unsaid hardware": lambda claims: {
        name: value for name, value in claims.items() if name != "x-ms-strongroom-hardware"
    },
}


@pytest.mark.parametrize("name", TOLD)
def test_a_receipt_holds_what_azure_attestation_said_of_this_very_tee(appraised: Finished, name: str) -> None:
    assert appraised.verify(_said_again(appraised, lambda claims: claims))
    with pytest.raises(StrongroomError):
        appraised.verify(_said_again(appraised, TOLD[name]))


def test_a_receipt_needs_a_key_of_the_providers_that_the_auditor_knows(
    azures: AzureRunner, appraised: Finished, mallory: AzureProvider, stranger: ProviderKey
) -> None:
    provider = azures.services.provider
    assert appraised.verify(appraised.receipt)
    for key in (stranger, mallory.signing):
        with pytest.raises(RefusedError, match="does not name"):
            appraised.verify(_said_again(appraised, lambda claims: claims, key=key))
    with pytest.raises(VerificationError, match="not valid at"):
        appraised.verify(_said_again(appraised, lambda claims: claims, key=provider.published[0]))

    def under_a_known_name(body: dict[str, Any]) -> None:
        kid = provider.signing.kid
        _vault(body)["member"]["result"] = provider.sign(_azures_result(body), key=stranger, kid=kid)

    def not_shown(body: dict[str, Any]) -> None:
        _vault(body)["member"]["result"] = provider.sign(_azures_result(body), kid="unknown")

    for edit in (under_a_known_name, not_shown):
        with pytest.raises(StrongroomError):
            appraised.verify(appraised.signed_again(edit))


def test_a_receipt_is_of_a_provider_that_the_auditor_knows(
    azures: AzureRunner, appraised: Finished, mallory: AzureProvider
) -> None:
    def elsewhere(body: dict[str, Any]) -> None:
        token = mallory.sign({**_azures_result(body), "iss": mallory.url})
        _vault(body)["member"]["result"] = token
        body["attestation_service"] = mallory.url
        body["attestation_keys"] = {mallory.signing.kid: to_b64url(mallory.signing.certificate)}

    def in_the_others_name(body: dict[str, Any]) -> None:
        elsewhere(body)
        _vault(body)["member"]["result"] = mallory.sign({**_azures_result(body), "iss": azures.services.provider.url})

    with pytest.raises(RefusedError, match="not in the trust file"):
        appraised.verify(appraised.signed_again(elsewhere))
    with pytest.raises(RefusedError, match="not in the trust file"):
        verify_by_both(appraised.receipt, trust=azures.trust(azure_attestation=()))
    both = azures.trust(
        azure_attestation=(
            azures.services.pinned(),
            TrustedAzureAttestation(
                address=mallory.address(azures.services.vendors), certificates=(mallory.signing.digest,)
            ),
        )
    )
    assert verify_by_both(appraised.receipt, trust=both)
    for edit in (elsewhere, in_the_others_name):  # both are known, and the owner approved what one of them says
        with pytest.raises((RefusedError, VerificationError)):
            verify_by_both(appraised.signed_again(edit), trust=both)


def test_the_keys_of_one_attestation_service_are_no_keys_of_the_other(appraised: Finished, finished: Finished) -> None:
    def as_ours(body: dict[str, Any]) -> None:
        ((_, certificate),) = body.pop("attestation_keys").items()
        body["attestation_certificates"] = [certificate, certificate]

    with pytest.raises(VerificationError):
        appraised.verify(appraised.signed_again(as_ours))

    def as_azures(body: dict[str, Any]) -> None:
        kid = unverified_header(_vault(body)["member"]["result"])["kid"]
        body["attestation_keys"] = {kid: body.pop("attestation_certificates")[0]}

    with pytest.raises(VerificationError):
        finished.verify(finished.signed_again(as_azures))


def test_new_keys_of_a_provider_count_once_they_are_taken_up(tmp_path: Path) -> None:
    with azure_attested(tmp_path) as azure:
        before = azure.pinned()
        verify_azure_attestation(before)
        azure.provider.rotate()
        with pytest.raises(RefusedError, match="does not name") as refused:
            verify_azure_attestation(before)
        assert (refused.value.step, len(refused.value.mismatches)) == (Step.POLICY, 1)
        (tmp_path / "run").mkdir()
        ended = Finished(AzureRunner(azure, tmp_path / "run"))
    assert ended.verify(ended.receipt)
    with pytest.raises(RefusedError, match="does not name"):
        verify_by_both(ended.receipt, trust=ended.runner.trust(azure_attestation=(before,)))


def test_the_report_of_a_guest_is_bound_to_its_result_by_keys_of_its_own(
    azure: AzureInstallation, tmp_path: Path
) -> None:
    runner, device = in_kind(azure, tmp_path, "snp")
    ended = Finished(runner, device=device)
    other = runner.join(runner.descriptor(runner.ticket()), device=device)
    assert ended.verify(ended.receipt)
    assert ended.verify(_said_again(ended, lambda claims: claims))

    def of_another(body: dict[str, Any]) -> None:
        _vault(body)["member"]["evidence"] = other.evidence.model_dump(mode="json")

    with pytest.raises(VerificationError):
        ended.verify(ended.signed_again(of_another))
    for claim, value in (
        ("x-ms-sevsnpvm-reportdata", "ab" * 64),
        ("x-ms-attestation-type", "sgx"),
        ("x-ms-strongroom-quotehash", "ab" * 32),
        ("x-ms-sevsnpvm-launchmeasurement", "ab" * 48),
    ):
        with pytest.raises(StrongroomError):
            ended.verify(_said_again(ended, lambda claims, claim=claim, value=value: {**claims, claim: value}))


def test_what_is_said_of_a_guest_is_not_said_of_an_enclave(azure: AzureInstallation, tmp_path: Path) -> None:
    """An approval of both kinds, and a result that names the one and holds all that either has to."""
    runner, device = in_kind(azure, tmp_path, "snp", "sgx")
    ended = Finished(runner, device=device)

    def with_more(claims: dict[str, Any]) -> dict[str, Any]:
        config = claims["x-ms-runtime"]["application"] + "00" * 32
        return {**claims, "x-ms-sgx-is-debuggable": False, "x-ms-sgx-config-id": config}

    def as_an_enclave(claims: dict[str, Any]) -> dict[str, Any]:
        return {**with_more(claims), "x-ms-attestation-type": "sgx"}

    assert ended.verify(_said_again(ended, with_more))
    with pytest.raises(VerificationError, match="kind of TEE"):
        ended.verify(_said_again(ended, as_an_enclave))


def test_simulated_hardware_is_not_real_under_a_name_of_azures(tmp_path: Path) -> None:
    """The best that simulated hardware can do: a provider with Azure's name that vouches for it, a Key Vault, a key."""
    with azure_attested(tmp_path, host=AZURE_HOST) as made:
        (tmp_path / "run").mkdir()
        runner = AzureRunner(made, tmp_path / "run")
        assert runner.key.kind == "azure-key-vault"
        assert b"x-ms-strongroom-" not in vault_release_policy(list(runner.approvals.values())).data
        ended = Finished(runner)
        assert json.loads(ended.receipt)["body"]["hardware"] == "real"
        for hardware in ("real", "simulated"):
            with pytest.raises(StrongroomError):
                verify_by_both(ended.receipt, trust=runner.trust(hardware=hardware))

        def as_simulated(body: dict[str, Any]) -> None:
            body["hardware"] = "simulated"

        with pytest.raises(VerificationError, match="hardware of a result"):
            verify_by_both(ended.signed_again(as_simulated), trust=runner.trust())
