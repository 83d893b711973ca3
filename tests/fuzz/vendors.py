"""Targets: the vendors' documents from their servers, from caches and from bundles."""

import functools
import json
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import TypeAdapter, ValidationError
from starlette.applications import Starlette
from tests.fuzz.samples import bench, new_folder, signer
from tests.fuzz.service import SERVICE, AnsweredNoError, answered
from tests.fuzz.target import Target, of_text, text_of
from tests.support.amd import amd_bench
from tests.support.asgi import send
from tests.support.platform import NOW
from tests.support.vendor_server import SettableClock, Vendors

from strongroom.attestation.endorsements.bundle import BUNDLE_TYP, BundleEndorsements, sign_bundle, verify_bundle
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements
from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    DocumentName,
    Entry,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
)
from strongroom.attestation.endorsements.platforms import find_endorsements, platform_of
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.endorsements import verify_document
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import parse_json, parse_json_object
from strongroom.base.errors import FormatError, LimitError, NotFoundError, VerificationError
from strongroom.clients.amd_kds import KdsClient
from strongroom.clients.azure_thim import ThimClient
from strongroom.clients.https import Fetched, Https
from strongroom.clients.intel_pcs import PcsClient, cut_member, root_crl_address
from strongroom.crypto import x509
from strongroom.crypto.jose import sign_jws
from strongroom.services.collateral_service import CollateralService, collateral_application
from strongroom.services.endorsement_cache import read_entry

_FILE_NAME = re.compile(r"[a-z0-9-]{1,255}\Z")
_VCEK_PARTS = {"bl": "boot_loader", "tee": "tee", "snp": "snp", "ucode": "microcode"}
_HEADERS = ("sgx-pck-crl-issuer-chain", "tcb-info-issuer-chain", "sgx-enclave-identity-issuer-chain")


class _Answering(Https):
    """A server with one answer to everything."""

    def __init__(self, body: bytes, *, header: str) -> None:
        self._answer = Fetched(body=body, headers=dict.fromkeys(_HEADERS, header) | {"age": header[:10]})

    def get(self, path: str, **options: Any) -> Fetched:
        del path, options
        return self._answer


@functools.cache
def _vendors() -> Vendors:
    return Vendors(platform=bench().platform, amd=amd_bench().amd, clock=SettableClock())


@functools.cache
def _folder() -> Path:
    return new_folder()


def _roots() -> TrustedRoots:
    roots = (bench().platform.root_der, amd_bench().amd.root_der)
    return TrustedRoots(roots=tuple(TrustedRoot(certificate_der=root, simulated=True) for root in roots))


@functools.cache
def _names() -> tuple[Any, ...]:
    """Return the name of one document of each kind."""
    report = amd_bench().report()
    return (
        PckCrlName(ca="platform"),
        RootCaCrlName(),
        TcbInfoName(tee="SGX", fmspc=bench().platform.fmspc.hex()),
        QeIdentityName(tee="TDX"),
        AmdChainName(signing_key="VCEK", product="Milan"),
        AmdCrlName(signing_key="VCEK", product="Milan"),
        VcekName.of(report, "Milan"),
    )


@functools.cache
def _entries() -> tuple[Entry, ...]:
    """Return one document of each kind, as the clients fetch them."""
    vendors = _vendors()
    certificate = x509.to_pem(vendors.amd.certificates["VCEK"])
    chain = vendors.answer("/vcek/v1/Milan/cert_chain").body.decode()
    made = [_fetched(name) for name in _names()[:6]]
    vcek = {"name": _names()[6], "document": {"content": certificate, "issuer_chain": chain}}
    at = to_rfc3339(NOW)
    return tuple(
        Entry.from_object({**each, "name": each["name"].model_dump(mode="json"), "fetched_at": at})
        for each in [*made, vcek]
    )


def _fetched(name: Any) -> dict[str, Any]:
    answer = _vendors().answer(_address(name))
    server = _Answering(answer.body, header="".join(answer.headers.values()))
    client = KdsClient if name.kind.startswith("amd") else PcsClient
    found = client(server, clock=SettableClock()).find(name)
    return {"name": name, "document": found.document.model_dump(mode="json")}


def _address(name: Any) -> str:
    """Return where a vendor has a document."""
    version = "/certification/v4"
    addresses: dict[str, str] = {
        "pck-crl": f"/sgx{version}/pckcrl?ca=platform&encoding=der",
        "root-ca-crl": f"/sgx{version}/rootcacrl",
        "tcb-info": f"/sgx{version}/tcb?fmspc={bench().platform.fmspc.hex().upper()}&update=standard",
        "qe-identity": f"/tdx{version}/qe/identity?update=standard",
        "amd-chain": "/vcek/v1/Milan/cert_chain",
        "amd-crl": "/vcek/v1/Milan/crl",
    }
    return addresses[name.kind]


