"""Verifying a receipt, offline, from the anchors the auditor already has. Never loaded inside a TEE."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from strongroom.attestation.result import AttestationResult
from strongroom.base.encoding import from_b64url, parse_canonical_json, parse_json_object
from strongroom.base.errors import Mismatch, RefusedError, VerificationError
from strongroom.clients.statements import ServiceStatements
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.log.cosignature import Cosignature
from strongroom.policy.approval import Approval, appraise_result, executor_mismatches, validity_mismatches
from strongroom.policy.consent import NO_PROOF, SignedApproval, demand_consent, read_approval
from strongroom.policy.signatures import signer_of
from strongroom.policy.workloads import ShownWorkload, workload_mismatches
from strongroom.receipts.build import body_bytes
from strongroom.receipts.keys import ReleasedKeyIds, released_key_ids
from strongroom.receipts.members import ACTION, VerifiedMember, demand, verify_member
from strongroom.receipts.statement import statement_of, verify_statement
from strongroom.receipts.vaults import VerifiedVault, verify_vaults
from strongroom.receipts.witnesses import demand_witnesses
from strongroom.wire.approvals import ApprovalProof
from strongroom.wire.key_service import CLOSING_TYP, VERSION_TYP, Closing, DatasetVersion, LogProof, RunRecord
from strongroom.wire.receipt import RECEIPT_CONTEXT, Receipt, ReceiptBody
from strongroom.wire.runtime_data import Role
from strongroom.wire.service import Mode
from strongroom.wire.ticket import TICKET_TYP, RunTicket
from strongroom.wire.trust import Trust, TrustedService
from strongroom.wire.workload import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedReceipt:
    """A receipt that held, and what it says, for people.

    Attributes:
        application: Digest of the application that ran.
        description: Its description.
        members: For each TEE: number, role, when it joined, kind of TEE, shape, measurement; of a pod what it was
            configured with, and by its service account's token, where one counted, account, cluster, name and uid.
        inputs, outputs: Version statements by dataset.
        approvals: What the owners had approved, by dataset.
        consents: Who signed it, by dataset of a key service.
        modes: Each key service's identity and the mode it is run in, as the trust file and its closing statement say.
        master_keys: Each key service's identity and how its master key is held, as its closing statement says.
        vaults: What it proves about vaults' keys, by the digest of their statement.
        witnesses: For each key service: which witnesses of its log, of those in the trust file, cosigned the run's end.
        known_witnesses: How many the trust file names, for each key service.
        keys: For each dataset: the write keys that were made or released, and the KEK versions they are under.
        statement: The run as an in-toto statement, where the receipt has one; its signature holds.
        driver_key: The key of the driver's TEE, which signed body and statement.
    """

    body: ReceiptBody
    application: str
    description: Mapping[str, Any]
    ticket: RunTicket
    members: tuple[Mapping[str, str], ...]
    inputs: Mapping[str, DatasetVersion]
    outputs: Mapping[str, DatasetVersion]
    approvals: Mapping[str, Approval]
    consents: Mapping[str, SignedApproval]
    modes: Mapping[str, str]
    master_keys: Mapping[str, str]
    vaults: Mapping[str, VerifiedVault]
    witnesses: Mapping[str, tuple[Cosignature, ...]]
    known_witnesses: Mapping[str, int]
    keys: Mapping[str, ReleasedKeyIds]
    statement: Mapping[str, Any] | None
    driver_key: VerifyingKey


def verify_receipt(
    receipt_bytes: bytes, *, trust: Trust, required_mode: Mode | None = None, min_witnesses: int = 0
) -> VerifiedReceipt:
    """Verify a receipt with nothing but the trust file.

    1. The file is canonical JSON and a receipt; its hardware is the trust file's.
    2. The ticket is signed by its submitter, names the application whose description is shown, and is this run.
    3. Each member's attestation result is signed by a key of the pinned attestation service, ours or Azure's, and its
       evidence verifies under the trusted roots; both say the same code, application, run, role, shape and hardware;
       the code is trusted as that shape.
    4. The body is signed with the key that the driver's evidence names, and so is the statement for other tools, which
       says the same.
    5. Each key service's closing statement holds, names this very body, counts every leaf, and says the mode and the
       holder of the master key that the trust file pins, and the mode that is required.
    6. Each leaf is in the service's log; their numbers have no gap; exactly the members are among them, with their
       shapes; as many witnesses as are demanded cosigned the log with all of them.
    7. Each approval is signed by a trusted owner, or by as many people as a roster demands that leads back to one, and
       covers ticket, members, their workloads and access. The log names it in the run's first leaf.
    8. Inputs and outputs are the versions that the key services countersigned and logged.
    9. What it says of vaults' keys holds (`verify_vaults`).

    Args:
        receipt_bytes: The file.
        trust: The auditor's own anchors; none is ever taken from the receipt.
        required_mode: The mode in which every key service of the run must have been run; None accepts both.
        min_witnesses: How many witnesses of each key service's log must have cosigned, where the trust file demands
            fewer.

    Returns:
        What the receipt proves.

    Raises:
        FormatError: Not a receipt, or not byte for byte canonical.
        VerificationError: A signature, proof or digest does not hold.
        RefusedError: It holds, but for other anchors or other code than trusted; all mismatches are named.
    """
    parsed = parse_canonical_json(receipt_bytes)  # 1
    receipt = Receipt.from_json(receipt_bytes)
    body, content = receipt.body, body_bytes(parsed)
    demand("versions of receipt and body", receipt.version, body.version)
    demand("hardware", trust.hardware, body.hardware)
    if not body.records and not body.vaults:
        raise VerificationError("the receipt names nothing that kept the keys", action=ACTION)
    ticket = _verify_ticket(body)  # 2
    members = {identity: _verify_members(body, record, trust=trust) for identity, record in body.records.items()}  # 3
    drivers = {identity: verify_member(body, each.member, trust=trust) for identity, each in body.vaults.items()}
    first_members = [*members.values(), *((driver,) for driver in drivers.values())]
    results = [[member.result for member in each] for each in first_members]
    driver_key = _verify_signature(receipt, content, results)  # 4
    statement = _verify_statement(receipt, content, driver_key)
    closings, statements = _verify_closings(receipt, content, trust=trust)  # 5
    if required_mode is not None:
        _demand_mode(closings, required_mode)
        demand("keys in vaults, which have no such mode", [], sorted(body.vaults))
    if min_witnesses:
        demand("keys in vaults, which have no log", [], sorted(body.vaults))
    opened: dict[str, Mapping[str, Any]] = {}
    witnesses: dict[str, tuple[Cosignature, ...]] = {}
    leaves: list[Mapping[str, Any]] = []
    workloads: dict[str, tuple[Workload | None, ...]] = {}
    for identity, record in body.records.items():
        own = _verify_leaves(record, closings[identity], statements=statements[identity], run=body.run)  # 6
        opened[identity] = own[0]
        leaves += own
        _verify_executors([member.result for member in members[identity]], driver_key=driver_key)
        workloads[identity] = _verify_joinings(members[identity], own)
        service = _key_service(trust, identity)
        witnesses[identity] = demand_witnesses(closings[identity].proof.checkpoint, service, minimum=min_witnesses)
    joined = {
        identity: tuple(zip((member.result for member in each), workloads[identity], strict=True))
        for identity, each in members.items()
    }
    consents = _verify_approvals(body, ticket, joined=joined, opened=opened, trust=trust)  # 7
    approvals = {name: signed.approval for name, signed in consents.items()}
    driver_results = {identity: each.result for identity, each in drivers.items()}
    vaults = verify_vaults(body, ticket, drivers=driver_results, trust=trust)  # 9
    for vault in vaults.values():
        approvals |= vault.approvals
    demand("approved datasets", sorted(ticket.datasets), sorted(approvals))
    inputs, outputs = _verify_versions(body, ticket, closings=closings, statements=statements, vaults=vaults)  # 8
    shown = [*(record.members for record in body.records.values()), *((each.member,) for each in body.vaults.values())]
    return VerifiedReceipt(
        body=body,
        application=ticket.application,
        description=parse_json_object(body.application),
        ticket=ticket,
        members=tuple(
            {
                "number": str(member.number),
                "role": member.role,
                "joined_at": member.joined_at,
                "tee": member.evidence.kind,
                "shape": verified.shape,
                "measurement": verified.measurement,
                **_pod(verified),
                **_workload(workload),
            }
            for member, verified, workload in zip(
                shown[0], first_members[0], next(iter(workloads.values()), (None,)), strict=True
            )
        ),
        inputs=inputs,
        outputs=outputs,
        approvals=approvals,
        consents=consents,
        modes={identity: closing.mode for identity, closing in closings.items()},
        master_keys={identity: closing.master_key or "not said" for identity, closing in closings.items()},
        vaults=vaults,
        witnesses=witnesses,
        known_witnesses={identity: len(_key_service(trust, identity).witnesses) for identity in body.records},
        keys=released_key_ids(leaves),
        statement=statement,
        driver_key=driver_key,
    )


def _verify_ticket(body: ReceiptBody) -> RunTicket:
    match unverified_header(body.ticket):
        case {"jwk": dict(jwk)}:
            key = VerifyingKey.from_jwk(jwk)
        case _:
            raise VerificationError("the run ticket names no key", action=ACTION)
    payload = verify_jws(body.ticket, key=key, typ=TICKET_TYP).payload
    ticket = RunTicket.from_json(payload)
    demand("submitter", ticket.submitter, key.thumbprint)
    demand("run", sha256_hex(payload), body.run)
    demand("run id", ticket.run_id, body.run_id)
    parse_canonical_json(body.application.encode())
    demand("application", ticket.application, sha256_hex(body.application.encode()))
    return ticket


def _verify_members(body: ReceiptBody, record: RunRecord, *, trust: Trust) -> tuple[VerifiedMember, ...]:
    demand("run of the record", body.run, record.run)
    if [member.number for member in record.members] != list(range(len(record.members))):
        raise VerificationError("the members are not numbered without a gap", action=ACTION)
    if not record.members or [member.role for member in record.members].count("driver") != 1:
        raise VerificationError("a run has one driver", action=ACTION)
    return tuple(verify_member(body, member, trust=trust) for member in record.members)


def _verify_signature(receipt: Receipt, content: bytes, members: Sequence[Sequence[AttestationResult]]) -> VerifyingKey:
    keys = {_signing_key(results[0]).thumbprint: _signing_key(results[0]) for results in members}
    if len(keys) != 1:
        raise VerificationError("the key services saw different drivers", action=ACTION)
    (driver_key,) = keys.values()
    driver_key.verify(RECEIPT_CONTEXT + content, from_b64url(receipt.signature))
    return driver_key


def _verify_statement(receipt: Receipt, content: bytes, driver_key: VerifyingKey) -> dict[str, Any] | None:
    if receipt.attestation is None:
        demand("version of a receipt without a statement", 1, receipt.version)
        return None
    statement = verify_statement(receipt.attestation, key=driver_key)
    expected = statement_of(receipt.body, digest=sha256_hex(content))
    demand("statement", parse_json_object(expected), statement)
    return statement


def _signing_key(result: AttestationResult) -> VerifyingKey:
    match result.runtime.get("signing_key"):
        case dict(jwk):
            return VerifyingKey.from_jwk(jwk)
        case _:
            raise VerificationError("the evidence names no signing key", action=ACTION)


def _verify_executors(members: Sequence[AttestationResult], *, driver_key: VerifyingKey) -> None:
    for result in members[1:]:
        demand("driver of an executor", driver_key.thumbprint, result.runtime.get("driver_key"))


def _verify_closings(
    receipt: Receipt, content: bytes, *, trust: Trust
) -> tuple[dict[str, Closing], dict[str, ServiceStatements]]:
    body = receipt.body
    demand("closing statements", sorted(body.records), sorted(receipt.closings))
    finished_at = datetime.strptime(body.finished_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    closings: dict[str, Closing] = {}
    checked: dict[str, ServiceStatements] = {}
    for identity, token in receipt.closings.items():
        pinned = _key_service(trust, identity)
        statements = ServiceStatements(
            identity=identity, now=lambda: finished_at, predecessors=pinned.identities_until(identity) or ()
        )
        closing = Closing.from_json(statements.verify(token, typ=CLOSING_TYP))
        demand("log key", pinned.log_key, statements.log_key)
        demand("mode of the key service", pinned.mode, closing.mode)
        if pinned.master_key is not None:
            demand("holder of the master key", pinned.master_key, closing.master_key)
        demand("key service", identity, closing.key_service)
        demand("run closed", body.run, closing.run)
        demand("outcome", body.outcome, closing.outcome)
        demand("receipt digest", sha256_hex(content), closing.receipt)
        demand("leaves", len(body.records[identity].leaves), closing.leaves)
        closings[identity], checked[identity] = closing, statements
    return closings, checked


def _demand_mode(closings: Mapping[str, Closing], required: Mode) -> None:
    mismatches = tuple(
        Mismatch(name=f"mode of key service {identity[:12]}", expected=required, actual=closing.mode)
        for identity, closing in closings.items()
        if closing.mode != required
    )
    if mismatches:
        raise RefusedError(
            "a key service of the run was not run as it is demanded here", action=ACTION, mismatches=mismatches
        )


def _verify_leaves(
    record: RunRecord, closing: Closing, *, statements: ServiceStatements, run: str
) -> list[dict[str, Any]]:
    """Verify a run's leaves at one key service and return them; the first one opened it."""
    proofs = (*closing.member_proofs, closing.proof)
    demand("checkpoints of the closing", 1, len({proof.checkpoint for proof in proofs}))
    demand("proved leaves", [p.leaf for p in record.leaves], [p.leaf for p in closing.member_proofs])
    leaves = [_leaf(proof, statements) for proof in (*record.leaves, *closing.member_proofs, closing.proof)]
    count = len(record.leaves)
    for number, leaf in enumerate([*leaves[:count], leaves[-1]]):
        demand("run of a leaf", run, leaf.get("run"))
        demand("number of a leaf", number, leaf.get("number"))
    events = [leaf.get("event") for leaf in leaves[:count]]
    demand("first leaf", "run-opened", events[0] if events else None)
    demand("last leaf", "run-closed", leaves[-1].get("event"))
    demand("receipt in the log", closing.receipt, leaves[-1].get("receipt"))
    demand("outcome in the log", closing.outcome, leaves[-1].get("outcome"))
    joined = [leaf.get("result") for leaf in leaves[:count] if leaf.get("event") in {"run-opened", "member-joined"}]
    demand("members in the log", [sha256_hex(member.result.encode()) for member in record.members], joined)
    versions = {name: sha256_hex(token.encode()) for name, token in closing.versions.items()}
    demand("versions in the log", versions, leaves[-1].get("versions"))
    return [*leaves[:count], leaves[-1]]


