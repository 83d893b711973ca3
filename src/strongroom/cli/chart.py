"""Services on Kubernetes, from their owner's side: what Helm is given, and what a client pins of what it installs.

The owner makes the services' identities and says whom they believe; the chart (`deploy/charts/strongroom`) carries that
into the cluster. So nothing that is pinned is ever learnt from the cluster.
"""

import base64
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

from pydantic import Field, StringConstraints

from strongroom.base.clock import Clock
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.base.secret import SecretBytes
from strongroom.cli.owner_keys import load_signing_key, make_owner_keys, replace_private
from strongroom.cli.people import owner_thumbprints, read_people
from strongroom.cli.pinning import pinned_attestation_service, pinned_key_service
from strongroom.cli.rotations import former_owners
from strongroom.cli.state import State, read_file
from strongroom.cli.witnesses import read_choice
from strongroom.cli.yaml_text import to_yaml
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.datasets.storage import write_file
from strongroom.keys.providers import open_master_key
from strongroom.services import attestation_service, collateral_service, key_service
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.services.endorsement_sources import FolderSettings
from strongroom.services.identity import ServiceIdentity, open_identity
from strongroom.services.issuers import AttestationServiceSettings
from strongroom.services.key_service import KeyServiceSettings
from strongroom.services.workloads import WorkloadIssuerSettings
from strongroom.simulation.server import prepare
from strongroom.wire.model import Hex32, Hex48, Message
from strongroom.wire.service import ServiceKind
from strongroom.wire.trust import Partner, Trust, TrustedRootEntry, TrustedService

Shape: TypeAlias = Literal["simulated", "confidential-node", "pod", "sgx"]
"""Where the TEEs of runs come from."""
NamespaceName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z")]
"""A namespace of Kubernetes (RFC 1123 label)."""

_PORT: Final = 8443
_EVERYWHERE: Final = "0.0.0.0"  # noqa: S104 - a pod's address is not known before
_STATE: Final = "/var/lib/strongroom/state"
_PRIVATE: Final = "/strongroom/private"
_MASTER_KEY: Final = "master.key"
_PART_OF: Final = {"app.kubernetes.io/part-of": "strongroom"}
_IDENTITY_FILES: Final = ("identity.key", "identity.pem", "signing.key", "statement.key")
_PREDECESSORS: Final = "predecessors.json"
_DATABASE: Final = re.compile(r"postgres(ql)?://([^:@/?#]+@)?[^@/?#]+/[^@/?#]+(\?(?!.*password=)[^@#]*)?")
_LEVEL: Final = "pod-security.kubernetes.io/enforce"


