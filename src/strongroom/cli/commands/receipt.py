"""`strongroom receipt`: the proof of a run, looked at and verified offline."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import NotFoundError
from strongroom.cli.approval_words import SHAPE_WORDS
from strongroom.cli.options import json_option, state_option
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, print_json, printable, say, short
from strongroom.crypto.jose import unverified_payload
from strongroom.datasets.storage import write_file
from strongroom.policy.key_back_ends import not_enforced
from strongroom.receipts.statement import shape_said
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.submit.run import load_trust
from strongroom.wire.key_service import Closing, DatasetVersion, RunMember
from strongroom.wire.model import SHAPES
from strongroom.wire.receipt import Receipt, ReceiptBody
from strongroom.wire.service import Mode
from strongroom.wire.vault_key import parse_vault_key

_FILE = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group()
def receipt() -> None:
    """Look at the proof of a run, and verify it offline."""


@receipt.command()
@_FILE
@json_option
def show(*, file: Path, as_json: bool) -> None:
    """Show what the receipt FILE says, without verifying anything."""
    parsed = Receipt.from_json(read_file(file, what="the receipt"))
    if as_json:
        print_json(parsed.model_dump(mode="json"))
        return
    say("NOT verified (use: strongroom receipt verify). The receipt says:")
    _print_body(parsed.body)
    for identity, token in parsed.closings.items():
        closing = Closing.from_json(unverified_payload(token))
        _print_key_service(identity, closing.mode, closing.master_key or "not said")


@receipt.command(epilog=examples("strongroom receipt verify 3f9c….receipt.json --trust trust.json"))
@_FILE
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The anchors to verify with.  [default: trust.json of the state folder]",
)
@click.option(
    "--require-mode",
    type=click.Choice(["attested", "owner-operated"]),
    help="Refuse a run whose key services were not all run in this mode.",
)
@click.option(
    "--min-witnesses",
    type=click.IntRange(0, 32),
    default=0,
    metavar="NUMBER",
    help="How many witnesses of each key service's log must have cosigned.  [default: what the trust file demands]",
)
@json_option
@state_option
def verify(
    *, file: Path, trust: Path | None, require_mode: Mode | None, min_witnesses: int, as_json: bool, state: State
) -> None:
    """Verify the receipt FILE, offline, with nothing but a trust file.

    The trust file is the one that `strongroom up` wrote, or the one its owner gave you. Nothing is taken from the
    receipt itself, no service is asked, and every byte counts.
    """
    content = read_file(file, what="the receipt")
    verified = verify_receipt(
        content, trust=load_trust(trust or state.trust), required_mode=require_mode, min_witnesses=min_witnesses
    )
    if as_json:
        print_json(_proof_json(verified))
        return
    say(f"{file.name}: verified")
    _print_body(verified.body)
    _print_proof(verified)


@receipt.command(epilog=examples("strongroom receipt export 3f9c….receipt.json --format dsse > run.intoto.json"))
@_FILE
@click.option(
    "--format", "form", type=click.Choice(["dsse"]), required=True, help="dsse: in-toto Statement in an envelope."
)
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The anchors to verify with.  [default: trust.json of the state folder]",
)
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write the public key that signed it into FILE (PEM), for tools that verify the envelope.",
)
@state_option
def export(*, file: Path, form: str, trust: Path | None, key: Path | None, state: State) -> None:
    """Print the run's statement for other people's tools, once the receipt FILE is verified.

    The driver's agent signed it inside its TEE, with a key of that one run. An envelope says nothing of that key: only
    the receipt proves whose it is. So the receipt is verified first, and nothing is printed if it does not hold.
    """
    content = read_file(file, what="the receipt")
    verified = verify_receipt(content, trust=load_trust(trust or state.trust))
    envelope = Receipt.from_json(content).attestation
    if envelope is None:
        raise NotFoundError(f"{file.name} has no statement", action=f"Receipts have one from version 2 on ({form}).")
    if key is not None:
        write_file(key, verified.driver_key.to_pem().encode("ascii"))
    print_json(envelope.model_dump(mode="json"))


def _print_body(body: ReceiptBody) -> None:
    description = parse_json_object(body.application)
    simulated = ": protects nothing" if body.hardware == "simulated" else ""
    _line("run", f"{body.run_id} ({body.outcome}, exit status {body.exit_status})")
    _line("time", f"{body.started_at} to {body.finished_at}")
    _line("hardware", f"{body.hardware}{simulated}")
    _line("attested by", f"{body.attestation_service}{' (Azure Attestation)' if body.attestation_keys else ''}")
    _line("application", f"{description.get('name')}, arguments {_joined(description.get('arguments'))}")
    shapes = [shape_said(member.result) for member in _first_members(body)]
    for shape in SHAPES:
        if count := shapes.count(shape):
            _line("shape", f"{shape}, {count} of {len(shapes)} TEEs: {SHAPE_WORDS[shape]}")
    for record in body.vaults.values():
        key = parse_vault_key(record.statement)
        _line(
            "back end", f"{key.kind}: {', '.join(record.approvals)} under {key.kid}; no log, runs and TEEs not counted"
        )
    for name, output in body.outputs.items():
        size = f"{output.files} files, {output.size_bytes:,} bytes"
        _line("wrote", f"{name}: {size}, manifest {short(output.manifest_digest)}")


def _print_proof(verified: VerifiedReceipt) -> None:
    _line("digest", verified.application)
    for member in verified.members:
        _line(f"TEE {member['number']}", ", ".join(_member_words(member)))
    for name, version in verified.inputs.items():
        _line("input", f"{name} version {version.number}, manifest {short(version.manifest_digest)}")
    for name, version in verified.outputs.items():
        _line("output", f"{name} version {version.number}, manifest {short(version.manifest_digest)}")
    for name, approval in verified.approvals.items():
        runs = (
            f"in at most {approval.max_runs} run(s)" if approval.back_end == "strongroom" else "in any number of runs"
        )
        shapes = " or ".join(approval.admitted_shapes)
        _line("approved", f"{name}: {approval.access}, {runs}, hardware = {approval.machines}, {shapes}")
    for name, signed in verified.consents.items():
        people = ", ".join(map(short, signed.signers))
        _line("signed by", f"{name}: {len(signed.signers)} of {signed.needed} needed: {people}")
    for name, ids in verified.keys.items():
        writes, keks = " ".join(map(short, ids.write_ids)), " ".join(map(short, ids.keks))
        _line("keys", f"{name}: of write(s) {writes or 'none'}, under KEK {keks or 'not named'}")
    for identity, mode in verified.modes.items():
        names = [each.witness for each in verified.witnesses[identity]]
        _print_key_service(identity, mode, verified.master_keys[identity], witnesses=len(names))
        known = verified.known_witnesses[identity]
        _line(
            "witnesses", f"{len(names)} of {known} known ones cosigned its log{': ' if names else ''}{', '.join(names)}"
        )
    for identity, vault in verified.vaults.items():
        _line("vault", f"{short(identity)} ({vault.back_end}): key {vault.key.kid}")
        _line("not enforced", "; ".join(not_enforced(vault.back_end)))


def _first_members(body: ReceiptBody) -> list[RunMember]:
    """Return the run's members as one key service has them; with vaults alone, the driver."""
    lists = [list(record.members) for record in body.records.values()]
    return next(iter([*lists, *([record.member] for record in body.vaults.values())]), [])


