"""`strongroom approve`, `approvals`, `revoke`: what an owner allows."""

from typing import Any, Literal

import click

from strongroom.application.description import ApplicationDescription
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.cli.applications import (
    changes_since_approved,
    demand_binding,
    describe,
    find_application,
    remember_approved,
)
from strongroom.cli.completion import complete_applications, complete_approvals
from strongroom.cli.options import DATASET_NAME, PARTNER_NAME, UntilDate, examples, json_option, state_option
from strongroom.cli.owner_keys import public_key_of, thumbprint_of
from strongroom.cli.policies import common_policy_hash, default_policy
from strongroom.cli.prefixes import find_by_prefix
from strongroom.cli.session import attestation_client, owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import print_records, say, short
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy.approval import Approval, PlatformDemand
from strongroom.submit.run import load_trust
from strongroom.submit.services import party_named, trusted_service
from strongroom.wire.model import TEE_KINDS, TeeKind
from strongroom.wire.trust import Trust

Access = Literal["read", "write"]


@click.command(
    epilog=examples(
        "strongroom approve 3f9c --dataset trips --read --max-runs 10 --until 2026-12-31",
        "strongroom approve 3f9c --dataset report --write --recipient owner/recipient.jwk",
        "strongroom approve 3f9c --dataset visits --read --attested-by taxis --submitter taxis-submitter.jwk",
    )
)
@click.argument("digest", shell_complete=complete_applications)
@click.option("--dataset", required=True, type=DATASET_NAME, help="The dataset that is opened to the application.")
@click.option("--read", "access", flag_value="read", help="It may read the dataset.")
@click.option("--write", "access", flag_value="write", help="It may write the dataset's next version.")
@click.option("--max-runs", type=click.IntRange(1), default=1, show_default=True, help="How many runs may be opened.")
@click.option(
    "--machine",
    "machines",
    multiple=True,
    metavar="ID",
    help="A machine it may run on (ppid:…, platform-instance:…, chip-id:…); repeatable. `strongroom evidence inspect` "
    "shows a machine's.  [default: any, which real hardware needs said: --any-machine]",
)
@click.option("--any-machine", is_flag=True, help="It may run on every machine that the vendor vouches for.")
@click.option(
    "--min-tcb-evaluation",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="The least tcbEvaluationDataNumber of Intel's TCB data.  [Intel's real hardware: required]",
)
@click.option(
    "--min-crl",
    type=click.IntRange(0),
    metavar="NUMBER",
    help="The least number of the revocation list used.  [real hardware: required]",
)
@click.option("--until", type=UntilDate(), help="The last day (UTC) or moment at which a run may be opened.")
@click.option(
    "--submitter",
    "submitters",
    multiple=True,
    metavar="KEYFILE|THUMBPRINT",
    help="Who may submit it; repeatable.  [default: the submitter's key of this installation]",
)
@click.option(
    "--recipient",
    "recipients",
    multiple=True,
    metavar="KEYFILE",
    help="Who may read what it prints; repeatable.  [default: nobody]",
)
@click.option(
    "--column",
    "columns",
    multiple=True,
    metavar="NAME",
    help="A column with a key of its own that it may read; repeatable.  [default: no such column]",
)
@click.option(
    "--tee",
    "tees",
    type=click.Choice(TEE_KINDS),
    multiple=True,
    default=("sgx",),
    show_default=True,
    help="A kind of TEE that it may run in; repeatable.",
)
@click.option(
    "--attested-by",
    type=PARTNER_NAME,
    help="The partner whose attestation service appraises it, by the policy that accepts exactly that partner's "
    "agents.  [default: your own, by its registered policy]",
)
@state_option
def approve(  # noqa: PLR0913 - an option for each thing that an approval limits
    *,
    digest: str,
    dataset: str,
    access: Access | None,
    max_runs: int,
    machines: tuple[str, ...],
    any_machine: bool,
    min_tcb_evaluation: int | None,
    min_crl: int | None,
    until: str | None,
    submitters: tuple[str, ...],
    recipients: tuple[str, ...],
    columns: tuple[str, ...],
    tees: tuple[TeeKind, ...],
    attested_by: str | None,
    state: State,
) -> None:
    """Approve that an application reads or writes a dataset.

    Shows in words what is approved, and what changed since an application of the same name was approved; signs it
    with the owner's key and stores it at the key service. DIGEST may be shortened; `strongroom app show` shows it.
    """
    if access is None:
        raise click.UsageError("say --read or --write")
    description = find_application(digest, state=state)
    demand_binding(description, dataset=dataset, access=access)
    trust = load_trust(state.trust)
    approval = Approval(
        dataset=dataset,
        key_service=trusted_service(trust, "key-service").identity,
        application=description.digest,
        access=access,
        evidence_policy_hash=_policy_hash(state, tees, trust=trust, attested_by=attested_by),
        attestation_issuer=trusted_service(party_named(trust, attested_by), "attestation-service").url,
        hardware=trust.hardware,
        platform=_platform(trust.hardware, machines, any_machine=any_machine, least=(min_tcb_evaluation, min_crl)),
        tees=tuple(dict.fromkeys(tees)),
        shape="process",
        max_runs=max_runs,
        not_after=until,
        submitters=tuple(map(thumbprint_of, submitters or (str(state.submitter_key),))),
        recipients=tuple(public_key_of(file).to_jwk() for file in recipients),
        columns=tuple(dict.fromkeys(columns)),
        issued_at=to_rfc3339(SystemClock().now()),
    )
    _print(approval, description, state=state)
    approval_id = owner_client(state).approve(approval, application=description.to_json().decode())
    remember_approved(description, dataset=dataset, approval=approval_id, state=state)
    say(f"approved and signed: {approval_id}")