def _bodies(*kinds: str) -> list[bytes]:
    """Return what the vendors answer with."""
    documents = {entry.name.kind: entry.document for entry in _entries()}
    made = []
    for kind in kinds:
        document = documents[kind]  # type: ignore[index]
        member = {"tcb-info": "tcbInfo", "qe-identity": "enclaveIdentity"}.get(kind)
        if member is not None:
            made.append(f'{{"{member}":{document.content},"signature":"{document.signature}"}}'.encode())
        elif kind == "amd-chain":
            made.append(document.content.encode())
        else:
            crl = bytes.fromhex(document.content)
            made += [crl, crl.hex().encode(), x509.crl_pem(crl)]
    return made


def _answer_of(client: Any, *names: int) -> Callable[[bytes], Any]:
    """Have a client read any answer as each of these documents; what it takes in is a document of its kind."""

    def parse(data: bytes) -> Any:
        server = _Answering(data, header=_good_header())
        found = []
        for number in names:
            try:
                found.append(client(server, clock=SettableClock()).find(_names()[number]).document)
            except FormatError:
                continue
        if not found:
            raise FormatError("no document at all")
        return [document.to_json() for document in found]

    return parse


@functools.cache
def _good_header() -> str:
    certificates = bench().platform.certificates
    return quote(x509.to_pem(certificates["tcb-signing"]) + x509.to_pem(certificates["root"]))


def _header(data: bytes) -> Any:
    """Give the header in which a server shows its issuers, and which says how old the answer is."""
    (body,) = _bodies("tcb-info")
    server = _Answering(body, header=data.decode("latin-1"))
    return PcsClient(server, clock=SettableClock()).find(_names()[2]).document.to_json()


def _member(text: str) -> Any:
    whole = parse_json_object(text)
    for member in ("tcbInfo", "enclaveIdentity"):
        if member in whole:
            found = cut_member(text, member)
            assert found in text
            assert parse_json(found) == whole[member]
            return found
    return cut_member(text, "tcbInfo")


def _vcek(data: bytes) -> Any:
    """Read one answer as a chip's certificate, and as its issuers'."""

    class Server(_Answering):
        def get(self, path: str, **options: Any) -> Fetched:
            del options
            chain = _bodies("amd-chain")[0]
            return Fetched(body=chain if path.endswith("cert_chain") else data, headers={})

    return KdsClient(Server(b"", header=""), clock=SettableClock()).find(_names()[6]).document.to_json()


def _thim(data: bytes) -> Any:
    client = ThimClient("http://127.0.0.1")
    client._server = _Answering(data, header="")
    return client.certificate_chain()


def _thim_samples() -> list[bytes]:
    certificates = amd_bench().amd.certificates
    chain = x509.to_pem(certificates["ask"]) + x509.to_pem(certificates["ark"])
    return [json.dumps({"vcekCert": x509.to_pem(certificates["VCEK"]), "certificateChain": chain}).encode()]


def _document_name(data: bytes) -> Any:
    """Read a name: whatever it says, it is a file name that leaves no folder."""
    parsed = parse_json(data)
    try:
        name: Any = TypeAdapter(DocumentName).validate_python(parsed)
    except ValidationError as error:
        raise FormatError("no name") from error
    assert _FILE_NAME.match(name.key)
    return name


def _entry(data: bytes) -> Any:
    """Put any bytes where a cache keeps a document, and verify what is read."""
    path = _folder() / "entry.json"
    path.write_bytes(data)
    entry = read_entry(path)
    assert entry is not None
    assert _FILE_NAME.match(entry.name.key)
    verify_document(entry.name, entry.document, trusted_roots=_roots(), now=NOW)
    return entry


def _bundle(text: str) -> Any:
    return verify_bundle(text, signer=signer().verifying_key, now=NOW)


def _bundle_body(data: bytes) -> Any:
    """Have the collector sign anything."""
    return _bundle(sign_jws(data, key=signer(), header={"typ": BUNDLE_TYP}))


def _bundle_bodies() -> list[bytes]:
    return [_bundle(token).to_json() for token in _bundles()]


@functools.cache
def _bundles() -> tuple[str, ...]:
    day = timedelta(days=1)
    return tuple(
        sign_bundle(entries, key=signer(), now=NOW, expires_at=NOW + day) for entries in (_entries()[4:6], _entries())
    )


