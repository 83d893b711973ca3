"""`strongroom chart`: services on Kubernetes, from their owner's side."""

from pathlib import Path
from typing import Any, Final, get_args

import click
from typing_extensions import override

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.cli.chart import Plan, Shape, read_plan, trust_on_kubernetes, write_chart_files
from strongroom.cli.measurements import read_measurements
from strongroom.cli.options import state_option
from strongroom.cli.owner_keys import load_signing_key
from strongroom.cli.policies import register_default_policy
from strongroom.cli.state import State, read_file
from strongroom.cli.terminal import busy, examples, note, say, short
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.datasets.storage import write_file
from strongroom.submit.run import load_trust
from strongroom.submit.services import verify_services
from strongroom.wire.service import ServiceKind
from strongroom.wire.trust import TrustedRootEntry

_FILE: Final = click.Path(exists=True, dir_okay=False, path_type=Path)


class _NamedFile(click.ParamType[tuple[str, Path]]):
    """`NAME=FILE`."""

    name = "NAME=FILE"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        name, _, path = str(value).partition("=")
        plain = name.replace(".", "").replace("-", "").replace("_", "")
        if not path or not plain.isascii() or not plain.isalnum() or name.startswith(".."):
            self.fail(f"{value!r} is no file with a name; write pgpass=FILE", param, ctx)
        return name, Path(path)


class _Issuer(click.ParamType[tuple[str, Path]]):
    """`ISSUER=FILE`."""

    name = "ISSUER=FILE"

    @override
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Path]:
        if isinstance(value, tuple):
            return value
        issuer, _, path = str(value).partition("=")
        if not issuer.startswith("https://") or not path:
            self.fail(f"{value!r} is no issuer with its keys; write https://kubernetes.default.svc=FILE", param, ctx)
        return issuer, Path(path)


@click.group()
def chart() -> None:
    """Install the services on Kubernetes with Helm, as their owner.

    `values` makes the services' identities and writes what Helm and kubectl are given. When the services run, `trust`
    verifies them and writes trust.json. What is pinned is what you made and decided, never what the cluster says.
    """


@chart.command(
    epilog=examples(
        "strongroom chart values --out install --measurements spark.measurement.json",
        "strongroom chart values --out install --replicas 3 --file pgpass=pgpass"
        " --database 'postgresql://keys@db.example/keys?sslmode=verify-full&passfile=/strongroom/private/pgpass'",
        "strongroom chart values --out install --shape confidential-node --root ark_milan.pem --collateral",
    )
)
@click.option(
    "--out", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Where to write."
)
@click.option("--namespace", default="strongroom", show_default=True, help="Where the services will run.")
@click.option(
    "--platform-namespace",
    default="strongroom-platform",
    show_default=True,
    help="Where the simulated platform will run: its pods may do what no other pod may.",
)
@click.option(
    "--shape",
    type=click.Choice(get_args(Shape)),
    default="simulated",
    show_default=True,
    help="Where the TEEs of runs come from.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="A hardware vendor's root certificate (PEM); repeatable.  [real hardware: required]",
)
@click.option(
    "--measurements",
    multiple=True,
    type=_FILE,
    metavar="FILE",
    help="What an image's code measures, as the image's build writes it; repeatable.",
)
@click.option("--collateral", is_flag=True, help="Install a collateral service too.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 99),
    default=1,
    show_default=True,
    help="Of each service whose state is in a database.",
)
@click.option(
    "--database", metavar="URL", help="The key service's PostgreSQL database, without a password.  [default: a volume]"
)
@click.option(
    "--attestation-database",
    metavar="URL",
    help="The attestation service's PostgreSQL database, without a password.  [default: a volume]",
)
@click.option(
    "--master-key",
    metavar="URI",
    help="Where the key service's master key is (docs/how-to/master-key.md).  [default: a file of its own]",
)
@click.option(
    "--workload-issuer",
    "workload_issuers",
    multiple=True,
    type=_Issuer(),
    help="A cluster whose service accounts' tokens the key service believes, and its keys "
    "(`kubectl get --raw /openid/v1/jwks`); repeatable.",
)
@click.option(
    "--file",
    "files",
    multiple=True,
    type=_NamedFile(),
    help="A private file that the key service finds as /strongroom/private/NAME; repeatable.",
)
@click.option(
    "--attestation-file",
    "attestation_files",
    multiple=True,
    type=_NamedFile(),
    help="The same of the attestation service; repeatable.",
)
@state_option
def values(  # noqa: PLR0913 - an option for each thing that is decided
    *,
    out: Path,
    namespace: str,
    platform_namespace: str,
    shape: Shape,
    roots: tuple[Path, ...],
    measurements: tuple[Path, ...],
    collateral: bool,
    replicas: int,
    database: str | None,
    attestation_database: str | None,
    master_key: str | None,
    workload_issuers: tuple[tuple[str, Path], ...],
    files: tuple[tuple[str, Path], ...],
    attestation_files: tuple[tuple[str, Path], ...],
    state: State,
) -> None:
    """Make the services' identities, and write the owner's part of an installation with Helm.

    Writes values.yaml for Helm, namespaces.json and secrets.json for kubectl. Keys are made where there are none, and
    never overwritten. secrets.json holds the services' private keys: keep it as you keep owner/, and delete it when it
    is applied. Run it again after a change of people.json, witnesses or options; then upgrade, and write the trust file
    anew.
    """
    found = read_measurements(measurements)
    plan = Plan.from_object(
        {
            "namespace": namespace,
            "platform_namespace": platform_namespace,
            "shape": shape,
            "roots": [_root(path).model_dump(mode="json") for path in roots],
            "agent_measurements": found.agents("sgx"),
            "agent_mrtds": found.agents("tdx"),
            "agent_launch_digests": found.agents("snp"),
            "services": found.services(),
            "collateral": collateral,
            "replicas": replicas,
            "database": database,
            "attestation_database": attestation_database,
            "master_key": master_key,
            "workload_issuers": [{"issuer": name, "jwks": _key_set(path)} for name, path in workload_issuers],
        }
    )
    private: dict[ServiceKind, dict[str, Path]] = {
        "key-service": dict(files),
        "attestation-service": dict(attestation_files),
    }
    written = write_chart_files(plan, state=state, out=out, files=private, clock=SystemClock())
    say(f"{written.namespaces}  for kubectl: the namespaces")
    say(f"{written.secrets}  for kubectl: the services' identities; delete it afterwards")
    say(f"{written.values}  for Helm")
    if not any((plan.agent_measurements, plan.agent_mrtds, plan.agent_launch_digests)):
        note("no agent is trusted: name what the Spark image measures with --measurements FILE")
    if not plan.services:
        note("the services' code is not pinned: a client believes their identities alone")


