"""`strongroom receipt`: the proof of a run, looked at and verified offline."""

from pathlib import Path

import click

from strongroom.base.encoding import Json, parse_json_object
from strongroom.cli.options import examples, json_option, state_option
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import print_json, say, short
from strongroom.crypto.jose import unverified_payload
from strongroom.policy.key_back_ends import not_enforced
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.submit.run import load_trust
from strongroom.wire.key_service import Closing
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
@state_option
def verify(*, file: Path, trust: Path | None, require_mode: Mode | None, state: State) -> None:
    """Verify the receipt FILE, offline, with nothing but a trust file.

    The trust file is the one that `strongroom up` wrote, or the one its owner gave you. Nothing is taken from the
    receipt itself, no service is asked, and every byte counts.
    """
    content = read_file(file, what="the receipt")
    verified = verify_receipt(content, trust=load_trust(trust or state.trust), required_mode=require_mode)
    say(f"{file.name}: verified")
    _print_body(verified.body)
    _print_proof(verified)


def _print_body(body: ReceiptBody) -> None:
    description = parse_json_object(body.application)
    simulated = ": protects nothing" if body.hardware == "simulated" else ""
    _line("run", f"{body.run_id} ({body.outcome}, exit status {body.exit_status})")
    _line("time", f"{body.started_at} to {body.finished_at}")
    _line("hardware", f"{body.hardware}{simulated}")
    _line("application", f"{description.get('name')}, arguments {_joined(description.get('arguments'))}")
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
        where = f"joined {member['joined_at']}, {member['tee']}, code {short(member['measurement'])}"
        _line(f"TEE {member['number']}", f"{member['role']}, {where}")
    for name, version in verified.inputs.items():
        _line("input", f"{name} version {version.number}, manifest {short(version.manifest_digest)}")
    for name, version in verified.outputs.items():
        _line("output", f"{name} version {version.number}, manifest {short(version.manifest_digest)}")
    for name, approval in verified.approvals.items():
        runs = (
            f"in at most {approval.max_runs} run(s)" if approval.back_end == "strongroom" else "in any number of runs"
        )
        _line("approved", f"{name}: {approval.access}, {runs}, hardware = {approval.machines}")
    for name, signed in verified.consents.items():
        people = ", ".join(map(short, signed.signers))
        _line("signed by", f"{name}: {len(signed.signers)} of {signed.needed} needed: {people}")
    for identity, mode in verified.modes.items():
        _print_key_service(identity, mode, verified.master_keys[identity])
    for identity, vault in verified.vaults.items():
        _line("vault", f"{short(identity)} ({vault.back_end}): key {vault.key.kid}")
        _line("not enforced", "; ".join(not_enforced(vault.back_end)))


def _print_key_service(identity: str, mode: str, master_key: str) -> None:
    word = "its log proves nothing against its operator" if mode == "owner-operated" else "measured"
    _line("key service", f"{short(identity)} ({mode}: {word}; master key: {master_key})")


def _line(name: str, text: str) -> None:
    say(f"  {name:<12} {text}")


def _joined(arguments: Json) -> str:
    return " ".join(map(str, arguments)) if isinstance(arguments, list) and arguments else "none"