def _verify_joinings(
    members: Sequence[VerifiedMember], leaves: Sequence[Mapping[str, Any]]
) -> tuple[Workload | None, ...]:
    """Compare the leaves about members with what was verified; return the workload that each has shown.

    Leaves from before there were shapes name none. Who a pod is, is the key service's word: the token is not kept.
    """
    joined = [leaf for leaf in leaves if leaf.get("event") in {"run-opened", "member-joined"}]
    workloads: list[Workload | None] = []
    for member, leaf in zip(members, joined, strict=True):
        demand("shape in the log", member.shape, leaf.get("shape", member.shape))
        workloads.append(Workload.from_object(leaf["workload"]) if "workload" in leaf else None)
    pods = [(each.issuer, each.pod_uid) for each in workloads if each is not None]
    demand("pods that joined more than once", len(set(pods)), len(pods))
    return tuple(workloads)


def _pod(member: VerifiedMember) -> dict[str, str]:
    initdata = member.initdata
    if initdata is None:
        return {}
    return {"configuration": initdata.configuration, **({} if initdata.image is None else {"image": initdata.image})}


def _workload(workload: Workload | None) -> dict[str, str]:
    if workload is None:
        return {}
    return {
        "cluster": workload.issuer,
        "service_account": workload.subject,
        "pod": workload.pod,
        "pod_uid": workload.pod_uid,
    }


