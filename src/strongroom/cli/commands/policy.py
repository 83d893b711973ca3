"""`strongroom policy`: the evidence policy that the attestation service appraises with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from strongroom.attestation.inspection.appraise import appraise
from strongroom.attestation.inspection.files import ClaimsFile, PolicyTokenFile, TokenFile
from strongroom.attestation.inspection.recognise import Recognised, recognise
from strongroom.base.clock import SystemClock
from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError
from strongroom.cli.errors import EXIT_FAILED
from strongroom.cli.errors import explain as explain_error
from strongroom.cli.evidence import (
    FILE,
    EvidenceOptions,
    evidence_options,
    print_verification,
    recognise_file,
    verdict,
    verify_file,
)
from strongroom.cli.explanations import print_explanation
from strongroom.cli.options import json_option, state_option
from strongroom.cli.policies import azure_policy, default_policy, register_policy, registered_policy
from strongroom.cli.session import attestation_client, owner_key
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, note, print_json, printable, say
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.policy.explanation import point_at
from strongroom.submit.run import load_trust

_BAD_POLICY: Final = 2
_RECORDED: Final = "recorded claims, NOT verified: whoever wrote the file says so"


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


@policy.command(epilog=examples("strongroom policy azure > evidence-policy.txt"))
@state_option
def azure(*, state: State) -> None:
    """Print the policy to set at a provider of Azure Attestation: it accepts exactly the agents of the trust file.

    It is in Azure's own claims, one text for SGX and SEV-SNP. Its hash, which approvals name, goes to standard error:
    that of exactly these bytes: `az attestation policy set --new-attestation-policy-file` takes the file as it is.
    """
    found = azure_policy(load_trust(state.trust))
    note(f"hash {found.hash}")
    say(found.text.removesuffix("\n"))


@policy.command(epilog=examples("strongroom policy check evidence-policy.txt"))
@click.argument("file", type=FILE, metavar="POLICY")
@json_option
def check(*, file: Path, as_json: bool) -> None:
    """Read POLICY, text or a policy token, and say what is wrong with it. The exit status is 2 for a bad policy."""
    parsed = _parse(file)
    rules = {
        "configurationrules": len(parsed.rules.configuration),
        "authorizationrules": len(parsed.rules.authorization),
        "issuancerules": len(parsed.rules.issuance),
    }
    if as_json:
        print_json({"hash": parsed.hash, "rules": rules})
    else:
        say(f"{file.name}: {', '.join(f'{number} {name}' for name, number in rules.items())}; hash {parsed.hash}")


@policy.command(
    epilog=examples(
        "strongroom policy test policy.txt quote.bin --collateral collateral.json",
        "strongroom policy test policy.txt result.jwt",
    )
)
@click.argument("file", type=FILE, metavar="POLICY")
@click.argument("evidence", type=FILE)
@evidence_options
@json_option
def test(*, file: Path, evidence: Path, given: EvidenceOptions, as_json: bool) -> None:
    """Evaluate POLICY on EVIDENCE, and explain each rule.

    POLICY is the text of a policy, or a policy token. EVIDENCE is verified first, as by `strongroom evidence verify`;
    an attestation result or its claims (JSON) are taken as they stand. What is not safe (debug and the like) is refused
    unless the policy names it, as by the attestation service; none is asked. The exit status is 0 where the policy
    permits, 1 where policy or verification refuses, 2 where the policy cannot be read.
    """
    parsed = _parse(file)
    source, claims = _claims(recognise_file(evidence), given, as_json=as_json)
    explanation = appraise(parsed, claims, is_verified=source != _RECORDED)
    if as_json:
        print_json({"policy": parsed.hash, "claims": dict(claims), "claims_from": source, **explanation.to_json()})
    else:
        say(f"policy: {file.name}, hash {parsed.hash}")
        say(f"claims: {source}")
        print_explanation(explanation)
    if not explanation.permitted:
        raise click.exceptions.Exit(EXIT_FAILED)


def _claims(recognised: Recognised, given: EvidenceOptions, *, as_json: bool) -> tuple[str, Mapping[str, Json]]:
    """Return where claims come from, and the claims; ends the command where evidence is not verified."""
    if isinstance(recognised.content, TokenFile | ClaimsFile):
        return _RECORDED, recognised.content.claims
    verification = verify_file(recognised, given, refuse_unsafe=False)
    if verification.is_verified:
        return verdict(verification), verification.claims
    if as_json:
        print_json({"permitted": False, "verification": verification.to_json()})
    else:
        print_verification(verification)
    raise click.exceptions.Exit(EXIT_FAILED)


def _parse(file: Path) -> EvidencePolicy:
    """Return the policy in a file; ends the command where it is none."""
    text = ""
    try:
        text = _policy_text(file)
        return parse_evidence_policy(text)
    except FormatError as error:
        note(explain_error(error))
        for line in point_at(text, error.message).splitlines():
            note(f"  {printable(line)}")
        raise click.exceptions.Exit(_BAD_POLICY) from error


def _policy_text(file: Path) -> str:
    """Return the text of a policy that stands in a file as it is, or in a policy token."""
    content = read_file(file, what="the policy")
    try:
        found = recognise(content).content
    except FormatError:  # no format that is known: the policy itself
        found = None
    if isinstance(found, PolicyTokenFile):
        return found.text
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8 text") from error


def _read(file: Path) -> EvidencePolicy:
    return parse_evidence_policy(_policy_text(file))
