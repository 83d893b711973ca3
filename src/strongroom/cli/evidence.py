"""Evidence in files: the options that commands on it share, and how what was found is printed."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from strongroom.attestation.endorsements.dcap import DcapEndorsements, DirectoryEndorsements, EndorsementSource
from strongroom.attestation.endorsements.snp import DirectoryRevocations, RevocationSource, SnpEndorsements
from strongroom.attestation.inspection.anchors import Anchors, GivenEndorsements, GivenRevocations
from strongroom.attestation.inspection.describe import Field, Group
from strongroom.attestation.inspection.files import AttestedData, CertificatesFile, CollateralFile, CrlFile
from strongroom.attestation.inspection.recognise import Recognised, attested_data, recognise
from strongroom.attestation.inspection.steps import Verification
from strongroom.attestation.inspection.verify import verify_content
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.encoding import Json, from_hex
from strongroom.base.errors import FormatError
from strongroom.cli.options import Moment
from strongroom.cli.state import read_file
from strongroom.cli.terminal import printable, say
from strongroom.crypto import x509
from strongroom.policy.claims import show

FILE: Final = click.Path(exists=True, path_type=Path, dir_okay=False)
_FOLDER: Final = click.Path(exists=True, path_type=Path, file_okay=False)
_Command = TypeVar("_Command", bound=Callable[..., Any])
_SHOWN_LIST: Final = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceOptions:
    """What evidence is verified with, as the command line names it.

    Attributes:
        collateral: DCAP or SEV-SNP collateral, or certificates.
        endorsements: A folder of collateral and revocation lists.
        crl: A revocation list.
        root: Roots of real hardware, beside the vendors' own.
        simulated_root: Roots of simulated hardware.
        at: The time of the check; None is now.
        runtime_data: What the evidence should stand for.
    """

    collateral: tuple[Path, ...]
    endorsements: Path | None
    crl: Path | None
    root: tuple[Path, ...]
    simulated_root: tuple[Path, ...]
    at: datetime | None
    runtime_data: Path | None


_OPTIONS: Final = (
    click.option(
        "--collateral",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="DCAP or SEV-SNP collateral (JSON), or certificates of an SEV-SNP key (PEM, DER, THIM); repeatable.",
    ),
    click.option(
        "--endorsements",
        type=_FOLDER,
        metavar="FOLDER",
        help="A folder of collateral and revocation lists, as an attestation service has it.",
    ),
    click.option("--crl", type=FILE, metavar="FILE", help="The revocation list of an SEV-SNP root (PEM, DER)."),
    click.option(
        "--root",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="A root certificate to trust beside Intel's and AMD's, which are built in; repeatable.",
    ),
    click.option(
        "--simulated-root",
        type=FILE,
        multiple=True,
        metavar="FILE",
        help="A root of simulated hardware, which protects nothing; repeatable.",
    ),
    click.option("--at", type=Moment(), help="The time of the check.  [default: now]"),
    click.option(
        "--runtime-data",
        type=FILE,
        metavar="FILE",
        help="The exact bytes that the evidence should stand for.  [default: what comes with the evidence]",
    ),
)


def evidence_options(command: _Command) -> _Command:
    """Add the options of verification; the command receives `given`, an `EvidenceOptions`."""

    @functools.wraps(command)
    def bundled(**arguments: Any) -> Any:  # noqa: ANN401 - whatever the command takes and returns
        names = EvidenceOptions.__dataclass_fields__
        given = EvidenceOptions(**{name: arguments.pop(name) for name in names})
        return command(given=given, **arguments)

    for option in reversed(_OPTIONS):
        bundled = option(bundled)
    return bundled  # type: ignore[return-value]


def recognise_file(file: Path) -> Recognised:
    """Find out what a file holds.

    Raises:
        FormatError: No known format.
        ConfigurationError: The file cannot be read.
    """
    return recognise(read_file(file, what="the file"))


def verify_file(recognised: Recognised, given: EvidenceOptions, *, refuse_unsafe: bool = True) -> Verification:
    """Verify what a file holds with what the command line gives (see `verify_content`).

    Raises:
        FormatError: It is no evidence, or something given is malformed.
        ConfigurationError: A root is not what its option says, or a file cannot be read.
    """
    runtime: AttestedData | None = None
    if given.runtime_data is not None:
        runtime = attested_data(read_file(given.runtime_data, what="the runtime data"))
    return verify_content(recognised.content, anchors=_anchors(given), runtime=runtime, refuse_unsafe=refuse_unsafe)


def _anchors(given: EvidenceOptions) -> Anchors:
    roots = [TrustedRoot(certificate_der=_one_certificate(file), simulated=False) for file in given.root]
    roots += [TrustedRoot(certificate_der=_one_certificate(file), simulated=True) for file in given.simulated_root]
    endorsements: EndorsementSource | None = None
    revocations: RevocationSource | None = None
    if given.endorsements is not None:
        endorsements = DirectoryEndorsements(given.endorsements)
        revocations = DirectoryRevocations(given.endorsements)
    anchors = Anchors(
        roots=TrustedRoots(roots=tuple(roots)),
        endorsements=endorsements,
        revocations=revocations,
        now=given.at or SystemClock().now(),
    )
    for file in (*given.collateral, *([given.crl] if given.crl else [])):
        anchors = _with(anchors, file)
    return anchors


def _with(anchors: Anchors, file: Path) -> Anchors:
    """Add what a file holds to what evidence is verified with."""
    match recognise_file(file).content:
        case CollateralFile(endorsements=DcapEndorsements() as endorsements):
            return replace(anchors, endorsements=GivenEndorsements(endorsements))
        case CollateralFile(endorsements=SnpEndorsements() as snp):
            chain, crl = x509.parse_pem_chain(snp.certificate_chain.encode()), from_hex(snp.crl.lower())
            return replace(anchors, certificates=(*anchors.certificates, *chain), revocations=GivenRevocations(crl))
        case CertificatesFile(chain_der=chain):
            return replace(anchors, certificates=(*anchors.certificates, *chain))
        case CrlFile(crl_der=crl):
            return replace(anchors, revocations=GivenRevocations(crl))
        case _:
            raise FormatError(f"{file} holds neither collateral nor certificates nor a revocation list")


def _one_certificate(file: Path) -> bytes:
    match recognise_file(file).content:
        case CertificatesFile(chain_der=(only,)):
            return only
        case _:
            raise FormatError(f"{file} should hold exactly one certificate: the root")


# --- printing --------------------------------------------------------------------------------------------------------


def print_groups(groups: tuple[Group, ...]) -> None:
    """Print fields, aligned, group by group."""
    for group in groups:
        say()
        say(printable(group.title))
        fields = [each for field in group.fields for each in _flat(field)]
        width = max((len(each.name) for each in fields), default=0)
        for each in fields:
            _print_field(each, width)


def print_verification(verification: Verification) -> None:
    """Print the steps, what the evidence says, and the verdict."""
    say()
    say("steps")
    width = max(len(check.name) for check in verification.checks)
    for check in verification.checks:
        say(printable(f"  {check.name:<{width}}  {check.result:<11}  {check.detail}"))
        for mismatch in check.mismatches:
            say(printable(f"  {'':<{width}}  {'':<11}  {mismatch}"))
    if verification.claims:
        print_claims(verification.claims, title="claims")
    say()
    say(verdict(verification))
    for action in verification.actions:
        say(f"  → {printable(action)}")


def print_claims(claims: Mapping[str, Json], *, title: str) -> None:
    """Print claims, aligned."""
    print_groups((Group(title=title, fields=tuple(Field(name=name, value=claims[name]) for name in claims)),))


def verdict(verification: Verification) -> str:
    """Return the verdict in one line."""
    moment = to_rfc3339(verification.now)
    if not verification.is_verified:
        return printable(f"REFUSED at {moment}: {'; '.join(verification.reasons)}")
    hardware = "SIMULATED hardware, which protects nothing" if verification.hardware == "simulated" else "real hardware"
    is_bound = any(check.name == "binding" and check.result == "holds" for check in verification.checks)
    bound = "" if is_bound else "; it stands for no runtime data"
    return f"VERIFIED at {moment}: {hardware}{bound}"


def _flat(field: Field) -> Iterator[Field]:
    """Return a field, or the members of one that is an object, under dotted names."""
    if not isinstance(field.value, Mapping) or not field.value:
        yield field
        return
    for name, value in field.value.items():
        yield from _flat(Field(name=f"{field.name}.{name}", value=value, meaning=field.meaning))


def _print_field(each: Field, width: int) -> None:
    lines = _value(each.value).split("\n")
    meaning = f"  ({printable(each.meaning)})" if each.meaning else ""
    if len(lines) == 1:
        say(f"  {printable(each.name):<{width}}  {printable(lines[0])}{meaning}")
        return
    say(f"  {printable(each.name)}{meaning}")
    for line in lines:
        say(f"    {printable(line)}")


def _value(value: Json) -> str:
    match value:
        case bool():
            return "yes" if value else "no"
        case str():
            return value
        case list() | tuple() if all(isinstance(each, str | int) for each in value):
            shown = ", ".join(map(str, value[:_SHOWN_LIST])) or "none"
            return shown if len(value) <= _SHOWN_LIST else f"{shown} and {len(value) - _SHOWN_LIST} more"
        case int() | float() | None:
            return show(value)
        case _:
            return json.dumps(value, ensure_ascii=False, default=list)