@chart.command(
    epilog=examples(
        "strongroom chart trust",
        "strongroom chart trust --attestation-service https://127.0.0.1:8443 --key-service https://127.0.0.1:8444",
    )
)
@click.option("--attestation-service", metavar="URL", help="Where you reach it.  [default: as pods do]")
@click.option("--key-service", metavar="URL", help="Where you reach it.  [default: as pods do]")
@state_option
def trust(*, attestation_service: str | None, key_service: str | None, state: State) -> None:
    """Verify the services that run on Kubernetes, and write the trust file.

    Each must have the identity that you made, the configuration that you decided, and the code that you pinned. If it
    does, trust.json is written, with the addresses for you and those for pods; and an evidence policy that accepts
    exactly the pinned agents is registered, if none is.
    """
    plan = read_plan(state)
    given: dict[ServiceKind, str | None] = {
        "attestation-service": attestation_service,
        "key-service": key_service,
    }
    addresses = {name: url.rstrip("/") for name, url in given.items() if url is not None}
    before = load_trust(state.trust) if state.trust.exists() else None
    clock = SystemClock()
    pinned = trust_on_kubernetes(plan, state=state, before=before, addresses=addresses, clock=clock)
    with busy("verifying the services"):
        verify_services(pinned, clock=clock)
    write_file(state.trust, pinned.to_json())
    for service in pinned.services:
        say(f"{service.service:<20} {short(service.identity)}  {service.url}  {service.mode}")
    say(f"trust file: {state.trust} ({pinned.hardware} hardware)")
    if any((pinned.agent_measurements, pinned.agent_mrtds, pinned.agent_launch_digests, pinned.pods, pinned.nodes)):
        owner = load_signing_key(state.owner_key)
        for text in register_default_policy(pinned, before=before, key=owner, clock=clock):
            say(text)
    else:
        note("no agent is trusted, and no evidence policy registered: strongroom chart values --measurements FILE")


def _key_set(path: Path) -> str:
    """Return a cluster's keys as text; what of it is used, the key service decides."""
    return canonical_json(parse_json_object(read_file(path, what="the cluster's keys"))).decode()


def _root(path: Path) -> TrustedRootEntry:
    chain = parse_pem_chain(read_file(path, what="the root"))
    return TrustedRootEntry(certificate_pem=to_pem(chain[-1]), simulated=False)
