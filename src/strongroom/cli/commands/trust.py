"""`strongroom trust`: what is trusted, and another owner's services beside one's own."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import click

from strongroom.attestation.evidence.initdata import parse_initdata
from strongroom.base.clock import to_rfc3339
from strongroom.base.errors import ConflictError, NotFoundError, StrongroomError
from strongroom.cli.options import PARTNER_NAME, PARTNER_OR_PROVIDER, PROVIDER_URL, json_option, state_option
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import examples, print_json, printable, say
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.x509 import parse_pem_chain, read_certificate
from strongroom.datasets.storage import write_file
from strongroom.policy.shapes import VIRTUAL
from strongroom.submit.run import load_trust
from strongroom.submit.services import published_certificates
from strongroom.wire.azure_attestation import AzureAttestationAddress, TrustedAzureAttestation
from strongroom.wire.model import TEE_KINDS, Message, VirtualTeeKind
from strongroom.wire.trust import Anchors, NodeReference, Partner, PodReference, Trust, TrustedService

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_TEE = click.option("--tee", type=click.Choice(VIRTUAL), required=True, help="The kind of TEE.")
_MEASUREMENT = click.option(
    "--measurement", required=True, metavar="HEX", help="Of the virtual machine at its launch: MRTD, or MEASUREMENT."
)
_REMOVE = click.option("--remove", is_flag=True, help="Trust it no more.")


@click.group()
def trust() -> None:
    """Look at the trust file; trust another owner's services for joint runs, or Azure Attestation."""


@trust.command(epilog=examples("strongroom trust show", "strongroom trust show hospital-trust.json"))
@click.argument("file", required=False, type=_FILE)
@json_option
@state_option
def show(*, file: Path | None, as_json: bool, state: State) -> None:
    """Show everything that a trust file trusts: your own, or FILE."""
    found = load_trust(file or state.trust)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    _print(found, title=str(file or state.trust), own=None)
    for partner in found.partners:
        _print_partner(partner, own=found)