@click.command(epilog=examples("strongroom approvals", "strongroom approvals --json"))
@json_option
@state_option
def approvals(*, as_json: bool, state: State) -> None:
    """List approvals, and how often each was used."""
    columns = {
        "approval": "approval",
        "dataset": "dataset",
        "access": "access",
        "application": "application",
        "runs_opened": "runs",
        "max_runs": "of",
        "not_after": "until",
        "revoked": "revoked",
    }
    print_records(_records(state), columns=columns, as_json=as_json)


@click.command(epilog=examples("strongroom revoke 3f9c"))
@click.argument("approval", shell_complete=complete_approvals)
@state_option
def revoke(*, approval: str, state: State) -> None:
    """Revoke an approval.

    No run is opened under APPROVAL (an id or its beginning) any more; a run that is under way gets no further key and
    its results do not become a version.
    """
    found = find_by_prefix(approval, {record["approval"]: record["approval"] for record in _records(state)}, "approval")
    owner_client(state).revoke(found)
    say(f"approval {found} revoked")


def _records(state: State) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = owner_client(state).approvals()["approvals"]
    return records


def _platform(
    hardware: str,
    machines: tuple[str, ...],
    *,
    any_machine: bool,
    least: tuple[int | None, int | None],
) -> PlatformDemand | None:
    min_tcb_evaluation, min_crl = least
    if any_machine and machines:
        raise click.UsageError("say --machine or --any-machine, not both")
    if hardware == "simulated" and not machines and least == (None, None):
        return None
    if not machines and not any_machine and hardware == "real":
        raise click.UsageError("name the machines (--machine ID), or say --any-machine")
    return PlatformDemand.from_object(
        {
            "machines": list(machines) or "any",
            "min_tcb_evaluation_data_number": min_tcb_evaluation,
            "min_crl_number": min_crl,
        }
    )


def _policy_hash(state: State, tees: tuple[TeeKind, ...], *, trust: Trust, attested_by: str | None) -> str:
    if attested_by is not None:  # not what that service says: what follows from the anchors that were looked at
        return default_policy(party_named(trust, attested_by)).hash
    client, token = attestation_client(state)
    return common_policy_hash(client, tees, token=token)


def _print(approval: Approval, description: ApplicationDescription, *, state: State) -> None:
    simulated = " (protects nothing)" if approval.hardware == "simulated" else ""
    say(f"You approve: {approval.access} dataset {approval.dataset}")
    rows = [
        *describe(description),
        ("hardware", f"{approval.hardware}{simulated}, a TEE ({' or '.join(approval.tees)}) for each process"),
        ("machines", f"hardware = {approval.machines}"),
        *_freshness(approval.platform),
        ("evidence", f"policy {approval.evidence_policy_hash} at {approval.attestation_issuer}"),
        ("runs", f"at most {approval.max_runs}, to be opened {_until(approval.not_after)}"),
        ("submitted by", ", ".join(map(short, approval.submitters))),
        ("output to", _people(approval.recipients)),
        ("columns", f"those under the dataset's key{''.join(f', and {name}' for name in approval.columns)}"),
    ]
    for name, text in rows:
        say(f"  {name:<12} {text}")
    if changes := changes_since_approved(description, dataset=approval.dataset, state=state):
        say(f"Since you last approved an application called {description.name}, this changed:")
        for change in changes:
            say(f"  {change}")


def _freshness(platform: PlatformDemand | None) -> list[tuple[str, str]]:
    if platform is None:
        return []
    least = {
        "tcbEvaluationDataNumber": platform.min_tcb_evaluation_data_number,
        "revocation list": platform.min_crl_number,
    }
    said = [f"{name} at least {number}" for name, number in least.items() if number is not None]
    return [("vendor data", ", ".join(said) or "however old")]


def _people(recipients: tuple[dict[str, str], ...]) -> str:
    thumbprints = [short(VerifyingKey.from_jwk(jwk).thumbprint) for jwk in recipients]
    return ", ".join(thumbprints) or "nobody: what it prints cannot be read"


def _until(not_after: str | None) -> str:
    return f"until {not_after}" if not_after else "without an end date"
