"""`strongroom endorsements`: what hardware vendors vouch for, fetched, bundled and looked at."""

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Final, TypeVar, cast, get_args

import click
from typing_extensions import override

from strongroom.attestation.endorsements.bundle import BundleBody, sign_bundle, verify_bundle
from strongroom.attestation.endorsements.documents import (
    Edition,
    Entry,
    PlatformFamily,
    VcekName,
    names_for,
)
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.pck import platform_kind
from strongroom.attestation.evidence.snp_report import Product, parse_snp_report
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.endorsements import verify_document
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.encoding import Json
from strongroom.base.errors import ConfigurationError, FormatError, StrongroomError, VerificationError
from strongroom.base.limits import LIMITS
from strongroom.cli.options import UntilDate, json_option
from strongroom.cli.owner_keys import load_signing_key, public_key_of
from strongroom.cli.state import read_file
from strongroom.cli.terminal import busy, examples, print_records, say
from strongroom.clients.amd_kds import AMD_KDS
from strongroom.clients.intel_pcs import INTEL_PCS
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.x509 import parse_pem_chain
from strongroom.datasets.storage import write_file
from strongroom.services.endorsement_cache import read_entries
from strongroom.services.endorsement_sources import CacheSettings, PcsSettings, ServerSettings, open_cache

_Command = TypeVar("_Command", bound=Callable[..., Any])
_COLUMNS: Final = {
    "name": "document",
    "fetched_at": "fetched",
    "number": "number",
    "issued_at": "issued",
    "holds_until": "holds until",
    "state": "state",
}
_FILE: Final = click.Path(path_type=Path, dir_okay=False)
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)


class _Family(click.ParamType[PlatformFamily]):
    """`FMSPC[:CA[:TEE]]`."""

    name = "FMSPC[:CA[:TEE]]"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> PlatformFamily:
        fmspc, ca, tee, *more = (*str(value).split(":"), *(("platform", "SGX")[str(value).count(":") :]))
        try:
            if not more:
                return PlatformFamily.from_object({"fmspc": fmspc.lower(), "ca": ca.lower(), "tee": tee.upper()})
        except FormatError:
            pass
        return self.fail(f"{value!r} is no platform family; write FMSPC or FMSPC:processor:tdx", param, ctx)


class _Edition(click.ParamType[Edition]):
    """`standard`, `early` or a number."""

    name = "EDITION"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Edition:
        text = str(value)
        if text == "early":
            return "early"
        if text.isascii() and text.isdigit() and 0 < int(text) <= 0xFFFFFFFF:  # noqa: PLR2004 - 32 bits
            return int(text)
        if text != "standard":
            self.fail(f"{value!r} is no edition; write standard, early or a tcbEvaluationDataNumber", param, ctx)
        return "standard"


def _root_options(command: _Command) -> _Command:
    """Add `--root` and `--simulated-root`; the command receives `roots`, which may be none."""

    @wraps(command)
    def with_roots(*, real: tuple[Path, ...], simulated: tuple[Path, ...], **others: object) -> object:
        return command(roots=_roots(real, simulated), **others)

    genuine = click.option(
        "--root", "real", multiple=True, type=_FILE, metavar="FILE", help="A vendor's roots, PEM. Repeatable."
    )
    made_up = click.option(
        "--simulated-root", "simulated", multiple=True, type=_FILE, metavar="FILE", help="Roots of simulated hardware."
    )
    return cast("_Command", genuine(made_up(with_roots)))


@click.group()
def endorsements() -> None:
    """Fetch, bundle and look at what hardware vendors vouch for."""