def _member_words(member: Mapping[str, str]) -> Iterator[str]:
    yield member["role"]
    yield f"joined {member['joined_at']}"
    yield f"{member['shape']} ({member['tee']})"
    yield f"{'node' if member['shape'] == 'confidential-node' else 'code'} {short(member['measurement'])}"
    if "configuration" in member:
        yield f"configuration {short(member['configuration'])}, image {member.get('image', 'in it')}"
    if "pod" in member:
        account = member["service_account"].removeprefix("system:serviceaccount:")
        yield printable(f"pod {member['pod']} ({member['pod_uid']}) of {account} at {member['cluster']}")


def _print_key_service(identity: str, mode: str, master_key: str, *, witnesses: int = 0) -> None:
    _line("key service", f"{short(identity)} ({mode}: {_worth(mode, witnesses)}; master key: {master_key})")


def _worth(mode: str, witnesses: int) -> str:
    if mode == "attested":
        return "measured"
    if witnesses:
        return "its operator cannot take back or replace what witnesses saw"
    return "its log proves nothing against its operator"


def _proof_json(verified: VerifiedReceipt) -> dict[str, Json]:
    body = verified.body
    return {
        "verified": True,
        "run": body.run,
        "run_id": body.run_id,
        "outcome": body.outcome,
        "exit_status": body.exit_status,
        "started_at": body.started_at,
        "finished_at": body.finished_at,
        "hardware": body.hardware,
        "attestation_service": body.attestation_service,
        "azure_attestation": bool(body.attestation_keys),
        "application": verified.application,
        "submitter": verified.ticket.submitter,
        "members": [dict(member) for member in verified.members],
        "inputs": {name: _version_json(version) for name, version in verified.inputs.items()},
        "outputs": {name: _version_json(version) for name, version in verified.outputs.items()},
        "approvals": {name: approval.model_dump(mode="json") for name, approval in verified.approvals.items()},
        "keys": {
            name: {"write_ids": list(ids.write_ids), "keks": list(ids.keks)} for name, ids in verified.keys.items()
        },
        "key_services": {
            identity: {
                "mode": mode,
                "master_key": verified.master_keys[identity],
                "witnesses": [
                    {"witness": each.witness, "signed_at": to_rfc3339(each.signed_at)}
                    for each in verified.witnesses[identity]
                ],
                "known_witnesses": verified.known_witnesses[identity],
            }
            for identity, mode in verified.modes.items()
        },
        "vaults": {
            identity: {
                "back_end": vault.back_end.value,
                "key": vault.key.kid,
                "not_enforced": list(not_enforced(vault.back_end)),
            }
            for identity, vault in verified.vaults.items()
        },
    }


def _version_json(version: DatasetVersion) -> dict[str, Json]:
    return {"version": version.number, "manifest_digest": version.manifest_digest}


def _line(name: str, text: str) -> None:
    say(f"  {name:<12} {text}")


def _joined(arguments: Json) -> str:
    return " ".join(map(str, arguments)) if isinstance(arguments, list) and arguments else "none"
