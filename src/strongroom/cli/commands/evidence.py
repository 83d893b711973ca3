"""`strongroom evidence`: evidence in files, looked at and verified."""

from pathlib import Path

import click

from strongroom.attestation.inspection.describe import describe
from strongroom.cli.errors import EXIT_FAILED
from strongroom.cli.evidence import (
    FILE,
    EvidenceOptions,
    evidence_options,
    print_groups,
    print_verification,
    recognise_file,
    verify_file,
)
from strongroom.cli.options import json_option
from strongroom.cli.terminal import examples, print_json, say

_NOT_VERIFIED = "NOT VERIFIED: this is what the file says, not what is true (see: strongroom evidence verify)"


@click.group()
def evidence() -> None:
    """Look at evidence in files, and verify it."""


@evidence.command(epilog=examples("strongroom evidence inspect quote.bin"))
@click.argument("file", type=FILE)
@json_option
def inspect(*, file: Path, as_json: bool) -> None:
    """Show every field of FILE, without verifying anything.

    FILE is an SGX or TDX quote, an OpenEnclave report, an SEV-SNP report, an Azure HCL report, a TPM quote, a request
    or answer of an attestation service, an attestation result, certificates, a revocation list or collateral: as bytes,
    or as base64, base64url or hexadecimal text. What it is, its bytes say.
    """
    recognised = recognise_file(file)
    groups = describe(recognised.content)
    if as_json:
        print_json(
            {
                "format": recognised.layers[-1],
                "layers": list(recognised.layers),
                "verified": False,
                "groups": [group.to_json() for group in groups],
            }
        )
        return
    say(_NOT_VERIFIED)
    say(f"{file.name}: {recognised.title}")
    print_groups(groups)
    say()
    say(_NOT_VERIFIED)


@evidence.command(
    epilog=examples(
        "strongroom evidence verify quote.bin --collateral collateral.json --at 2025-06-20",
        "strongroom evidence verify report.bin --collateral vcek.der --collateral ask_ark.pem --crl milan.crl",
    )
)
@click.argument("file", type=FILE)
@evidence_options
@json_option
def verify(*, file: Path, given: EvidenceOptions, as_json: bool) -> None:
    """Verify the evidence in FILE, and show each step.

    Intel's and AMD's roots are built in. Nothing is fetched: collateral and revocation lists are files. The exit status
    is 0 where the evidence is verified, 1 where it is refused, 2 where the command is not understood. Verified evidence
    is not yet accepted: what it says must meet a policy (see: strongroom policy test).
    """
    recognised = recognise_file(file)
    verification = verify_file(recognised, given)
    if as_json:
        print_json({"format": recognised.layers[-1], "layers": list(recognised.layers), **verification.to_json()})
    else:
        say(f"{file.name}: {recognised.title}")
        print_verification(verification)
    if not verification.is_verified:
        raise click.exceptions.Exit(EXIT_FAILED)