@endorsements.command(
    epilog=examples(
        "strongroom endorsements fetch --into cache --root intel.pem --family 00a067110000:processor",
        "strongroom endorsements fetch --into cache --root ark_milan.pem --report report.bin",
    )
)
@click.option("--into", "folder", required=True, type=_FOLDER, metavar="DIR", help="The cache to fill.")
@_root_options
@click.option(
    "--family", "families", multiple=True, type=_Family(), help="A family of SGX or TDX platforms. Repeatable."
)
@click.option(
    "--product",
    "products",
    multiple=True,
    type=click.Choice(get_args(Product)),
    help="A product line of AMD's. Repeatable.",
)
@click.option("--quote", "quotes", multiple=True, type=_FILE, metavar="FILE", help="What this SGX or TDX quote needs.")
@click.option("--report", "reports", multiple=True, type=_FILE, metavar="FILE", help="What this SEV-SNP report needs.")
@click.option("--pcs", default=INTEL_PCS, show_default=True, metavar="URL", help="Intel's service, or a PCCS.")
@click.option("--kds", default=AMD_KDS, show_default=True, metavar="URL", help="AMD's service, or a cache of it.")
@click.option(
    "--authority", type=_FILE, metavar="FILE", help="Whose TLS certificates to accept, PEM.  [default: the machine's]"
)
@click.option(
    "--edition",
    type=_Edition(),
    default="standard",
    show_default=True,
    help="Which of Intel's evaluations: standard, early, or its number.",
)
def fetch(  # noqa: PLR0913 - each is an option
    *,
    folder: Path,
    roots: TrustedRoots,
    families: tuple[PlatformFamily, ...],
    products: tuple[Product, ...],
    quotes: tuple[Path, ...],
    reports: tuple[Path, ...],
    pcs: str,
    kds: str,
    authority: Path | None,
    edition: Edition,
) -> None:
    """Fetch endorsements from the vendors into a cache.

    Each is verified against the roots before it is kept, and never goes back behind what the cache holds. The cache
    is a folder that services use as it is (`cache` in their configuration), and that `bundle` takes its documents
    from.
    """
    chips = [_chip_of(path) for path in reports]
    wanted = names_for(
        [*families, *map(_family_of, quotes)],
        tuple(dict.fromkeys([*products, *(chip.product for chip in chips)])),
        edition=edition,
    )
    if not wanted:
        raise click.UsageError("say what to fetch: --family, --product, --quote or --report")
    certificate_pem = (
        None if authority is None else read_file(authority, what="the authority").decode("ascii", "replace")
    )
    settings = CacheSettings(
        folder=str(folder),
        pcs=PcsSettings.from_object({"url": pcs, "certificate_pem": certificate_pem}),
        kds=ServerSettings.from_object({"url": kds, "certificate_pem": certificate_pem}),
    )
    cache = open_cache(settings, trusted_roots=_demand_some(roots), clock=SystemClock())
    with busy("fetching") as tell:
        for name in (*wanted, *chips):
            tell(f"fetching {name.key}")
            try:
                cache.renew(name)
            except StrongroomError as error:
                error.message = f"{name.key}: {error.message}"
                raise
    say(f"{len(wanted) + len(chips)} documents are in {folder}")


@endorsements.command(
    epilog=examples(
        "strongroom endorsements bundle endorsements.jws --from cache --root intel.pem --signer auditor.key"
    )
)
@click.argument("file", type=_FILE)
@click.option("--from", "folder", required=True, type=_FOLDER, metavar="DIR", help="The cache to take documents from.")
@_root_options
@click.option("--signer", required=True, type=_FILE, metavar="FILE", help="The private key that signs, PEM.")
@click.option(
    "--expires", type=UntilDate(), help="Until when it may be used.  [default: until its first document runs out]"
)
def bundle(*, file: Path, folder: Path, roots: TrustedRoots, signer: Path, expires: str | None) -> None:
    """Sign all documents of a cache, as FILE, for verification offline.

    Every document must be verifiable now. Whoever uses the bundle pins the signer's public key.
    """
    now = SystemClock().now()
    _demand_some(roots)
    entries = read_entries(folder)
    standings = [verify_document(entry.name, entry.document, trusted_roots=roots, now=now) for entry in entries]
    first_end = min(standing.next_update for standing in standings)
    until = first_end if expires is None else datetime.fromisoformat(expires)
    token = sign_bundle(entries, key=load_signing_key(signer), now=now, expires_at=until)
    write_file(file, token.encode("ascii") + b"\n")
    say(f"{len(entries)} documents signed in {file}; it may be used until {to_rfc3339(until)}")
    if until > first_end:
        say(f"the first of its documents runs out before that, at {to_rfc3339(first_end)}")