def _demand_opened_under(name: str, signed: SignedApproval, opened: Mapping[str, Any]) -> None:
    """Compare an approval with the leaf that opened the run: it is that one, and no roster of then is left out."""
    demand(f"approval for {name} in the log", _named(opened, "approvals", name), signed.id)
    roster = _named(opened, "rosters", name)
    if roster is not None:
        shown = [each.digest for each in signed.rosters if each.digest == roster]
        demand(f"roster of {name} in the log", [roster], shown)


def _named(leaf: Mapping[str, Any], member: str, name: str) -> object:
    named = leaf.get(member)
    return named.get(name) if isinstance(named, dict) else None


def _leaf(proof: LogProof, statements: ServiceStatements) -> dict[str, Any]:
    statements.check_proof(proof)
    return parse_json_object(proof.leaf)


def _verify_approvals(
    body: ReceiptBody,
    ticket: RunTicket,
    *,
    joined: Mapping[str, Sequence[tuple[AttestationResult, Workload | None]]],
    opened: Mapping[str, Mapping[str, Any]],
    trust: Trust,
) -> dict[str, SignedApproval]:
    approvals: dict[str, SignedApproval] = {}
    bindings = _bindings(body)
    for identity, record in body.records.items():
        owners = (trust.party_of(identity) or trust).owners  # of that key service: nobody approves for others' datasets
        for name, token in record.approvals.items():
            signed = _approval(token, record.proofs.get(name, NO_PROOF), outcome=body.outcome, owners=owners)
            approval = signed.approval
            _demand_opened_under(name, signed, opened[identity])
            demand("approval's dataset", name, approval.dataset)
            demand("approval's key service", identity, approval.key_service)
            demand("approval's back end", "strongroom", approval.back_end)
            demand("approval's application", ticket.application, approval.application)
            binding = _binding(bindings, name)
            demand("approval's access", binding.get("access"), approval.access)
            demand("key service of the binding", identity, binding.get("key_service"))
            if ticket.submitter not in approval.submitters:
                raise RefusedError("the approval does not name the submitter", action=ACTION)
            for member, (result, workload) in zip(record.members, joined[identity], strict=True):
                _demand_approved(approval, result, workload, role=member.role)
            _demand_within(approval, record, version=ticket.datasets.get(name))
            approvals[name] = signed
    return approvals


