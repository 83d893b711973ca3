"""Where a service's endorsements come from, as its configuration says: a folder, a bundle, or the vendors' servers."""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeAlias
from urllib.parse import urlsplit

from pydantic import Field
from typing_extensions import override

from strongroom.attestation.endorsements.bundle import BundleEndorsements
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements, EndorsementSource, parse_endorsements
from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    DocumentName,
    DocumentSource,
    Edition,
    Entry,
    Found,
    VcekName,
)
from strongroom.attestation.endorsements.folder import FolderDocuments
from strongroom.attestation.endorsements.snp import DirectoryRevocations, SnpEndorsementSource
from strongroom.attestation.verifier import TrustedRoots
from strongroom.base.clock import Clock
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, StrongroomError
from strongroom.clients.amd_kds import KdsClient
from strongroom.clients.https import Https
from strongroom.clients.intel_pcs import PcsClient, lacks_root_crl, root_crl_address
from strongroom.crypto import x509
from strongroom.crypto.keys import VerifyingKey
from strongroom.services.endorsement_cache import DocumentCache, StalenessLimits, read_entries
from strongroom.wire.model import Message, Url


class FolderSettings(Message):
    """A folder of whole endorsements, such as a simulated platform writes.

    Attributes:
        path: The folder: `<fmspc>.json`, `<fmspc>-tdx.json`, `<SHA-256 of an AMD root's key>.crl`.
    """

    kind: Literal["folder"] = "folder"
    path: str


class BundleSettings(Message):
    """An offline bundle.

    Attributes:
        path: The file; it may be replaced while the service runs.
        signer: Public JWK of the key that must have signed it.
        edition: Which of the vendor's evaluations to look for.
    """

    kind: Literal["bundle"] = "bundle"
    path: str
    signer: dict[str, str]
    edition: Edition = "standard"


class ServerSettings(Message):
    """A vendor's server, or a cache that speaks like it, such as our collateral service.

    Attributes:
        url: Its address.
        certificate_pem: Whose certificates are accepted: for our collateral service its identity.pem. None for the
            authorities that the machine trusts.
        total_s: How long an answer may take, in seconds.
    """

    url: Url
    certificate_pem: str | None = None
    total_s: float = Field(default=20.0, gt=0, le=60)


class PcsSettings(ServerSettings):
    """Intel's PCS, or a PCCS.

    Attributes:
        root_crl: Where the root's revocation list is. None: the server has it (`rootcacrl`), or, for Intel's own
            server, which has not, the trusted root's certificate says where it is.
    """

    root_crl: Url | None = None


class CacheSettings(Message):
    """A cache on disk, renewed from the vendors' servers.

    Attributes:
        folder: Its owner's alone; made if it is not there. Without servers it holds what was put there.
        pcs: Where the documents of SGX and TDX come from.
        kds: Where the documents of SEV-SNP come from.
        limits: For how long documents are used.
        edition: Which of the vendor's evaluations to ask for.
    """

    kind: Literal["cache"] = "cache"
    folder: str
    pcs: PcsSettings | None = None
    kds: ServerSettings | None = None
    limits: StalenessLimits = StalenessLimits()
    edition: Edition = "standard"


EndorsementSettings: TypeAlias = Annotated[FolderSettings | BundleSettings | CacheSettings, Field(discriminator="kind")]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Endorsements:
    """A service's sources of endorsements.

    Attributes:
        dcap: For SGX and TDX.
        snp: For SEV-SNP.
        documents: The same, document by document.
        tcb_infos: Returns the texts of the TCB infos that are here, not verified; nobody is asked for more.
        can_answer: Whether there are endorsements here, or somebody to ask for them.
    """

    dcap: EndorsementSource
    snp: SnpEndorsementSource
    documents: DocumentSource
    tcb_infos: Callable[[], Iterator[str]]
    can_answer: Callable[[], bool]


