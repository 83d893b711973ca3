"""`strongroom approve`: what an owner, or a member of a roster, allows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import click

from strongroom.application.description import ApplicationDescription
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.errors import AuthenticationError, RoleError
from strongroom.cli.applications import (
    changes_since_approved,
    demand_binding,
    describe,
    find_application,
    remember_approved,
)
from strongroom.cli.approval_words import approval_words, lines_of
from strongroom.cli.approving import changes_since, earlier_approval, read_rosters
from strongroom.cli.completion import complete_applications
from strongroom.cli.options import (
    DATASET_NAME,
    PARTNER_OR_PROVIDER,
    Duration,
    Moment,
    UntilDate,
    VersionRange,
    WorkloadOf,
    state_option,
)
from strongroom.cli.owner_keys import public_key_of, thumbprint_of
from strongroom.cli.policies import azure_policy, common_policy_hash, default_policy
from strongroom.cli.session import attestation_client, owner_client
from strongroom.cli.state import State
from strongroom.cli.terminal import examples, say
from strongroom.clients.attestation import PolicyKind
from strongroom.policy.approval import MAX_EXECUTORS, MAX_RUNS, Approval, InputVersions, PlatformDemand
from strongroom.policy.shapes import TEES_OF
from strongroom.policy.workloads import WorkloadDemand
from strongroom.submit.run import load_trust
from strongroom.submit.services import attesting_service, party_named, trusted_service
from strongroom.wire.azure_attestation import TrustedAzureAttestation
from strongroom.wire.model import SHAPES, TEE_KINDS, Shape, TeeKind
from strongroom.wire.trust import Trust

Access = Literal["read", "write"]


@click.command(
    epilog=examples(
        "strongroom approve 3f9c --dataset trips --read --max-runs 10 --until 2026-12-31",
        "strongroom approve 3f9c --dataset report --write --recipient owner/recipient.jwk",
        "strongroom approve 3f9c --dataset visits --read --attested-by taxis --submitter taxis-submitter.jwk",
        "strongroom approve 3f9c --dataset trips --read --versions 4 --max-executors 8 --max-duration 2h",
        "strongroom approve 3f9c --dataset trips --read --tee snp --shape pod --workload team-a/spark@https://ISSUER",
    )
)
@click.argument("digest", shell_complete=complete_applications)
@click.option("--dataset", required=True, type=DATASET_NAME, help="The dataset that is opened to the application.")
@click.option("--read", "access", flag_value="read", help="It may read the dataset.")
@click.option("--write", "access", flag_value="write", help="It may write the dataset's next version.")
@click.option(
    "--max-runs", type=click.IntRange(1, MAX_RUNS), default=1, show_default=True, help="How many runs may be opened."
)
@click.option(
    "--max-executors",
    type=click.IntRange(1, MAX_EXECUTORS),
    help="How many executors may join one run, replacements included.  [default: as many as its ticket says]",
)
@click.option(
    "--max-executors-total",
    type=click.IntRange(1, MAX_RUNS),
    help="How many executors may join over all runs.  [default: no limit]",
)
@click.option(
    "--max-duration",
    "max_duration_s",
    type=Duration(),
    help="How long after opening a run gets keys and may commit, at least 60s.  [default: ticket and approval decide]",
)
@click.option("--versions", type=VersionRange(), help="The versions that it may read.  [default: every one]")
@click.option(
    "--writer",
    "writers",
    multiple=True,
    metavar="KEYFILE|THUMBPRINT|application:DIGEST",
    help="Whose versions it may read: a person's, or what runs of an application wrote; repeatable.  [default: all]",
)
@click.option("--purpose", default="", metavar="TEXT", help="What for, in a line: shown to who signs, and logged.")
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
@click.option("--from", "not_before", type=Moment(), help="The first day (UTC) or moment at which a run may be opened.")
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
    "--shape",
    "shapes",
    type=click.Choice(SHAPES),
    multiple=True,
    default=("process",),
    show_default=True,
    help="Whom else than the application its TEE may leave inside; repeatable. process: nobody. pod: what a measured "
    "pod's measured configuration names. confidential-node, the weaker one: whoever administers the cluster as well.",
)
@click.option(
    "--workload",
    "workloads",
    type=WorkloadOf(),
    multiple=True,
    help="A service account that it has to run as on Kubernetes, beside all of this; repeatable, also as driver=… and "
    "executor=….  [default: no token is asked for]",
)
@click.option(
    "--attested-by",
    type=PARTNER_OR_PROVIDER,
    help="Who appraises it: a partner's attestation service, by the policy that accepts exactly that partner's agents, "
    "or Azure Attestation at URL, by the policy that `policy azure` prints.  [default: your own attestation service, "
    "by its registered policy]",
)
@click.option(
    "--policy-hash",
    metavar="HASH",
    help="The evidence policy.  [default: the registered one; for who may not ask for it, the one that accepts exactly "
    "the trust file's agents]",
)
@state_option
def approve(  # noqa: PLR0913 - an option for each thing that an approval limits
    *,
    digest: str,
    dataset: str,
    access: Access | None,
    max_runs: int,
    max_executors: int | None,
    max_executors_total: int | None,
    max_duration_s: int | None,
    versions: tuple[int, int | None] | None,
    writers: tuple[str, ...],
    purpose: str,
    not_before: datetime | None,
    machines: tuple[str, ...],
    any_machine: bool,
    min_tcb_evaluation: int | None,
    min_crl: int | None,
    until: str | None,
    submitters: tuple[str, ...],
    recipients: tuple[str, ...],
    columns: tuple[str, ...],
    tees: tuple[TeeKind, ...],
    shapes: tuple[Shape, ...],
    workloads: tuple[WorkloadDemand, ...],
    attested_by: str | None,
    policy_hash: str | None,
    state: State,
) -> None:
    """Approve that an application reads or writes a dataset.

    Shows in words what is approved, and what changed since an application of the same name was approved; signs it
    with your key and stores it at the key service. DIGEST may be shortened; `strongroom app show` shows it.

    Where the dataset has a roster, yours is the first signature: the approval counts once enough members have signed it
    (`strongroom approvals sign`).
    """
    if access is None:
        raise click.UsageError("say --read or --write")
    description = find_application(digest, state=state)
    demand_binding(description, dataset=dataset, access=access)
    trust = load_trust(state.trust)
    _demand_possible(tees, shapes)
    attesting = attesting_service(trust, attested_by)
    if isinstance(attesting, TrustedAzureAttestation) and set(shapes) != {"process"}:
        raise click.UsageError("Azure Attestation does not say what is launched in pods and nodes: leave out --shape")
    client, key_service = owner_client(state), trusted_service(trust, "key-service").identity
    roster = read_rosters(client, dataset, key_service=key_service, trust=trust).now
    approval = Approval(
        dataset=dataset,
        key_service=key_service,
        application=description.digest,
        access=access,
        evidence_policy_hash=policy_hash
        or _policy_hash(state, _kinds(tees, shapes), trust=trust, attested_by=attested_by),
        attestation_issuer=attesting.own_url,
        hardware=trust.hardware,
        platform=_platform(trust.hardware, machines, any_machine=any_machine, least=(min_tcb_evaluation, min_crl)),
        tees=tuple(dict.fromkeys(tees)),
        shapes=tuple(dict.fromkeys(shapes)),
        max_runs=max_runs,
        not_after=until,
        submitters=tuple(map(thumbprint_of, submitters or (str(state.submitter_key),))),
        recipients=tuple(public_key_of(file).to_jwk() for file in recipients),
        columns=tuple(dict.fromkeys(columns)),
        issued_at=to_rfc3339(SystemClock().now()),
        not_before=to_rfc3339(not_before) if not_before else None,
        max_executors=max_executors,
        max_executors_total=max_executors_total,
        max_duration_s=max_duration_s,
        versions=InputVersions(first=versions[0], last=versions[1]) if versions else None,
        writers=tuple(map(_writer, writers)) or None,
        purpose=purpose,
        roster=roster.digest if roster else None,
        workloads=tuple(dict.fromkeys(workloads)),
    )
    _print(approval, description, earlier=client.approvals()["approvals"], state=state)
    answer = client.propose(approval, application=description.to_json().decode())
    remember_approved(description, dataset=dataset, approval=answer["approval"], state=state)
    say(signed_line(answer))


def signed_line(answer: Mapping[str, Any]) -> str:
    """Return what became of an approval that was just signed."""
    approval, signatures, needed = answer["approval"], answer["signatures"], answer["needed"]
    if signatures >= needed:
        return f"approved and signed: {approval}"
    return (
        f"signed, {signatures} of {needed}: {approval}\n"
        f"it counts once {needed - signatures} more sign it: strongroom approvals sign {approval[:12]}"
    )


def _writer(text: str) -> str:
    return text if text.startswith("application:") else f"owner:{thumbprint_of(text)}"


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


def _demand_possible(tees: tuple[TeeKind, ...], shapes: tuple[Shape, ...]) -> None:
    """Refuse kinds of TEE and shapes of which one goes with none of the others."""
    for shape in shapes:
        if not set(tees) & set(TEES_OF[shape]):
            needed = " or ".join(TEES_OF[shape])
            raise click.UsageError(f"no --tee that is named can be a {shape}: say --tee {needed}")
    for tee in tees:
        if all(tee not in TEES_OF[shape] for shape in shapes):
            raise click.UsageError(f"--tee {tee} can be no --shape that is named: say --shape process too, or leave it")


def _kinds(tees: tuple[TeeKind, ...], shapes: tuple[Shape, ...]) -> tuple[PolicyKind, ...]:
    """Return the kinds of evidence that the policy appraises: of nodes, Azure's confidential VMs are one."""
    return (*tees, "azure-vm") if "confidential-node" in shapes else tees