class Plan(Message):
    """What the owner decided about services on Kubernetes: `owner/kubernetes.json`.

    Attributes:
        namespace: Where the services run.
        platform_namespace: Where the simulated platform runs.
        shape: Where the TEEs of runs come from.
        roots: The vendors' roots of real hardware; those of simulated hardware are its platform's.
        agent_measurements, agent_mrtds, agent_launch_digests: The agents' reference values, as in the trust file.
        services: What the services' code measures, where they run on a platform that shows it.
        collateral: Whether a collateral service is installed too.
        replicas: How many processes each service is that has a database.
        database: The PostgreSQL URL that the key service's replicas share, as their pods reach it; None: a volume.
        attestation_database: The same of the attestation service.
        master_key: Where the key service's master key is; None: in a file of its own.
        workload_issuers: The clusters whose service accounts' tokens the key service believes.
    """

    version: Literal[1] = 1
    namespace: NamespaceName
    platform_namespace: NamespaceName
    shape: Shape
    roots: tuple[TrustedRootEntry, ...] = ()
    agent_measurements: tuple[Hex32, ...] = ()
    agent_mrtds: tuple[Hex48, ...] = ()
    agent_launch_digests: tuple[Hex48, ...] = ()
    services: dict[ServiceKind, Hex32] = Field(default={})
    collateral: bool = False
    replicas: int = Field(default=1, ge=1, le=99)
    database: str | None = None
    attestation_database: str | None = None
    master_key: str | None = None
    workload_issuers: tuple[WorkloadIssuerSettings, ...] = ()

    @property
    def hardware(self) -> Literal["simulated", "real"]:
        """Which kind of hardware is believed."""
        return "simulated" if self.shape == "simulated" else "real"

    def url(self, service: str) -> str:
        """Return a service's address in its cluster."""
        return f"https://{service}.{self.namespace}.svc:{_PORT}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """The files for whoever installs.

    Attributes:
        values: For Helm; no secret.
        namespaces: For kubectl: the namespaces with what their pods may do; no secret.
        secrets: For kubectl: the services' identities, for their owner alone.
    """

    values: Path
    namespaces: Path
    secrets: Path


def write_chart_files(
    plan: Plan, *, state: State, out: Path, files: Mapping[ServiceKind, Mapping[str, Path]], clock: Clock
) -> Written:
    """Make what is not there yet: keys, identities, a platform. Write what Helm and kubectl are given.

    Args:
        plan: What the owner decided; it is kept.
        state: The installation.
        out: The folder for the files.
        files: Further private files of each service, by name: a database's password file, a vault's token.
        clock: The time.

    Raises:
        ConfigurationError: The plan contradicts itself, or a file cannot be read or written.
    """
    _demand_sound(plan, files.get("key-service", {}))
    if not state.owner_key.exists():
        make_owner_keys(state)
    if plan.shape == "simulated":
        plan = plan.model_copy(update={"roots": _simulated_roots(prepare(state.platform, clock=clock))})
    identities = _identities(plan, state, clock=clock)
    secrets = [_secret(f"{name}-identity", plan.namespace, _identity_files(state.owner / name)) for name in identities]
    private = _private_files(plan, state, files)
    secrets += [_secret(f"{name}-files", plan.namespace, content) for name, content in private.items()]
    if plan.shape == "simulated":
        secrets.append(_secret("simulated-platform", plan.platform_namespace, _platform_files(state.platform)))
    written = Written(values=out / "values.yaml", namespaces=out / "namespaces.json", secrets=out / "secrets.json")
    values = _values(plan, state, identities, with_files=private.keys())
    write_file(written.values, to_yaml(values).encode())
    write_file(written.namespaces, _list(_namespaces(plan)))
    replace_private(written.secrets, SecretBytes(_list(secrets)))
    write_file(state.kubernetes, plan.to_json())
    return written


def read_plan(state: State) -> Plan:
    """Return what the owner decided.

    Raises:
        ConfigurationError: Nothing yet, or the file holds something else.
    """
    found = read_file(
        state.kubernetes, what="the plan of the services on Kubernetes", action="make one with: strongroom chart values"
    )
    try:
        return Plan.from_json(found)
    except FormatError as error:
        raise ConfigurationError(f"{state.kubernetes} is {error.message}", action="Restore it.") from error


def trust_on_kubernetes(
    plan: Plan, *, state: State, before: Trust | None, addresses: Mapping[ServiceKind, str], clock: Clock
) -> Trust:
    """Return the trust file for services on Kubernetes, from what their owner made and decided alone.

    Args:
        plan: What the owner decided.
        state: The installation.
        before: The trust file until now: its partners stay, and the pods, nodes and providers of Azure Attestation.
        addresses: Where this client reaches a service, if elsewhere than pods do.
        clock: The time.

    Raises:
        ConfigurationError: Something that the owner made is missing or damaged.
    """
    identities = _identities(plan, state, clock=clock)
    people = read_people(state, owner=load_signing_key(state.owner_key).verifying_key)
    partners = before.partners if before is not None else ()
    attestation = pinned_attestation_service(
        _attestation_config(plan, state),
        identities["attestation-service"],
        measurement=plan.services.get("attestation-service"),
        address=addresses.get("attestation-service"),
    )
    keys = pinned_key_service(
        _key_settings(plan, state, identities["attestation-service"], partners=partners),
        identities["key-service"],
        measurement=plan.services.get("key-service"),
        address=addresses.get("key-service"),
    )
    return Trust(
        hardware=plan.hardware,
        roots=plan.roots,
        services=(attestation, keys),
        owners=(*owner_thumbprints(people), *former_owners(state)),
        agent_measurements=plan.agent_measurements,
        agent_mrtds=plan.agent_mrtds,
        agent_launch_digests=plan.agent_launch_digests,
        pods=before.pods if before is not None else (),
        nodes=before.nodes if before is not None else (),
        partners=partners,
        azure_attestation=before.azure_attestation if before is not None else (),
    )


# --- what is pinned: of each configuration, the parts that decide whom a service believes -----------------------------


def _attestation_config(plan: Plan, state: State) -> AttestationServiceConfig:
    people = read_people(state, owner=load_signing_key(state.owner_key).verifying_key)
    return AttestationServiceConfig(
        url=plan.url("attestation-service"),
        host=_EVERYWHERE,
        port=_PORT,
        state=_STATE,
        mode="owner-operated",
        owners=people.owners,
        people=people.people,
        issuers=people.issuers,
        roots=plan.roots,
        state_database=plan.attestation_database,
        endorsements=FolderSettings(path=_STATE),  # where they come from decides nothing: they are signed
        platform=None,
    )


def _key_settings(
    plan: Plan, state: State, attestation: ServiceIdentity, *, partners: Sequence[Partner]
) -> KeyServiceSettings:
    people = read_people(state, owner=load_signing_key(state.owner_key).verifying_key)
    choice = read_choice(state)
    own = AttestationServiceSettings(
        url=plan.url("attestation-service"),
        identity=attestation.identity,
        certificate_pem=attestation.certificate_pem,
    )
    return KeyServiceSettings(
        url=plan.url("key-service"),
        host=_EVERYWHERE,
        port=_PORT,
        state=_STATE,
        state_database=plan.database,
        master_key=_master_key(plan),
        owners=people.owners,
        people=people.people,
        issuers=people.issuers,
        attestation_services=(own, *_believed(partners)),
        mode="owner-operated",
        hardware=plan.hardware,
        platform=None,
        witnesses=choice.witnesses,
        witnesses_required=choice.required,
        workload_issuers=plan.workload_issuers,
    )


def _believed(partners: Sequence[Partner]) -> tuple[AttestationServiceSettings, ...]:
    services: list[TrustedService] = []
    for partner in partners:
        if partner.accept_results:
            services += (each for each in partner.anchors.services if each.service == "attestation-service")
    return tuple(
        AttestationServiceSettings(url=each.own_url, identity=each.identity, certificate_pem=each.certificate_pem)
        for each in services
    )


def _master_key(plan: Plan) -> str:
    if plan.master_key is not None:
        return plan.master_key
    return f"file://{_STATE if plan.database is None else _PRIVATE}/{_MASTER_KEY}"


# --- what Helm is given -----------------------------------------------------------------------------------------------


def _values(
    plan: Plan, state: State, identities: Mapping[str, ServiceIdentity], *, with_files: Collection[str]
) -> dict[str, Json]:
    """Return the chart's values, as far as they are the owner's. JWKs are JSON texts: YAML 1.1 takes `y` for true."""
    people = read_people(state, owner=load_signing_key(state.owner_key).verifying_key)
    before = Trust.from_json(state.trust.read_bytes()) if state.trust.exists() else None
    settings = _key_settings(
        plan, state, identities["attestation-service"], partners=before.partners if before is not None else ()
    )
    attestation = identities["attestation-service"]
    values: dict[str, Json] = {
        "shape": plan.shape,
        "owners": [_text(jwk) for jwk in people.owners],
        "people": _text([each.model_dump(mode="json") for each in people.people]),
        "issuers": _text([each.model_dump(mode="json") for each in people.issuers]),
        "roots": [{"certificatePem": root.certificate_pem, "simulated": root.simulated} for root in plan.roots],
        "attestationService": {
            "url": plan.url("attestation-service"),
            "identity": attestation.identity,
            "identityCertificate": attestation.certificate_pem,
            **_storage("attestation-service", plan.attestation_database, plan.replicas, with_files),
        },
        "keyService": {
            "url": settings.url,
            "masterKey": settings.master_key,
            **_storage("key-service", plan.database, plan.replicas, with_files),
            "attestationServices": _text([each.model_dump(mode="json") for each in settings.attestation_services[1:]]),
            "workloadIssuers": _text([each.model_dump(mode="json") for each in settings.workload_issuers]),
            "witnesses": _text([each.model_dump(mode="json") for each in settings.witnesses]),
            "witnessesRequired": settings.witnesses_required,
        },
    }
    if plan.collateral:
        collateral = identities["collateral-service"]
        values["collateralService"] = {
            "enabled": True,
            "url": plan.url("collateral-service"),
            "identityCertificate": collateral.certificate_pem,
        }
    if plan.shape == "simulated":
        values["simulatedPlatform"] = {"namespace": plan.platform_namespace}
    return values


def _storage(service: str, database: str | None, replicas: int, with_files: Collection[str]) -> dict[str, Json]:
    return {
        "replicas": 1 if database is None else replicas,
        "databaseUrl": database or "",
        "filesSecret": f"{service}-files" if service in with_files else "",
    }


def _text(value: Json) -> str:
    return canonical_json(value).decode()


def _namespaces(plan: Plan) -> list[Json]:
    levels = {plan.namespace: "restricted"}
    if plan.shape == "simulated":
        levels[plan.platform_namespace] = "privileged"
    return [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": name, "labels": {**_PART_OF, _LEVEL: level}},
        }
        for name, level in levels.items()
    ]


def _secret(name: str, namespace: str, files: Mapping[str, bytes]) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": {"name": name, "namespace": namespace, "labels": _PART_OF},
        "data": {file: base64.b64encode(content).decode("ascii") for file, content in files.items()},
    }


def _list(items: Sequence[Json]) -> bytes:
    return (json.dumps({"apiVersion": "v1", "kind": "List", "items": items}, indent=2) + "\n").encode()


# --- what the owner makes ---------------------------------------------------------------------------------------------


def _identities(plan: Plan, state: State, *, clock: Clock) -> dict[str, ServiceIdentity]:
    """Return the services' identities; made at the first time, in folders of their names below `owner/`."""
    names = {
        "attestation-service": (state.attestation_service, attestation_service.COMMON_NAME),
        "key-service": (state.key_service, key_service.COMMON_NAME),
    }
    if plan.collateral:
        names["collateral-service"] = (state.collateral_service, collateral_service.COMMON_NAME)
    return {
        name: open_identity(folder, common_name=common_name, sans=[], now=clock.now())
        for name, (folder, common_name) in names.items()
    }


