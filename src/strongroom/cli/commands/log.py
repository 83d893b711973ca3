"""`strongroom log`: a key service's log, looked at and checked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.encoding import Json, parse_json_object
from strongroom.base.errors import ConfigurationError, InconsistentLogError
from strongroom.cli.options import json_option, state_option
from strongroom.cli.session import owner_client
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, print_json, print_records, say, short
from strongroom.clients.pinned import ServiceHttp
from strongroom.clients.seen_log import log_key_of
from strongroom.clients.statements import ServiceStatements
from strongroom.log.audit import Finding
from strongroom.log.checkpoint import parse_and_verify_checkpoint
from strongroom.log.cosignature import Cosignature, verify_cosignatures, witness_key
from strongroom.log.note import NoteKey
from strongroom.submit.log_check import (
    CheckedLog,
    ask_witness,
    check_log,
    demand_enough_witnesses,
    witnessed_checkpoint,
)
from strongroom.submit.run import load_trust
from strongroom.submit.seen_logs import fetch_checkpoint
from strongroom.submit.services import connect, trusted_service
from strongroom.wire.receipt import Receipt
from strongroom.wire.trust import TrustedService

_WITNESS_S: Final = 10.0
_SHOWN: Final = 50
_COLUMNS: Final = {"position": "entry", "time": "time", "event": "event", "run": "run", "about": "about"}
_ABOUT: Final = ("dataset", "dataset_version", "approval", "member", "role", "outcome", "owner", "reason", "number")


@click.group()
def log() -> None:
    """Look at the key service's log, and check it."""


@log.command()
@click.option("--witnessed", is_flag=True, help="The newest one that witnesses cosigned, with their signatures.")
@json_option
@state_option
def checkpoint(*, witnessed: bool, as_json: bool, state: State) -> None:
    """Print the newest checkpoint, a signed note that other people's tools read.

    It is compared with the newest one that was seen here: a log that was forked, rewritten or rolled back since is an
    error. Needs no owner's key.
    """
    service = _service(state)
    http = connect(service)
    note = fetch_checkpoint(service, http, file=state.seen_logs)
    if witnessed:
        note = witnessed_checkpoint(http) or ""
        if not note:
            raise ConfigurationError("no witness has cosigned the log", action="configure some: strongroom witness")
    key = log_key_of(service.log_key)
    found = parse_and_verify_checkpoint(note, origin=key.name, key=key.key)
    signed = verify_cosignatures(note, witnesses=[witness_key(line) for line in service.witnesses])
    if as_json:
        root = found.root.hex()
        print_json({"origin": found.origin, "size": found.size, "root": root, "witnesses": _json(signed), "note": note})
        return
    click.echo(note, nl=False)


@log.command(epilog=examples("strongroom log show --last 20", "strongroom log show --run 3f9c --json"))
@click.option("--last", type=click.IntRange(1), default=_SHOWN, show_default=True, help="How many entries.")
@click.option("--run", "run", metavar="RUN", help="Only entries of a run (its digest or the beginning of it).")
@click.option("--event", metavar="EVENT", help="Only entries of this kind, such as run-opened.")
@json_option
@state_option
def show(*, last: int, run: str | None, event: str | None, as_json: bool, state: State) -> None:
    """Show the log's entries, newest last, as its owner or an auditor. Nothing is checked: see `log verify`."""
    client, service = owner_client(state), _service(state)
    key = log_key_of(service.log_key)
    note = fetch_checkpoint(service, connect(service), file=state.seen_logs)
    size = parse_and_verify_checkpoint(note, origin=key.name, key=key.key).size
    is_filtered = run is not None or event is not None
    start = 0 if is_filtered else max(0, size - last)
    records: list[dict[str, Any]] = []
    for position, text in enumerate(client.log_leaves(start, size), start):
        leaf = parse_json_object(text)
        if (run is None or str(leaf.get("run", "")).startswith(run)) and event in {None, leaf.get("event")}:
            records = [*records[-last + 1 :], {"position": position, **leaf, "about": _about(leaf)}]
    if as_json:
        print_json([{name: value for name, value in record.items() if name != "about"} for record in records])
        return
    print_records(records, columns=_COLUMNS, as_json=False)


@log.command(
    epilog=examples(
        "strongroom log verify",
        "strongroom log verify --witness https://witness.example --receipt 3f9c….receipt.json",
    )
)
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    metavar="[NAME=]URL",
    help="A witness of the trust file to be asked itself; its name is needed where the file names several; repeatable.",
)
@click.option(
    "--witness-certificate",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The certificate that vouches for the witnesses' TLS.  [default: those that this machine trusts]",
)
@click.option(
    "--receipt",
    "receipts",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="A receipt whose entries must be in the log; repeatable.",
)
@json_option
@state_option
@click.pass_context
def verify(
    ctx: click.Context,
    *,
    witnesses: tuple[str, ...],
    witness_certificate: Path | None,
    receipts: tuple[Path, ...],
    as_json: bool,
    state: State,
) -> None:
    """Download the whole log and check it, as its owner or an auditor.

    The entries must make the tree of the signed checkpoint; that extends what was seen here, what witnesses cosigned,
    and what receipts show. Then the entries are read: the numbering of every run's entries, how often each approval was
    used, every closing, every chain of versions. Ends with status 1 if something grave is found.
    """
    client, service = owner_client(state), _service(state)
    http, key = connect(service), log_key_of(service.log_key)
    note = fetch_checkpoint(service, http, file=state.seen_logs)
    size = parse_and_verify_checkpoint(note, origin=key.name, key=key.key).size
    pem = read_file(witness_certificate, what="the certificate").decode() if witness_certificate else None
    others = [
        *_from_service(http),
        *_from_witnesses(witnesses, service, pem, origin=key.name),
        *_from_receipts(receipts, service),
    ]
    newer = [parse_and_verify_checkpoint(other, origin=key.name, key=key.key).size for other, _ in others]
    if any(each > size for each in newer):
        raise InconsistentLogError(
            f"the key service shows a log of size {size}, others saw it at size {max(newer)}",
            action="Use nothing of this key service until its owner explains it: its state was rolled back.",
        )
    now = SystemClock().now()
    checked = check_log(note, client.log_leaves(0, size), service=service, others=others, now=now)
    demand_enough_witnesses(checked, service)
    if as_json:
        print_json(_report_json(checked, others))
    else:
        _print_report(checked, others, service)
    if any(finding.grave for finding in checked.report.findings):
        ctx.exit(1)