def _policy_hash(state: State, kinds: Sequence[PolicyKind], *, trust: Trust, attested_by: str | None) -> str:
    if isinstance(attesting_service(trust, attested_by), TrustedAzureAttestation):  # it appraises processes alone
        return azure_policy(trust).hash
    if attested_by is not None:  # not what that service says: what follows from the anchors that were looked at
        return default_policy(party_named(trust, attested_by)).hash
    client, token = attestation_client(state)
    try:
        return common_policy_hash(client, kinds, token=token)
    except (AuthenticationError, RoleError):  # a member of a roster whom that service does not know: the same anchors
        return default_policy(party_named(trust, None)).hash


def _print(
    approval: Approval, description: ApplicationDescription, *, earlier: list[dict[str, Any]], state: State
) -> None:
    say(f"You approve: {approval.access} dataset {approval.dataset}")
    for line in lines_of([*describe(description), *approval_words(approval)]):
        say(line)
    if changes := changes_since_approved(description, dataset=approval.dataset, state=state):
        say(f"Since you last approved an application called {description.name}, this changed:")
        for change in changes:
            say(f"  {change}")
    before = earlier_approval(earlier, approval, description, trust=load_trust(state.trust))
    if before is not None and (differs := changes_since(before, approval, description)):
        say(f"Unlike the approval {before.signed.id[:12]}… before it:")
        for line in differs:
            say(f"  {line}")