def open_endorsements(settings: EndorsementSettings, *, trusted_roots: TrustedRoots, clock: Clock) -> Endorsements:
    """Return the sources that a configuration names.

    Args:
        settings: The configuration.
        trusted_roots: What a cache verifies documents against before it keeps them.
        clock: The time.

    Raises:
        ConfigurationError: A folder, a file or an address cannot be used.
        FormatError: The bundle's signer is not a public key.
    """
    match settings:
        case FolderSettings():
            path = Path(settings.path)
            return Endorsements(
                dcap=DirectoryEndorsements(path),
                snp=DirectoryRevocations(path),
                documents=FolderDocuments(path),
                tcb_infos=lambda: _tcb_infos_of_folder(path),
                can_answer=lambda: any(path.glob("*.json")) or any(path.glob("*.crl")),
            )
        case BundleSettings():
            signer = VerifyingKey.from_jwk(settings.signer)
            path = Path(settings.path)
            bundle = BundleEndorsements(path, signer=signer, clock=clock, edition=settings.edition)
            return _all_from(bundle, entries=lambda: bundle.body().entries, has_server=False)
        case CacheSettings():
            folder = Path(settings.folder)
            cache = open_cache(settings, trusted_roots=trusted_roots, clock=clock)
            has_server = settings.pcs is not None or settings.kds is not None
            return _all_from(cache, entries=lambda: read_entries(folder), has_server=has_server)


def _all_from(documents: DocumentSource, *, entries: Callable[[], Sequence[Entry]], has_server: bool) -> Endorsements:
    def here() -> Sequence[Entry]:
        try:
            return entries()
        except StrongroomError:
            _log.warning("the kept endorsements cannot be listed", exc_info=True)
            return ()

    def tcb_infos() -> Iterator[str]:
        return (entry.document.content for entry in here() if entry.name.kind == "tcb-info")

    return Endorsements(
        dcap=documents,
        snp=documents,
        documents=documents,
        tcb_infos=tcb_infos,
        can_answer=lambda: has_server or bool(here()),
    )


def _tcb_infos_of_folder(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.json")):
        try:
            yield parse_endorsements(file.read_bytes()).tcb_info
        except (FormatError, OSError):
            _log.warning("endorsements that cannot be read", extra={"fields": {"file": file.name}})


def open_cache(settings: CacheSettings, *, trusted_roots: TrustedRoots, clock: Clock) -> DocumentCache:
    """Return the cache that a configuration names.

    Raises:
        ConfigurationError: The folder or an address cannot be used.
    """
    pcs, kds = settings.pcs, settings.kds
    intel = None if pcs is None else _pcs_client(pcs, trusted_roots=trusted_roots, clock=clock)
    amd = None if kds is None else KdsClient(_server(kds, service="AMD's key distribution service"), clock=clock)
    return DocumentCache(
        Path(settings.folder),
        source=None if intel is None and amd is None else VendorDocuments(intel=intel, amd=amd),
        trusted_roots=trusted_roots,
        limits=settings.limits,
        clock=clock,
        edition=settings.edition,
    )


class VendorDocuments(DocumentSource):
    """The vendors' documents, each from its vendor.

    Args:
        intel: For SGX and TDX; None if there is no such source.
        amd: For SEV-SNP; None if there is no such source.
    """

    def __init__(self, *, intel: DocumentSource | None, amd: DocumentSource | None) -> None:
        self._intel, self._amd = intel, amd

    @override
    def find(self, name: DocumentName) -> Found:
        """Return a document from its vendor (see `DocumentSource`)."""
        is_amds = isinstance(name, AmdChainName | AmdCrlName | VcekName)
        source = self._amd if is_amds else self._intel
        if source is None:
            missing = "AMD's key distribution service (kds)" if is_amds else "Intel's certification service (pcs)"
            raise NotFoundError(f"{name.key} has no source here", action=f"Configure {missing}, or a cache of it.")
        return source.find(name)


def _pcs_client(settings: PcsSettings, *, trusted_roots: TrustedRoots, clock: Clock) -> PcsClient:
    address = settings.root_crl
    if address is None and lacks_root_crl(settings.url):
        address = _root_crl_of(trusted_roots)
    server = _server(settings, service="Intel's certification service")
    root_crl = None
    if address is not None:
        # Intel's list lies on another host; its authorities are the machine's unless it is the configured server.
        same_host = urlsplit(address).netloc == urlsplit(settings.url).netloc
        root_crl = Https(
            address,
            service="the root's revocation list",
            authorities_pem=settings.certificate_pem if same_host else None,
            total_s=settings.total_s,
        )
    return PcsClient(server, clock=clock, root_crl=root_crl)


def _root_crl_of(trusted_roots: TrustedRoots) -> str:
    for root in trusted_roots.roots:
        if not root.simulated and not x509.common_name(root.certificate_der).startswith("ARK-"):
            return root_crl_address(root.certificate_der)
    raise ConfigurationError(
        "Intel's certification service is configured, but no root of Intel's is trusted",
        action="Add Intel's root to the trusted roots, or configure root_crl.",
    )


def _server(settings: ServerSettings, *, service: str) -> Https:
    return Https(settings.url, service=service, authorities_pem=settings.certificate_pem, total_s=settings.total_s)
