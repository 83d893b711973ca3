"""The end of a run in the driver's TEE: manifests, receipt, closing, sealed output (step 8)."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

from strongroom.agent.member import Membership, open_bases
from strongroom.agent.patience import when_it_answers
from strongroom.agent.start import Start
from strongroom.attestation.endorsements.platforms import platform_of
from strongroom.base.clock import Clock, to_rfc3339
from strongroom.base.encoding import to_b64url
from strongroom.base.errors import ConflictError, RefusedError, StrongroomError
from strongroom.base.limits import LIMITS
from strongroom.clients.key_service import TeeKeyServiceClient
from strongroom.crypto.jose import seal_to_recipients, unverified_payload
from strongroom.datasets.manifest import build_manifest
from strongroom.datasets.storage import Storage
from strongroom.policy.approval import Approval
from strongroom.receipts.build import evidence_of, receipt_digest, sign_receipt
from strongroom.wire.key_service import CloseRequest, Commit, LogProof, RunRecord
from strongroom.wire.receipt import Output, ReceiptBody, VaultRecord

_CLOSE_ATTEMPTS: Final = 5
_PATIENCE_S: Final = 45.0  # less than the accepted skew of clocks, after which a request is no longer fresh
Keep: TypeAlias = Callable[[str, bytes], None]
"""Gives the host a file that the run leaves behind, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What the driver left behind."""

    exit_status: int
    started_at: datetime
    log: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What the host receives at the end: names of the files that were kept."""

    receipt: str
    output: str | None
    lines: int


def finish_run(member: Membership, *, start: Start, ended: Ended, clock: Clock, keep: Keep) -> Kept:
    """Write the next versions, close the run everywhere, keep the receipt and the sealed output.

    1. If the application ended well: write one manifest for each dataset it changed, which nobody names yet.
    2. Ask each key service for the run's members and leaves; build the receipt over them.
    3. Close at each key service: commits and the receipt's digest take effect in one transaction.
       A member that joined meanwhile changes the leaves: go back to 2. Another version that came in between: put what
       this run added on top of it, if it did no more than add, and go back to 2.
    4. Give versions of datasets under vaults' keys their names on storage, one after the other.
    5. Keep the receipt and the sealed output.

    Raises:
        ConflictError: Another run made the next version first, and this run's changes do not go on top of it, or others
            were faster again and again; no output version of this run appears there.
        StrongroomError: Storage or a key service failed; the run stays without an output version.
    """
    outcome: Literal["succeeded", "failed"] = "succeeded" if ended.exit_status == 0 else "failed"
    commits, outputs = _write_manifests(member, start) if outcome == "succeeded" else ({}, {})  # 1
    inputs = dict(member.inputs)
    input_proofs = {
        name: proof for release in member.releases.values() for name, proof in release.version_proofs.items()
    }
    log = ended.log.read_bytes() if ended.log.exists() else b""
    for attempt in range(_CLOSE_ATTEMPTS):
        records = _records(member, clock=clock)  # 2
        vaults = _vault_records(member, commits, now=clock.now())
        signers = when_it_answers(
            partial(member.attestation.signers, _results(member, records.values())), patience_s=_PATIENCE_S
        )
        body = ReceiptBody(
            hardware="simulated" if _is_simulated(member) else "real",
            run=member.run,
            run_id=member.ticket.run_id,
            outcome=outcome,
            exit_status=ended.exit_status,
            started_at=to_rfc3339(ended.started_at),
            finished_at=to_rfc3339(clock.now()),
            ticket=start.ticket,
            application=member.application.description.to_json().decode(),
            attestation_service=start.attestation_service.url,
            attestation_certificates=tuple(map(to_b64url, signers.certificates)),
            attestation_keys={kid: to_b64url(certificate) for kid, certificate in signers.keys.items()},
            endorsements=when_it_answers(partial(_endorsements, member, records.values()), patience_s=_PATIENCE_S),
            records=records,
            vaults=vaults,
            inputs=inputs,
            input_proofs=input_proofs,
            outputs=outputs,
            log_digest=hashlib.sha256(log).hexdigest(),
        )
        try:
            closings = _close(member, body, commits, clock=clock)  # 3
            break
        except ConflictError:
            if attempt == _CLOSE_ATTEMPTS - 1:
                raise
            rebased = _rebase(member, start, commits, clock=clock)
            if rebased:
                inputs |= {name: statement for name, (statement, _) in rebased.items()}
                input_proofs |= {name: proof for name, (_, proof) in rebased.items()}
                commits, outputs = _write_manifests(member, start)
            elif not _has_grown(member, records, clock=clock):
                raise
    else:  # pragma: no cover - the loop ends by break or raise
        raise ConflictError("the run could not be closed")
    for identity, vault in member.vaults.items():  # 4
        vault.publish(body.vaults[identity].outputs)
    return _keep(member, body=body, closings=closings, log=log, keep=keep)  # 5


def _records(member: Membership, *, clock: Clock) -> dict[str, RunRecord]:
    """Return what each key service knows of the run's members."""

    def ask(service: TeeKeyServiceClient) -> RunRecord:
        return service.record(now=clock.now())

    return {
        identity: when_it_answers(partial(ask, service), patience_s=_PATIENCE_S)
        for identity, service in member.services.items()
    }


def _is_simulated(member: Membership) -> bool:
    released = any(release.simulated for release in member.releases.values())
    return released or any(vault.admission.simulated for vault in member.vaults.values())


def _vault_records(member: Membership, commits: Mapping[str, list[Commit]], *, now: datetime) -> dict[str, VaultRecord]:
    """Return what is known of each vault's key, the new versions signed and not yet published."""
    return {
        identity: vault.record(
            result=member.result,
            evidence=member.evidence,
            joined_at=member.joined_at,
            outputs={commit.dataset: vault.statement(commit, now=now) for commit in commits.get(identity, [])},
        )
        for identity, vault in member.vaults.items()
    }


