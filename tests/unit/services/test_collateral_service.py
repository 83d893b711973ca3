"""The collateral service as a real process: what its clients get, with vendors there and gone."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from tests.support.amd import AmdBench, amd_bench
from tests.support.platform import Bench
from tests.support.service_processes import RunningService, start
from tests.support.vendor_server import SettableClock, Vendors, VendorServer, serving, write_folder

from strongroom.attestation.endorsements.bundle import sign_bundle
from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.endorsements.documents import (
    AmdCrlName,
    Document,
    Entry,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
    dcap_names,
)
from strongroom.attestation.endorsements.folder import FolderDocuments
from strongroom.base.clock import SystemClock, to_rfc3339
from strongroom.base.encoding import to_b64url
from strongroom.base.errors import FormatError, NotFoundError, RefusedError, StrongroomError, UnavailableError
from strongroom.cli.installation import free_port
from strongroom.clients.amd_kds import KdsClient
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.https import Https
from strongroom.clients.intel_pcs import PcsClient
from strongroom.crypto import x509
from strongroom.crypto.keys import SigningKey
from strongroom.services.collateral_service import CollateralService, CollateralServiceConfig, collateral_service
from strongroom.services.endorsement_sources import CacheSettings, open_endorsements
from strongroom.services.evidence_kinds import EVIDENCE_KINDS, Anchors, read_attest_request
from strongroom.services.http import Call

CLOCK = SystemClock()
VENDORS = replace(Vendors.new(SettableClock()), clock=CLOCK)
FMSPC = VENDORS.fmspc
AMD: AmdBench = amd_bench()
CHIP = VcekName.of(AMD.report(), "Milan")
SIGNER = SigningKey.generate("ES256")
RUNTIME = b'{"hello":"world"}'


def roots() -> list[dict[str, Any]]:
    certificates = (VENDORS.platform.root_der, VENDORS.amd.root_der)
    return [{"certificate_pem": x509.to_pem(each), "simulated": True} for each in certificates]


def cached(folder: Path, server: VendorServer | RunningService, authority_pem: str, **limits: Any) -> dict[str, Any]:
    upstream = {"url": server.url, "certificate_pem": authority_pem}
    settings: dict[str, Any] = {"kind": "cache", "folder": str(folder), "pcs": upstream, "kds": upstream}
    return settings | ({"limits": limits} if limits else {})


def bundle_settings(path: Path) -> dict[str, Any]:
    now = CLOCK.now()
    folder = FolderDocuments(write_folder(VENDORS, path.with_suffix(".folder")))
    leaf, *authorities = x509.parse_pem_chain(AMD.endorsements().certificate_chain.encode())
    chip = Document(content=x509.to_pem(leaf), issuer_chain="".join(map(x509.to_pem, authorities)))
    names = [*dcap_names(fmspc=FMSPC, ca="platform", tee="SGX"), AmdCrlName(signing_key="VCEK", product="Milan")]
    entries = [
        Entry(name=name, fetched_at=to_rfc3339(now), document=document)
        for name, document in [(CHIP, chip), *((name, folder.find(name).document) for name in names)]
    ]
    path.write_text(sign_bundle(entries, key=SIGNER, now=now, expires_at=now + timedelta(days=7)))
    return {"kind": "bundle", "path": str(path), "signer": SIGNER.verifying_key.to_jwk()}


def config(folder: Path, endorsements: dict[str, Any], **more: Any) -> dict[str, Any]:
    port = free_port()
    return {
        "url": f"https://127.0.0.1:{port}",
        "host": "127.0.0.1",
        "port": port,
        "state": str(folder / "collateral"),
        "roots": roots(),
        "endorsements": endorsements,
        **more,
    }


@contextmanager
def running(folder: Path, endorsements: dict[str, Any], **more: Any) -> Iterator[RunningService]:
    settings = config(folder, endorsements, **more)
    path = folder / "collateral.json"
    path.write_text(json.dumps(settings))
    service = start("collateral_service", path, url=settings["url"], state=Path(settings["state"]))
    try:
        yield service
    finally:
        service.stop()


@dataclass(frozen=True, kw_only=True)
class Clients:
    """Our own clients of the service, pinned to its identity."""

    https: Https
    pcs: PcsClient
    kds: KdsClient

    @classmethod
    def of(cls, service: RunningService) -> "Clients":
        https = Https(service.url, service="the collateral service", authorities_pem=service.certificate_pem)
        return cls(https=https, pcs=PcsClient(https, clock=CLOCK), kds=KdsClient(https, clock=CLOCK))

    def verify_everything(self) -> None:
        now = CLOCK.now()
        bench = Bench.around(VENDORS.platform)
        assert bench.verify(endorsements=self.pcs.get(fmspc=FMSPC, ca="platform"), now=now).tcb_status == "UpToDate"
        assert AMD.verify(endorsements=self.kds.for_report(AMD.report()), now=now).product == "Milan"


def test_serves_from_its_cache_when_the_vendors_are_gone(tmp_path: Path) -> None:
    with serving(VENDORS) as vendors:
        settings = cached(tmp_path / "cache", vendors, vendors.authority_pem)
        more = {"families": [{"fmspc": FMSPC}], "products": ["Milan"]}
        with running(tmp_path, settings, **more) as service:
            clients = Clients.of(service)
            ready = json.loads(clients.https.get("/readyz").body)
            assert ready["status"] == "ready"
            assert len(ready["documents"]) == 8
            assert all(each["stale"] is None for each in ready["documents"].values())
            clients.verify_everything()
            requests = len(vendors.requests)
            clients.verify_everything()
            assert len(vendors.requests) == requests
            vendors.stop()
            clients.verify_everything()
            with pytest.raises(UnavailableError):
                clients.pcs.get(fmspc=FMSPC, ca="processor")
        assert service.ready["ready"] == "collateral-service"
        with running(tmp_path, settings, **more) as service:
            Clients.of(service).verify_everything()


def test_is_not_ready_while_what_it_should_keep_is_not_there(tmp_path: Path) -> None:
    with serving(VENDORS) as vendors:
        settings = cached(tmp_path / "cache", vendors, vendors.authority_pem)
        with running(tmp_path, settings, families=[{"fmspc": "0" * 12}]) as service:
            https = Clients.of(service).https
            assert json.loads(https.get("/healthz").body) == {"status": "ok"}
            with pytest.raises(UnavailableError, match="503"):
                https.get("/readyz")


@contextmanager
def attestation(folder: Path, endorsements: dict[str, Any]) -> Iterator[RunningService]:
    settings = config(folder, endorsements) | {
        "state": str(folder / "attestation"),
        "mode": "owner-operated",
        "owners": [SIGNER.verifying_key.to_jwk()],
        "platform": None,
    }
    path = folder / "attestation.json"
    path.write_text(json.dumps(settings))
    service = start("attestation_service", path, url=settings["url"], state=Path(settings["state"]))
    try:
        yield service
    finally:
        service.stop()


def demand_verified(service: RunningService) -> None:
    """Send SGX evidence, and an SEV-SNP report without certificates: both verify, and are refused by the policy.

    No policy is registered, so that everything is refused; what does not verify is refused for that, before.
    """
    bench = Bench.around(VENDORS.platform)
    bound = hashlib.sha256(RUNTIME).digest() + bytes(32)
    report = json.dumps({"SnpReport": to_b64url(AMD.amd.sign(AMD.report(report_data=bound)))}).encode()
    for path, evidence in (
        ("SgxEnclave", {"quote": to_b64url(bench.quote(report_data=bound))}),
        ("SevSnpVm", {"report": to_b64url(report)}),
    ):
        body = {**evidence, "runtimeData": {"data": to_b64url(RUNTIME), "dataType": "JSON"}}
        with pytest.raises(RefusedError):
            service.http().request(
                "POST",
                f"/attest/{path}?api-version=2025-06-01",
                body=json.dumps(body).encode(),
                content_type="application/json",
            ).require_success()
    found = parse_endorsements(AttestationClient(service.http()).endorsements(f"sgx.{FMSPC}.platform").encode())
    assert bench.verify(endorsements=found, now=CLOCK.now()).tcb_status == "UpToDate"


def test_the_attestation_service_works_behind_it(tmp_path: Path) -> None:
    with serving(VENDORS) as vendors:
        upstream = cached(tmp_path / "first", vendors, vendors.authority_pem)
        with running(tmp_path, upstream) as collateral:
            settings = cached(tmp_path / "second", collateral, collateral.certificate_pem)
            with attestation(tmp_path, settings) as service:
                demand_verified(service)
                vendors.stop()
                collateral.stop()
                demand_verified(service)
    with attestation(tmp_path, settings) as service:
        demand_verified(service)
    with attestation(tmp_path, bundle_settings(tmp_path / "bundle")) as service:
        demand_verified(service)


def test_a_report_without_certificates_is_verified_with_what_the_kds_has(tmp_path: Path) -> None:
    with serving(VENDORS) as vendors:
        settings = CacheSettings.from_object(cached(tmp_path / "cache", vendors, vendors.authority_pem))
        sources = open_endorsements(settings, trusted_roots=VENDORS.roots, clock=CLOCK)
        bound = hashlib.sha256(RUNTIME).digest() + bytes(32)
        report = to_b64url(AMD.amd.sign(AMD.report(report_data=bound)))
        anchors = Anchors(roots=VENDORS.roots, endorsements=sources.dcap, revocations=sources.snp, now=CLOCK.now())
        kind = EVIDENCE_KINDS["SevSnpVm"]
        request = {
            "report": to_b64url(json.dumps({"SnpReport": report}).encode()),
            "runtimeData": {"data": to_b64url(RUNTIME), "dataType": "JSON"},
        }
        claims = kind.verify(read_attest_request(request, kind), anchors).claims
        assert claims["x-ms-attestation-type"] == "sevsnpvm"
        assert f"/vcek/v1/Milan/{CHIP.hwid}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219" in vendors.requests
        other = replace(AMD, amd=replace(AMD.amd, chip_id=bytes(63) + b"x"))
        forged = to_b64url(other.amd.sign(other.report(report_data=bound)))
        request["report"] = to_b64url(json.dumps({"SnpReport": forged}).encode())
        with pytest.raises(NotFoundError):
            kind.verify(read_attest_request(request, kind), anchors)


@pytest.mark.parametrize("kind", ["folder", "bundle"])
def test_serves_without_any_network(tmp_path: Path, kind: str) -> None:
    if kind == "bundle":
        settings = bundle_settings(tmp_path / "bundle")
    else:
        settings = {"kind": "folder", "path": str(write_folder(VENDORS, tmp_path / "folder"))}
    with running(tmp_path, settings) as service:
        clients = Clients.of(service)
        bench = Bench.around(VENDORS.platform)
        found = clients.pcs.get(fmspc=FMSPC, ca="platform")
        assert bench.verify(endorsements=found, now=CLOCK.now()).tcb_status == "UpToDate"
        assert x509.crl_issuer(clients.kds.crl(VENDORS.amd.root_der)) == "ARK-Milan"
        documents = json.loads(clients.https.get("/readyz").body)["documents"]
        assert len(documents) == (6 if kind == "bundle" else 0)


# --- what the answers look like ----------------------------------------------------------------------------------


@pytest.fixture
def service(tmp_path: Path) -> CollateralService:
    settings = config(tmp_path, bundle_settings(tmp_path / "bundle"))
    return collateral_service(CollateralServiceConfig.from_object(settings), clock=CLOCK)


def call(path: dict[str, str] | None = None, **query: str) -> Call:
    return Call(path=path or {}, query=query, authorization="", body=b"")


def test_answers_as_a_pccs_does(service: CollateralService) -> None:
    crl = service.documents.find(PckCrlName(ca="platform")).document
    der = service.pck_crl(call(ca="platform", encoding="der"))
    assert der.body.hex() == crl.content
    assert unquote(der.headers["SGX-PCK-CRL-Issuer-Chain"]) == crl.issuer_chain
    assert x509.crl_from_pem(service.pck_crl(call(ca="platform")).body) == der.body
    assert service.root_ca_crl(call()).body.decode() == service.documents.find(RootCaCrlName()).document.content
    tcb_info = service.documents.find(TcbInfoName(tee="SGX", fmspc=FMSPC)).document
    for query in ({}, {"update": "standard"}):
        answer = service.tcb_info(call({"tee": "sgx"}, fmspc=FMSPC.upper(), **query))
        assert answer.body.decode() == f'{{"tcbInfo":{tcb_info.content},"signature":"{tcb_info.signature}"}}'
        assert unquote(answer.headers["TCB-Info-Issuer-Chain"]) == tcb_info.issuer_chain
        assert answer.headers["Strongroom-Freshness"] == "fresh"
    identity = service.documents.find(QeIdentityName(tee="SGX")).document
    answer = service.qe_identity(call({"tee": "sgx"}))
    assert answer.body.decode() == f'{{"enclaveIdentity":{identity.content},"signature":"{identity.signature}"}}'


def test_answers_as_the_kds_does(service: CollateralService) -> None:
    query = {"blSPL": "4", "teeSPL": "00", "snpSPL": "24", "ucodeSPL": "219"}
    path = {"product": "Milan", "hwid": CHIP.hwid}
    assert service.vcek(call(path, **query)).body == AMD.amd.certificates["VCEK"]
    crl = service.amd_crl(call({"signing_key": "vcek", "product": "Milan"}))
    assert x509.crl_issuer(crl.body) == "ARK-Milan"


@pytest.mark.parametrize(
    ("handler", "path", "query"),
    [
        ("pck_crl", {}, {}),
        ("pck_crl", {}, {"ca": "root"}),
        ("pck_crl", {}, {"ca": "platform", "encoding": "xml"}),
        ("tcb_info", {"tee": "sgx"}, {}),
        ("tcb_info", {"tee": "sgx"}, {"fmspc": "../../../../"}),
        ("tcb_info", {"tee": "sgx"}, {"fmspc": "0" * 12, "update": "never"}),
        ("tcb_info", {"tee": "sgx"}, {"fmspc": "0" * 12, "update": "early", "tcbEvaluationDataNumber": "17"}),
        ("qe_identity", {"tee": "sgx"}, {"tcbEvaluationDataNumber": "-1"}),
        ("amd_crl", {"signing_key": "vcek", "product": "Rome"}, {}),
        ("vcek", {"product": "Milan", "hwid": "x"}, {"blSPL": "1", "teeSPL": "1", "snpSPL": "1", "ucodeSPL": "1"}),
        ("vcek", {"product": "Milan", "hwid": "0" * 128}, {}),
        (
            "vcek",
            {"product": "Milan", "hwid": "0" * 128},
            {"blSPL": "1", "teeSPL": "1", "snpSPL": "1", "ucodeSPL": "256"},
        ),
    ],
)
def test_refuses_questions_that_no_vendor_answers(
    service: CollateralService, handler: str, path: dict[str, str], query: dict[str, str]
) -> None:
    with pytest.raises(FormatError):
        getattr(service, handler)(call(path, **query))


def test_what_it_does_not_have_is_not_found(service: CollateralService) -> None:
    for ask in (
        lambda: service.tcb_info(call({"tee": "sgx"}, fmspc="0" * 12)),
        lambda: service.tcb_info(call({"tee": "amd"}, fmspc=FMSPC)),
        lambda: service.amd_chain(call({"signing_key": "ark", "product": "Milan"})),
        lambda: service.amd_chain(call({"signing_key": "vlek", "product": "Milan"})),
    ):
        with pytest.raises(NotFoundError):
            ask()


def test_says_how_old_and_whether_stale(tmp_path: Path) -> None:
    clock = SettableClock(CLOCK.now())
    with serving(replace(VENDORS, clock=clock)) as vendors:
        settings = config(tmp_path, cached(tmp_path / "cache", vendors, vendors.authority_pem))
        service = collateral_service(CollateralServiceConfig.from_object(settings), clock=clock)
        assert service.root_ca_crl(call()).headers["Age"] == "0"
        clock.advance(hours=23)
        headers = service.root_ca_crl(call()).headers
        assert (headers["Age"], headers["Strongroom-Freshness"]) == (str(23 * 3600), "fresh")
        vendors.stop()
        clock.advance(hours=2)
        headers = service.root_ca_crl(call()).headers
        assert (headers["Age"], headers["Strongroom-Freshness"]) == (str(25 * 3600), "stale")
        clock.advance(days=7)
        with pytest.raises(UnavailableError):
            service.root_ca_crl(call())


def test_a_configuration_that_cannot_work_is_refused(tmp_path: Path) -> None:
    good = config(tmp_path, {"kind": "folder", "path": str(tmp_path)})
    CollateralServiceConfig.from_object(good)
    for change in (
        {"roots": []},
        {"endorsements": str(tmp_path)},
        {"endorsements": {"kind": "x"}},
        {"url": "http://a"},
    ):
        with pytest.raises(FormatError):
            CollateralServiceConfig.from_object({**good, **change})
    missing = {**good, "endorsements": {"kind": "bundle", "path": "/none", "signer": SIGNER.verifying_key.to_jwk()}}
    with pytest.raises(StrongroomError, match="cannot be used"):
        collateral_service(CollateralServiceConfig.from_object(missing), clock=CLOCK)