@trust.command(epilog=examples("strongroom trust add hospital hospital-trust.json"))
@click.argument("name", type=PARTNER_NAME)
@click.argument("file", type=_FILE)
@click.option(
    "--accept-results",
    is_flag=True,
    help="Let your own key service believe the results of that owner's attestation service: needed where runs are "
    "attested there. It takes effect with `strongroom up`.",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def add(*, name: str, file: Path, accept_results: bool, yes: bool, state: State) -> None:
    """Trust the services of another owner, NAME, as that owner's trust FILE names them.

    Shows what would be trusted, and asks. Compare the identities with the owner over another channel: whoever changed
    the file on its way would be trusted in that owner's place. Their anchors count for their own services and datasets
    alone; the partners in FILE are not taken over. An owner of this name is replaced.
    """
    own, theirs = load_trust(state.trust), load_trust(file)
    said = theirs.model_dump(mode="json")
    anchors = Anchors.from_object({field: value for field, value in said.items() if field in Anchors.model_fields})
    partner = Partner(name=name, accept_results=accept_results, anchors=anchors)
    others = [each for each in own.partners if each.name != name]
    merged = _merged(own, partners=(*others, partner))
    _print_partner(partner, own=own)
    if theirs.partners:
        say(f"not taken over from {file.name}: its partners {', '.join(each.name for each in theirs.partners)}")
    if not yes:
        click.confirm(f"Trust this as {name}?", abort=True)
    write_file(state.trust, merged.to_json())
    say(f"{name} is trusted; datasets there are called NAME@{name}")
    if accept_results:
        say("let your key service take it up with: strongroom up")


@trust.command(
    epilog=examples(
        "strongroom trust azure https://strongroom.weu.attest.azure.net",
        "strongroom trust azure https://strongroom.weu.attest.azure.net --pcs https://pccs.internal:8081 \\",
        "    --endorsement-authorities pccs.pem",
    )
)
@click.argument("url", type=PROVIDER_URL)
@click.option("--authorities", type=_FILE, help="Whose certificates (PEM) count there.  [default: the machine's]")
@click.option("--pcs", metavar="URL", help="Where agents get endorsements of SGX: a PCCS.  [default: Intel's service]")
@click.option("--kds", metavar="URL", help="Where agents get endorsements of SEV-SNP.  [default: AMD's service]")
@click.option(
    "--endorsement-authorities",
    "vendors",
    type=_FILE,
    help="Whose certificates (PEM) are accepted at --pcs and --kds.  [default: the machine's]",
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@state_option
def azure(
    *,
    url: str,
    authorities: Path | None,
    pcs: str | None,
    kds: str | None,
    vendors: Path | None,
    yes: bool,
    state: State,
) -> None:
    """Trust the provider of Azure Attestation at URL, by the keys that it publishes now.

    Shows their certificates, and asks. Nobody certifies these keys: what vouches for them is the connection, and that
    whoever verifies receipts sees the same ones. Your roots and agents count for what the provider appraised. Do it
    again when Azure has replaced its keys: the earlier ones stay, because the receipts of earlier runs need them, and
    so does what options said before.
    """
    own = load_trust(state.trust)
    known = next((each for each in own.azure_attestation if each.url == url), None)
    servers = {"pcs": pcs, "kds": kds, "authorities_pem": _text(vendors)}
    address = _address(url, known, authorities_pem=_text(authorities), servers=servers)
    published, before = published_certificates(address), known.certificates if known else ()
    digests = dict.fromkeys((*before, *map(sha256_hex, published)))
    provider = TrustedAzureAttestation(address=address, certificates=tuple(digests))
    others = [each for each in own.azure_attestation if each.url != url]
    merged = _merged(own, azure_attestation=(*others, provider))
    say(f"{url} publishes {len(published)} signing keys, by their certificates:")
    for certificate in published:
        digest, said = sha256_hex(certificate), read_certificate(certificate)
        held = f"{said.subject}, {to_rfc3339(said.not_before)} to {to_rfc3339(said.not_after)}"
        say(f"  {digest} {'(known)' if digest in before else '(new)'} {printable(held)}")
    if not yes:
        click.confirm("Trust results that these keys sign?", abort=True)
    write_file(state.trust, merged.to_json())
    say(f"{url} is trusted, as it publishes its keys today; runs are appraised there with: submit --attested-by {url}")


@trust.command(
    epilog=examples("strongroom trust remove hospital", "strongroom trust remove https://NAME.weu.attest.azure.net")
)
@click.argument("name", type=PARTNER_OR_PROVIDER)
@state_option
def remove(*, name: str, state: State) -> None:
    """Trust the owner NAME no more, or the provider of Azure Attestation at that address.

    If an owner's results were accepted, your key service forgets them with `strongroom up`.
    """
    own = load_trust(state.trust)
    partners = tuple(each for each in own.partners if each.name != name)
    providers = tuple(each for each in own.azure_attestation if each.url != name)
    if (partners, providers) == (own.partners, own.azure_attestation):
        kind = "provider" if name.startswith("https://") else "partner"
        raise NotFoundError(f"the trust file has no {kind} {name}", action="see them with: strongroom trust show")
    write_file(state.trust, _merged(own, partners=partners, azure_attestation=providers).to_json())
    say(f"{name} is trusted no more")
    if any(each.name == name and each.accept_results for each in own.partners):
        say("let your key service take it up with: strongroom up")


@trust.command(
    epilog=examples(
        "strongroom trust pod initdata.toml --tee snp --measurement 5b0c…",
        "strongroom trust pod initdata.toml --tee tdx --measurement 91ae… --image",
    )
)
@click.argument("file", type=_FILE, metavar="INITDATA")
@_TEE
@_MEASUREMENT
@click.option(
    "--image",
    "by_image",
    is_flag=True,
    help="Name the image beside the rest, as a reference value of its own: the policy in INITDATA has a line for it.",
)
@_REMOVE
@state_option
def pod(*, file: Path, tee: VirtualTeeKind, measurement: str, by_image: bool, remove: bool, state: State) -> None:
    """Trust pods whose guest has a measurement and is configured as by INITDATA, for any application.

    Read the document first: what its policy lets run in the pod is trusted with what the application reads. The
    application that it names does not matter here; approvals name that.
    """
    found = parse_initdata(read_file(file, what="the initdata"))
    if by_image and found.image is None:
        raise click.UsageError(f"the policy in {file.name} has no line that names its image")
    said = {"template": found.template, "image": found.image} if by_image else {"configuration": found.configuration}
    _change(state, "pods", PodReference.from_object({"tee": tee, "measurement": measurement, **said}), remove=remove)


@trust.command(epilog=examples("strongroom trust node --tee snp --measurement 5b0c…"))
@_TEE
@_MEASUREMENT
@_REMOVE
@state_option
def node(*, tee: VirtualTeeKind, measurement: str, remove: bool, state: State) -> None:
    """Trust confidential nodes with a measurement: weaker, because their administrators are inside the TEE.

    Only applications whose approval says `--shape confidential-node` run there.
    """
    _change(state, "nodes", NodeReference.from_object({"tee": tee, "measurement": measurement}), remove=remove)


def _change(
    state: State, field: Literal["pods", "nodes"], reference: PodReference | NodeReference, *, remove: bool
) -> None:
    own = load_trust(state.trust)
    trusted: list[PodReference | NodeReference] = [*getattr(own, field)]
    if remove and reference not in trusted:
        raise NotFoundError("the trust file does not name it", action="see it with: strongroom trust show")
    kept = [each for each in trusted if each != reference]
    changed = own.model_copy(update={field: tuple(kept if remove else [*kept, reference])})
    write_file(state.trust, Trust.from_json(changed.to_json()).to_json())
    say(f"{'trusted no more' if remove else 'trusted'}: {reference_words(reference)}")
    say("have the evidence policy say so too: strongroom policy set --default; and approve anew, by its new hash")


def reference_words(reference: PodReference | NodeReference) -> str:
    """Return a reference value in words."""
    words = f"{reference.measurement} ({reference.tee})"
    match reference:
        case PodReference(template=None):
            return f"{words}, configuration {reference.configuration}"
        case PodReference():
            return f"{words}, configuration {reference.template} with the image {reference.image}"
        case _:
            return words


def _address(
    url: str,
    known: TrustedAzureAttestation | None,
    *,
    authorities_pem: str | None,
    servers: Mapping[str, str | None],
) -> AzureAttestationAddress:
    """Return how a provider is reached: as it was until now, but for what is given."""
    fresh = {"kind": "azure-attestation", "url": url}
    before: dict[str, Any] = known.address.model_dump(mode="json") if known else fresh
    given = {} if authorities_pem is None else {"authorities_pem": authorities_pem}
    changed = {name: value for name, value in servers.items() if value is not None}
    return AzureAttestationAddress.from_object(
        {**before, **given, "endorsements": {**before.get("endorsements", {}), **changed}}
    )


def _text(file: Path | None) -> str | None:
    return None if file is None else read_file(file, what="the certificate").decode("ascii", errors="replace")


def _merged(own: Trust, **changed: tuple[Message, ...]) -> Trust:
    try:
        return Trust.from_json(own.model_copy(update=changed).to_json())
    except StrongroomError as error:
        raise ConflictError(
            f"this does not go together with what is trusted: {error.message}",
            action="see what is trusted already with: strongroom trust show",
        ) from error


def _print_partner(partner: Partner, *, own: Trust) -> None:
    _print(partner.anchors, title=f"partner {partner.name}", own=own)
    word = "are accepted" if partner.accept_results else "are not accepted"
    say(f"  {'results':<14} of its attestation service {word} by your key service")


def _print(anchors: Anchors, *, title: str, own: Anchors | None) -> None:
    say(title)
    for name, text in _lines(anchors, own=own):
        say(f"  {name:<14} {printable(text)}")


def _lines(anchors: Anchors, *, own: Anchors | None) -> Iterator[tuple[str, str]]:
    """Yield what is trusted, in words: what, and its value. What is like one's own is marked."""
    simulated = " (protects nothing)" if anchors.hardware == "simulated" else ""
    yield "hardware", f"{anchors.hardware}{simulated}"
    for root in anchors.roots:
        digest = sha256_hex(parse_pem_chain(root.certificate_pem.encode())[0])
        yield "root", f"{digest}{' (simulated)' if root.simulated else ''}{_same(root in own.roots if own else False)}"
    for service in anchors.services:
        yield from _service_lines(service)
    for provider in anchors.azure_attestation:
        yield "azure", f"{provider.url}, Azure Attestation"
        for digest in provider.certificates:
            yield "  key", digest
    for owner in anchors.owners:
        yield "owner", owner
    for kind in TEE_KINDS:
        for value in anchors.agents(kind):
            yield f"agent ({kind})", f"{value}{_same(value in own.agents(kind) if own else False)}"
    references: list[PodReference | NodeReference] = [*anchors.pods, *anchors.nodes]
    known: list[PodReference | NodeReference] = [*own.pods, *own.nodes] if own else []
    for reference in references:
        name = "pod" if isinstance(reference, PodReference) else "node (weaker)"
        yield name, f"{reference_words(reference)}{_same(reference in known)}"


def _service_lines(service: TrustedService) -> Iterator[tuple[str, str]]:
    yield service.service.removesuffix("-service"), f"{service.url}, {service.mode}"
    if service.cluster_url:
        yield "  in cluster", service.cluster_url
    yield "  identity", service.identity
    yield "  code", service.measurement or "the identity's word alone"
    yield "  configured", service.configuration
    if service.master_key:
        yield "  master key", service.master_key
    if service.log_key:
        yield "  log", service.log_key


def _same(is_so: bool) -> str:  # noqa: FBT001 - a word for a yes
    return " (yours too)" if is_so else ""