def _identity_files(folder: Path) -> dict[str, bytes]:
    names = [*_IDENTITY_FILES, *([_PREDECESSORS] if (folder / _PREDECESSORS).exists() else [])]
    return {name: read_file(folder / name, what="the identity's file") for name in names}


def _platform_files(folder: Path) -> dict[str, bytes]:
    """Return a platform's files; a Secret's names have no slash: `.` stands for it, and the chart undoes that."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if path.is_file() and path.suffix in {".json", ".pem"} and "endorsements" not in parts:
            found[".".join(parts)] = read_file(path, what="the platform's file")
    return found


def _private_files(
    plan: Plan, state: State, files: Mapping[ServiceKind, Mapping[str, Path]]
) -> dict[str, dict[str, bytes]]:
    """Return the private files of each service that has some."""
    found: dict[str, dict[str, bytes]] = {
        service: {name: read_file(path, what="the file") for name, path in named.items()}
        for service, named in files.items()
        if named
    }
    if plan.database is not None and plan.master_key is None:
        found.setdefault("key-service", {})[_MASTER_KEY] = _shared_master_key(state)
    return found


def _shared_master_key(state: State) -> bytes:
    path = state.key_service / _MASTER_KEY
    open_master_key(path.as_uri(), create=True)
    return read_file(path, what="the master key")


def _simulated_roots(pem: str) -> tuple[TrustedRootEntry, ...]:
    return tuple(
        TrustedRootEntry(certificate_pem=to_pem(each), simulated=True) for each in parse_pem_chain(pem.encode())
    )


def _demand_sound(plan: Plan, files: Mapping[str, Path]) -> None:
    databases = [each for each in (plan.database, plan.attestation_database) if each is not None]
    if plan.replicas > 1 and not databases:
        raise ConfigurationError(
            "several replicas share a PostgreSQL database, and none is named", action="Name it: --database URL"
        )
    if len(set(databases)) != len(databases):
        raise ConfigurationError("the two services share one database", action="Give each a database of its own.")
    if not all(map(_DATABASE.fullmatch, databases)):
        raise ConfigurationError(
            "the database is no PostgreSQL URL without a password",
            action=f"Write postgresql://ROLE@HOST/DATABASE?passfile={_PRIVATE}/pgpass, and --file pgpass=FILE.",
        )
    if plan.hardware == "real" and not plan.roots:
        raise ConfigurationError(
            "no root of a hardware vendor is named", action="Name Intel's, AMD's or both: --root FILE"
        )
    if _MASTER_KEY in files and plan.master_key is None:
        raise ConfigurationError(
            f"a file {_MASTER_KEY} is given, and the master key is not said to be in it",
            action=f"Say so: --master-key file://{_PRIVATE}/{_MASTER_KEY}",
        )