def _demand_within(approval: Approval, record: RunRecord, *, version: int | None) -> None:
    """Compare a run with an approval's limits, as far as one run shows: its time, its executors, what it read."""
    opened_at = datetime.strptime(record.members[0].joined_at, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    mismatches = list(validity_mismatches(approval, now=opened_at))
    for number in range(len(record.members) - 1):
        mismatches += executor_mismatches(approval, in_run=number, in_all=0)
    if version is not None and approval.versions is not None and version not in approval.versions:
        expected = f"version {approval.versions}"
        mismatches.append(Mismatch(name=f"input {approval.dataset}", expected=expected, actual=str(version)))
    if mismatches:
        raise RefusedError("the run went beyond an approval", action=ACTION, mismatches=tuple(mismatches))


def _demand_approved(approval: Approval, result: AttestationResult, workload: Workload | None, *, role: Role) -> None:
    shown = ShownWorkload(workload=workload)
    mismatches = (
        *appraise_result(approval, result.claims, role=role),
        *workload_mismatches(approval.workloads, shown, role=role),
    )
    if mismatches:
        raise RefusedError("a member of the run does not meet an approval", action=ACTION, mismatches=mismatches)


def _approval(token: str, proof: ApprovalProof, *, outcome: str, owners: Sequence[str]) -> SignedApproval:
    """Read an approval back to its key service's owners, who are known by thumbprint: signatures carry their keys."""
    root = signer_of(proof.rosters[0].statement if proof.rosters else token)
    if root not in owners:
        raise RefusedError(
            "the approval is signed by nobody this trust file knows",
            action=ACTION,
            mismatches=(Mismatch(name="owner", expected=" or ".join(owners), actual=root),),
        )
    signed = read_approval(token, proof, owners=dict.fromkeys(owners))
    # A roster may have ended the approval meanwhile: nothing was committed then, and the receipt says that it failed.
    demand_consent(signed if outcome == "succeeded" else replace(signed, ended_by=None))
    return signed


def _verify_versions(
    body: ReceiptBody,
    ticket: RunTicket,
    *,
    closings: Mapping[str, Closing],
    statements: Mapping[str, ServiceStatements],
    vaults: Mapping[str, VerifiedVault],
) -> tuple[dict[str, DatasetVersion], dict[str, DatasetVersion]]:
    bindings = _bindings(body)
    inputs: dict[str, DatasetVersion] = {name: each for vault in vaults.values() for name, each in vault.inputs.items()}
    for name, token in body.inputs.items():
        if name in inputs:
            continue
        service = statements.get(str(_binding(bindings, name).get("key_service")))
        if service is None:
            raise VerificationError(f"the key service of dataset {name} has no part in the receipt", action=ACTION)
        version = _version(token, service, name)
        if ticket.datasets.get(name) is not None:
            demand("version of an input", ticket.datasets[name], version.number)
        inputs[name] = version
        if body.version > 1:
            _verify_version_leaf(body.input_proofs.get(name), token, name, service)
    outputs: dict[str, DatasetVersion] = {
        name: each for vault in vaults.values() for name, each in vault.outputs.items()
    }
    for name, version in outputs.items():
        demand("outputs", True, name in body.outputs)  # noqa: FBT003 - a value
        demand("output manifest", body.outputs[name].manifest_digest, version.manifest_digest)
    for identity, closing in closings.items():
        for name, token in closing.versions.items():
            demand("key service of an output", bindings[name]["key_service"] if name in bindings else None, identity)
            version = _version(token, statements[identity], name)
            output = body.outputs.get(name)
            demand("output manifest", output and output.manifest_digest, version.manifest_digest)
            outputs[name] = version
    demand("outputs", sorted(body.outputs), sorted(outputs))
    unread = [name for name, number in ticket.datasets.items() if number is not None and name not in inputs]
    demand("inputs that are not shown", [], unread)
    return inputs, outputs


def _bindings(body: ReceiptBody) -> dict[str, Any]:
    bindings = parse_json_object(body.application).get("datasets")
    if not isinstance(bindings, dict):
        raise VerificationError("the application's description binds no datasets", action=ACTION)
    return bindings


def _binding(bindings: Mapping[str, Any], name: str) -> dict[str, Any]:
    match bindings.get(name):
        case dict(binding):
            return binding
        case _:
            raise VerificationError(f"the application does not bind dataset {name}", action=ACTION)


def _version(token: str, statements: ServiceStatements, name: str) -> DatasetVersion:
    version = DatasetVersion.from_json(statements.verify(token, typ=VERSION_TYP))
    demand("dataset of a version", name, version.dataset)
    return version


def _verify_version_leaf(proof: LogProof | None, token: str, name: str, statements: ServiceStatements) -> None:
    if proof is None:
        raise VerificationError(f"the receipt does not prove that the version of {name} is logged", action=ACTION)
    leaf = _leaf(proof, statements)
    found = {key: leaf.get(key) for key in ("event", "dataset", "statement")}
    expected = {"event": "dataset-version", "dataset": name, "statement": sha256_hex(token.encode())}
    demand("log entry of an input", expected, found)


def _key_service(trust: Trust, identity: str) -> TrustedService:
    for party in trust.parties():
        for service in party.services:
            if service.service == "key-service" and service.identities_until(identity) is not None:
                return service
    raise RefusedError(
        "a key service of the run is not in the trust file",
        action=ACTION,
        mismatches=(Mismatch(name="key service", expected="one of the trust file's", actual=identity),),
    )