def _service(state: State) -> TrustedService:
    return trusted_service(load_trust(state.trust), "key-service")


def _about(leaf: dict[str, Any]) -> str:
    return ", ".join(f"{name} {short(str(leaf[name]))}" for name in _ABOUT if name in leaf)


def _from_service(http: ServiceHttp) -> Iterator[tuple[str, str]]:
    note = witnessed_checkpoint(http)
    if note is not None:
        yield note, "that it says was cosigned"


def _from_witnesses(
    named: tuple[str, ...], service: TrustedService, certificate_pem: str | None, *, origin: str
) -> Iterator[tuple[str, str]]:
    keys = {key.name: key for key in map(witness_key, service.witnesses)}
    for text in named:
        name, _, url = text.rpartition("=")
        key = _named(keys, name)
        note = ask_witness(url, key, origin=origin, certificate_pem=certificate_pem, timeout_s=_WITNESS_S)
        if note is None:
            raise ConfigurationError(f"the witness {key.name} never saw this log", action="Ask its operator to add it.")
        yield note, f"that the witness {key.name} saw"


def _named(keys: dict[str, NoteKey], name: str) -> NoteKey:
    if name in keys:
        return keys[name]
    if not name and len(keys) == 1:
        return next(iter(keys.values()))
    raise ConfigurationError(
        f"the trust file names {len(keys)} witnesses" + (f", none called {name}" if name else ""),
        action=f"Name one as NAME=URL: {', '.join(keys)}" if keys else "Write the trust file again: strongroom up",
    )


def _from_receipts(files: tuple[Path, ...], service: TrustedService) -> Iterator[tuple[str, str]]:
    for file in files:
        receipt = Receipt.from_json(read_file(file, what="the receipt"))
        for identity, token in receipt.closings.items():
            predecessors = service.identities_until(identity)
            if predecessors is None:
                continue
            statements = ServiceStatements(identity=identity, now=SystemClock().now, predecessors=predecessors)
            yield statements.closing(token).proof.checkpoint, f"in {file.name}"


def _json(signed: tuple[Cosignature, ...]) -> list[Json]:
    return [{"witness": each.witness, "signed_at": to_rfc3339(each.signed_at)} for each in signed]


def _report_json(checked: CheckedLog, others: list[tuple[str, str]]) -> dict[str, Json]:
    report, witnessed = checked.report, checked.witnessed
    return {
        "size": checked.checkpoint.size,
        "root": checked.checkpoint.root.hex(),
        "compared": len(others),
        "witnessed_size": witnessed.size if witnessed else None,
        "witnesses": _json(witnessed.cosignatures) if witnessed else [],
        "events": dict(report.events),
        "runs": dict(report.runs),
        "approvals": [
            {
                "approval": each.approval,
                "dataset": each.dataset,
                "runs": each.runs,
                "max_runs": each.max_runs,
                "revoked": each.revoked,
            }
            for each in report.approvals
        ],
        "findings": [_finding_json(each) for each in report.findings],
    }


def _finding_json(finding: Finding) -> dict[str, Json]:
    return {
        "position": finding.position,
        "subject": finding.subject,
        "text": finding.text,
        "grave": finding.grave,
    }


def _print_report(checked: CheckedLog, others: list[tuple[str, str]], service: TrustedService) -> None:
    report, witnessed = checked.report, checked.witnessed
    compared = f"; {len(others)} other checkpoint(s) agree" if others else ""
    say(f"the log's {checked.checkpoint.size} entries make the tree of its checkpoint{compared}")
    if witnessed is None:
        say(f"witnesses: none of {len(service.witnesses)} known ones cosigned it")
    else:
        names = ", ".join(f"{each.witness} at {to_rfc3339(each.signed_at)}" for each in witnessed.cosignatures)
        say(f"witnesses: {len(witnessed.cosignatures)} of {len(service.witnesses)}, at size {witnessed.size}: {names}")
    say(f"runs: {', '.join(f'{count} {name}' for name, count in report.runs.items())}")
    for use in report.approvals:
        most = "any number" if use.max_runs is None else use.max_runs
        say(f"approval {short(use.approval)} for {use.dataset}: {use.runs} of {most} run(s)")
    for finding in report.findings:
        where = f"entry {finding.position}: " if finding.position is not None else ""
        about = f" ({short(finding.subject)})" if finding.subject else ""
        say(f"{'FOUND' if finding.grave else 'look at'}: {where}{finding.text}{about}")
    if not report.findings:
        say("nothing was found that should not be")