def _results(member: Membership, records: Iterable[RunRecord]) -> list[str]:
    """Return the attestation results that the receipt holds."""
    return [member.result, *(each.result for record in records for each in record.members)]


def _endorsements(member: Membership, records: Iterable[RunRecord]) -> dict[str, str]:
    """Return what the evidence of every member verifies with, by the name of its platform."""
    evidence = [member.evidence, *(each.evidence for record in records for each in record.members)]
    platforms = {platform_of(evidence_of(each)) for each in evidence}
    return {platform: member.attestation.endorsements(platform) for platform in sorted(platforms)}


def _write_manifests(member: Membership, start: Start) -> tuple[dict[str, list[Commit]], dict[str, Output]]:
    commits: dict[str, list[Commit]] = {}
    outputs: dict[str, Output] = {}
    for name, dataset in member.datasets.items():
        if dataset.write is None or not dataset.view.changed:
            continue
        binding = member.application.description.datasets[name]
        files = dataset.view.next_files()
        data, digest = build_manifest(
            dataset=name,
            key_service=binding.key_service,
            base=dataset.view.base,
            write=dataset.write,
            files=files,
        )
        Storage(start.storage[name]).write_manifest(data, digest)
        write_ids = tuple(sorted({dataset.write.write_id, *(file.write_id for file in files)}))
        commits.setdefault(binding.key_service, []).append(
            Commit(
                dataset=name,
                base=dataset.view.base.header.number if dataset.view.base else None,
                manifest_digest=digest,
                write_ids=write_ids,
            )
        )
        outputs[name] = Output(
            manifest_digest=digest, files=len(files), size_bytes=sum(file.length_bytes for file in files)
        )
    return commits, outputs


def _rebase(
    member: Membership, start: Start, commits: Mapping[str, list[Commit]], *, clock: Clock
) -> dict[str, tuple[str, LogProof]]:
    """Put what this run added on top of versions that came in between.

    Returns:
        The statements of these versions with their log proofs, by dataset; none where nothing came in between.

    Raises:
        ConflictError: This run did more than add.
    """
    rebased: dict[str, tuple[str, LogProof]] = {}
    for identity, committed in commits.items():
        service = member.services.get(identity)
        if service is None:
            continue  # a vault's key: whoever takes the version's number first keeps it
        for name in (commit.dataset for commit in committed):
            try:
                statement, proof = service.rebase(name, now=clock.now())
            except RefusedError:
                continue  # nothing came in between, or the application pins its version: the conflict stands
            versions = {name: service.version(statement, dataset=name)}
            base = open_bases(service, versions, storage=start.storage, clock=clock)[name]
            member.datasets[name].view.rebase(base.manifest)
            rebased[name] = (statement, proof)
    return rebased


def _close(
    member: Membership, body: ReceiptBody, commits: Mapping[str, list[Commit]], *, clock: Clock
) -> dict[str, str]:
    closings: dict[str, str] = {}
    # Services that only read come first: an owner who revoked lets no other owner's dataset get a version of this run.
    for identity in sorted(member.services, key=lambda identity: bool(commits.get(identity))):
        service = member.services[identity]
        request = CloseRequest(
            run=member.run,
            issued_at=to_rfc3339(clock.now()),
            outcome=body.outcome,
            leaves=len(body.records[identity].leaves),
            receipt=receipt_digest(body),
            commits=tuple(commits.get(identity, [])),
        )
        # Again also where the answer was lost, or its witnesses did not answer in time.
        closings[identity], *_ = when_it_answers(partial(service.close, request), patience_s=_PATIENCE_S)
    return closings


def _has_grown(member: Membership, records: Mapping[str, RunRecord], *, clock: Clock) -> bool:
    return any(
        len(record.leaves) > len(records[identity].leaves) for identity, record in _records(member, clock=clock).items()
    )


def _keep(member: Membership, *, body: ReceiptBody, closings: dict[str, str], log: bytes, keep: Keep) -> Kept:
    receipt_name, output_name = f"{body.run_id}.receipt.json", f"{body.run_id}.output.jwe"
    recipients = _recipients((*body.records.values(), *body.vaults.values()))
    if recipients and log:
        keep(output_name, seal_to_recipients(_sealable(log), recipient_jwks=recipients))
    keep(receipt_name, sign_receipt(body, key=member.signing_key, closings=closings))
    return Kept(receipt=receipt_name, output=output_name if recipients and log else None, lines=log.count(b"\n"))


def _sealable(log: bytes) -> bytes:
    """Return the output as far as it can be sealed: all of it, or its end, which then says so."""
    if len(log) <= LIMITS.sealed_bytes:
        return log
    notice = f"strongroom: of {len(log)} bytes of output only the last are kept\n".encode()
    return notice + log[len(log) - LIMITS.sealed_bytes + len(notice) :]


def _recipients(records: Iterable[RunRecord | VaultRecord]) -> list[dict[str, Any]]:
    """Return the recipients that every approval of the run names: one owner alone cannot let others' data out."""
    named: list[list[dict[str, str]]] = [
        [dict(jwk) for jwk in Approval.from_json(unverified_payload(approval)).recipients]
        for record in records
        for approval in record.approvals.values()
    ]
    return [dict(jwk) for jwk in (named[0] if named else []) if all(jwk in others for others in named)]


def abandon_run(member: Membership, *, start: Start, ended: Ended, clock: Clock, keep: Keep) -> Kept | None:
    """Close a run that ended badly, as far as the services still answer."""
    try:
        return finish_run(member, start=start, ended=ended, clock=clock, keep=keep)
    except StrongroomError:
        return None