@endorsements.command(
    epilog=examples(
        "strongroom endorsements show cache --root intel.pem",
        "strongroom endorsements show endorsements.jws --signer auditor.jwk --root intel.pem --at 2026-03-01T12:00:00Z",
    )
)
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@_root_options
@click.option("--signer", metavar="FILE", help="The public key that must have signed the bundle (JWK).")
@click.option("--at", "at", type=UntilDate(), help="Verify as of this time.  [default: now]")
@json_option
def show(
    *,
    path: Path,
    roots: TrustedRoots,
    signer: str | None,
    at: str | None,
    as_json: bool,
) -> None:
    """Show the documents of a cache or of a bundle, and until when each of them holds.

    Documents are verified against the roots that are named; without roots nothing is. Ends with an error if anything
    that was verified does not hold.
    """
    now = SystemClock().now() if at is None else datetime.fromisoformat(at)
    entries = read_entries(path) if path.is_dir() else _entries_of_bundle(path, signer, now, as_json=as_json)
    rows = [_row(entry, roots, now) for entry in entries]
    print_records(rows, columns=_COLUMNS, as_json=as_json)
    refused = sum(row["verified"] is False for row in rows)
    if refused:
        raise VerificationError(
            f"{refused} of {len(rows)} documents do not hold at {to_rfc3339(now)}", action="Fetch fresh endorsements."
        )


def _entries_of_bundle(path: Path, signer: str | None, now: datetime, *, as_json: bool) -> Sequence[Entry]:
    token = read_file(path, what="the bundle").decode("ascii", "replace").strip()
    if signer is not None:
        body = verify_bundle(token, signer=public_key_of(signer), now=now)
        word = "verified"
    else:
        body = BundleBody.from_json(unverified_payload(token, max_bytes=LIMITS.bundle_bytes))
        word = "signature NOT verified (name the signer: --signer)"
    if not as_json:
        say(f"bundle of {body.collected_at}, may be used until {body.expires_at}: {word}")
    return body.entries


def _row(entry: Entry, roots: TrustedRoots, now: datetime) -> dict[str, Json]:
    row: dict[str, Json] = {"name": entry.name.key, "fetched_at": entry.fetched_at, "verified": None}
    if not roots.roots:
        return {**row, "state": "not verified"}
    try:
        standing = verify_document(entry.name, entry.document, trusted_roots=roots, now=now)
    except StrongroomError as error:
        return {**row, "verified": False, "state": error.message}
    return {
        **row,
        "verified": True,
        "number": standing.number or None,
        "issued_at": None if standing.issued_at is None else to_rfc3339(standing.issued_at),
        "holds_until": to_rfc3339(standing.next_update),
        "state": "holds",
    }


def _demand_some(roots: TrustedRoots) -> TrustedRoots:
    if not roots.roots:
        raise click.UsageError("name the vendors' roots: --root or --simulated-root")
    return roots


def _roots(real: Sequence[Path], simulated: Sequence[Path]) -> TrustedRoots:
    return TrustedRoots(
        roots=tuple(
            TrustedRoot(certificate_der=certificate, simulated=is_simulated)
            for paths, is_simulated in ((real, False), (simulated, True))
            for path in paths
            for certificate in parse_pem_chain(read_file(path, what="the root"))
        )
    )


def _family_of(path: Path) -> PlatformFamily:
    quote_bytes = read_file(path, what="the quote")
    try:
        kind = platform_kind(parse_sgx_quote(quote_bytes))
        return PlatformFamily(fmspc=kind.fmspc, ca=kind.ca, tee="SGX")
    except FormatError:
        kind = platform_kind(parse_tdx_quote(quote_bytes))
        return PlatformFamily(fmspc=kind.fmspc, ca=kind.ca, tee="TDX")


def _chip_of(path: Path) -> VcekName:
    report = parse_snp_report(read_file(path, what="the report"))
    if report.cpuid is None:
        raise ConfigurationError(
            f"the report {path} is of version 2, which does not name its product",
            action="Fetch its product line with --product; services look its chip up themselves.",
        )
    if report.signing_key != "VCEK" or report.mask_chip_key:
        raise ConfigurationError(
            f"the certificate of the report {path} cannot be looked up: its chip is hidden, or has not signed",
            action="Fetch its product line with --product, and send the certificate chain with the report.",
        )
    return VcekName.of(report, report.cpuid.product)