@functools.cache
def _collateral_service() -> Starlette:
    path = _folder() / "bundle.jws"
    path.write_text(_bundles()[-1], encoding="ascii")
    clock = SettableClock()
    documents = BundleEndorsements(path, signer=signer().verifying_key, clock=clock)
    return collateral_application(CollateralService(documents=documents, kept_ready=documents.names(), clock=clock))


def _collateral_request(data: bytes) -> Any:
    """Send an HTTP request: method and target, a line end, the body.

    Raises:
        AnsweredNoError: The status is 4xx.
    """
    line, _, body = data.partition(b"\n")
    method, _, target = line.decode("ascii", errors="replace").partition(" ")
    return answered(send(_collateral_service(), method, target, body))


def _collateral_requests() -> list[bytes]:
    *intel, vcek = _names()
    tcb = "".join(f"&{part}SPL={getattr(vcek, name)}" for part, name in _VCEK_PARTS.items())
    made = [*(_address(name) for name in intel), f"/vcek/v1/Milan/{vcek.hwid}?{tcb[1:]}", "/healthz", "/readyz"]
    return [f"GET {target}".encode() for target in made]


def _platform(text: str) -> Any:
    folder = SERVICE().folder
    return find_endorsements(
        text,
        dcap=DirectoryEndorsements(folder),
        revocations=DirectoryRevocations(folder),
        roots_der=[root.certificate_der for root in _roots().roots],
    )


def _platforms() -> list[bytes]:
    family, root = bench().platform.fmspc.hex(), x509.spki_sha256(amd_bench().amd.root_der)
    return [f"sgx.{family}.platform".encode(), f"tdx.{family}.platform".encode(), f"snp.{root}".encode()]


def _platform_of(data: bytes) -> Any:
    """Name the platform of any evidence; the chain of certificates of SEV-SNP is any text."""
    named = []
    for kind, chain in (("sgx", None), ("tdx", None), ("snp", text_of(data))):
        try:
            named.append(
                platform_of(UnverifiedEvidence(kind=kind, quote=data, runtime_data=None, certificate_chain=chain))
            )  # type: ignore[arg-type]
        except FormatError:
            continue
    if not named:
        raise FormatError("no platform")
    return named


def _evidence() -> list[bytes]:
    return [bench().quote(), bench().td_quote(), amd_bench().endorsements().certificate_chain.encode()]


_VERIFIED = (FormatError, LimitError, VerificationError)

VENDORS: tuple[Target, ...] = (
    Target(name="platform-name", parse=of_text(_platform), samples=_platforms, refusals=(FormatError, NotFoundError)),
    Target(name="platform-of", parse=_platform_of, samples=_evidence, refusals=(FormatError, LimitError)),
    Target(
        name="endorsements-call",
        parse=lambda data: SERVICE().endorsements(data),
        samples=_platforms,
        refusals=(AnsweredNoError,),
    ),
    Target(
        name="collateral-http",
        parse=_collateral_request,
        samples=_collateral_requests,
        refusals=(AnsweredNoError,),
    ),
    Target(
        name="document-name",
        parse=_document_name,
        samples=lambda: [name.to_json() for name in _names()],
        write=lambda name: bytes(name.to_json()),
    ),
    Target(
        name="cache-entry",
        parse=_entry,
        samples=lambda: [entry.to_json() for entry in _entries()],
        refusals=(FormatError, VerificationError),
    ),
    Target(
        name="bundle",
        parse=of_text(_bundle),
        samples=lambda: [token.encode() for token in _bundles()],
        refusals=_VERIFIED,
    ),
    Target(name="bundle-body", parse=_bundle_body, samples=_bundle_bodies, refusals=_VERIFIED),
    Target(name="pcs-member", parse=of_text(_member), samples=lambda: _bodies("tcb-info", "qe-identity")),
    Target(
        name="pcs-answer",
        parse=_answer_of(PcsClient, 0, 1, 2, 3),
        samples=lambda: _bodies("tcb-info", "qe-identity", "pck-crl", "root-ca-crl"),
    ),
    Target(name="pcs-header", parse=_header, samples=lambda: [_good_header().encode()]),
    Target(name="kds-answer", parse=_answer_of(KdsClient, 4, 5), samples=lambda: _bodies("amd-chain", "amd-crl")[:2]),
    Target(name="kds-vcek", parse=_vcek, samples=lambda: [amd_bench().amd.certificates["VCEK"]]),
    Target(name="thim-answer", parse=_thim, samples=_thim_samples),
    Target(
        name="root-crl-address",
        parse=root_crl_address,
        samples=lambda: [bench().platform.root_der, amd_bench().amd.root_der],
        refusals=(FormatError, NotFoundError),
        has_good_input=False,
    ),
)
