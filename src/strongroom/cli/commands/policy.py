"""`strongroom policy`: the evidence policy that the attestation service appraises with."""

from pathlib import Path

import click

from strongroom.base.clock import SystemClock
from strongroom.base.errors import FormatError
from strongroom.cli.options import examples, json_option, state_option
from strongroom.cli.policies import default_policy, register_policy, registered_policy
from strongroom.cli.session import attestation_client, owner_key
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import print_json, say
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.submit.run import load_trust


@click.group()
def policy() -> None:
    """Say which evidence the attestation service accepts."""


@policy.command(
    name="set", epilog=examples("strongroom policy set evidence-policy.txt", "strongroom policy set --default")
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--default", "use_default", is_flag=True, help="Accept exactly the agent that the trust file names.")
@state_option
def set_policy(*, file: Path | None, use_default: bool, state: State) -> None:
    """Sign the policy in FILE with the owner's key and register it, for every kind of TEE.

    The language is Azure Attestation's. Approvals name the policy by its hash: after a change, applications have to
    be approved again.
    """
    if (file is None) == (not use_default):
        raise click.UsageError("name a policy file, or say --default")
    chosen = _read(file) if file else default_policy(load_trust(state.trust))
    client, token = attestation_client(state)
    register_policy(client, chosen, key=owner_key(state), token=token, now=SystemClock().now())
    say(f"evidence policy {chosen.hash} registered; approvals name it by this hash")


@policy.command()
@json_option
@state_option
def show(*, as_json: bool, state: State) -> None:
    """Show the registered policy and its hash."""
    client, token = attestation_client(state)
    registered = registered_policy(client, token=token)
    if as_json:
        print_json({"hash": registered.hash, "text": registered.text} if registered else None)
    elif registered is None:
        say("no evidence policy is registered: all evidence is refused. Register one: strongroom policy set --default")
    else:
        say(f"hash {registered.hash}\n\n{registered.text.rstrip()}")


def _read(file: Path) -> EvidencePolicy:
    content = read_file(file, what="the policy")
    try:
        return parse_evidence_policy(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text") from error
