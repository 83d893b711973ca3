"""The collateral service: hands out the vendors' endorsements where the vendors cannot be reached.

It speaks as Intel's PCCS and AMD's KDS do, so their clients work against it unchanged. What it hands out is signed by
the vendors and public: it needs no trust, and asks nobody who they are.

Source: Intel SGX PCS API, version 4; Intel SGX PCCS design guide; AMD document 57230 (KDS), chapter 4.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal
from urllib.parse import quote

from pydantic import Field
from starlette.applications import Starlette

from strongroom.attestation.endorsements.bundle import BundleEndorsements
from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    DocumentName,
    DocumentSource,
    Found,
    PckCrlName,
    PlatformFamily,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
    names_for,
)
from strongroom.attestation.evidence.snp_report import Product
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.clock import Clock, SystemClock, to_rfc3339
from strongroom.base.encoding import Json, canonical_json, from_hex
from strongroom.base.errors import FormatError, NotFoundError, StrongroomError
from strongroom.crypto import x509
from strongroom.services.endorsement_sources import EndorsementSettings, open_endorsements
from strongroom.services.errors import Reply, strongroom_error
from strongroom.services.http import Call, application, endpoint, json_reply, serve
from strongroom.services.identity import open_identity, tls_names
from strongroom.services.process import run_configured
from strongroom.wire.model import Message, Url
from strongroom.wire.trust import TrustedRootEntry

COMMON_NAME: Final = "Strongroom collateral service"
_CRL_TYPE: Final = "application/pkix-crl"
_CERTIFICATE_TYPE: Final = "application/pkix-cert"
_PEM_TYPE: Final = "application/x-pem-file"
_TEXT_TYPE: Final = "text/plain"
_NOT_READY: Final = 503


class CollateralServiceConfig(Message):
    """The configuration file.

    Attributes:
        url: Where clients reach it; its host stands in the TLS certificate.
        host: Address to listen on.
        port: Port to listen on.
        names: Further host names and addresses for the TLS certificate.
        state: Folder for its identity, the owner's alone.
        roots: Hardware roots; documents are verified against them before a cache keeps them.
        endorsements: Where documents come from.
        families: SGX and TDX platforms whose documents are kept ready.
        products: SEV-SNP product lines whose documents are kept ready.
    """

    version: Literal[1] = 1
    url: Url
    host: str
    port: int = Field(ge=1, le=65535)
    names: tuple[str, ...] = ()
    state: str
    roots: tuple[TrustedRootEntry, ...] = Field(min_length=1)
    endorsements: EndorsementSettings
    families: tuple[PlatformFamily, ...] = ()
    products: tuple[Product, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CollateralService:
    """The service without HTTP.

    Attributes:
        documents: Where documents come from.
        kept_ready: Which of them must be there for the service to be ready.
        clock: The time.
    """

    documents: DocumentSource
    kept_ready: Sequence[DocumentName]
    clock: Clock

    def pck_crl(self, call: Call) -> Reply:
        """`GET /sgx/certification/v4/pckcrl?ca=&encoding=`."""
        found = self.documents.find(PckCrlName.from_object({"ca": call.required("ca").lower()}))
        crl = from_hex(found.document.content)
        headers = {"SGX-PCK-CRL-Issuer-Chain": quote(found.document.issuer_chain)}
        match call.query.get("encoding", "pem").lower():
            case "der":
                return self._reply(found, crl, _CRL_TYPE, **headers)
            case "pem":
                return self._reply(found, x509.crl_pem(crl), _PEM_TYPE, **headers)
            case _:
                raise FormatError("encoding is der or pem")

    def root_ca_crl(self, call: Call) -> Reply:
        """`GET /sgx/certification/v4/rootcacrl`: in hexadecimal, as a PCCS has it."""
        del call
        found = self.documents.find(RootCaCrlName())
        return self._reply(found, found.document.content.encode("ascii"), _TEXT_TYPE)

    def tcb_info(self, call: Call) -> Reply:
        """`GET /{sgx|tdx}/certification/v4/tcb?fmspc=&update=&tcbEvaluationDataNumber=`."""
        name = {"tee": _tee(call), "fmspc": call.required("fmspc").lower(), "edition": _edition(call)}
        found = self.documents.find(TcbInfoName.from_object(name))
        headers = {"TCB-Info-Issuer-Chain": quote(found.document.issuer_chain)}
        return self._reply(found, _signed(found, member="tcbInfo"), **headers)

    def qe_identity(self, call: Call) -> Reply:
        """`GET /{sgx|tdx}/certification/v4/qe/identity?update=&tcbEvaluationDataNumber=`."""
        found = self.documents.find(QeIdentityName.from_object({"tee": _tee(call), "edition": _edition(call)}))
        headers = {"SGX-Enclave-Identity-Issuer-Chain": quote(found.document.issuer_chain)}
        return self._reply(found, _signed(found, member="enclaveIdentity"), **headers)

    def amd_chain(self, call: Call) -> Reply:
        """`GET /{vcek|vlek}/v1/{product}/cert_chain`: PEM."""
        found = self.documents.find(AmdChainName.from_object(_amds(call)))
        return self._reply(found, found.document.content.encode("ascii"), _PEM_TYPE)

    def amd_crl(self, call: Call) -> Reply:
        """`GET /{vcek|vlek}/v1/{product}/crl`: DER."""
        found = self.documents.find(AmdCrlName.from_object(_amds(call)))
        return self._reply(found, from_hex(found.document.content), _CRL_TYPE)

    def vcek(self, call: Call) -> Reply:
        """`GET /vcek/v1/{product}/{hwid}?[fmcSPL=]&blSPL=&teeSPL=&snpSPL=&ucodeSPL=`: DER."""
        name: dict[str, Json] = {
            "product": call.path["product"],
            "hwid": call.path["hwid"].lower(),
            "boot_loader": call.number("blSPL"),
            "tee": call.number("teeSPL"),
            "snp": call.number("snpSPL"),
            "microcode": call.number("ucodeSPL"),
        }
        if "fmcSPL" in call.query:
            name["fmc"] = call.number("fmcSPL")
        found = self.documents.find(VcekName.from_object(name))
        return self._reply(found, x509.parse_pem_chain(found.document.content.encode())[0], _CERTIFICATE_TYPE)

    def health(self, call: Call) -> Reply:
        """`GET /healthz`: the process answers."""
        del call
        return json_reply({"status": "ok"})

    def readiness(self, call: Call) -> Reply:
        """`GET /readyz`: whether everything that is kept ready is there; renews what should be renewed."""
        del call
        documents: dict[str, Json] = {}
        missing = False
        for name in self.kept_ready:
            try:
                found = self.documents.find(name)
                documents[name.key] = {"fetched_at": to_rfc3339(found.fetched_at), "stale": found.stale}
            except StrongroomError as error:
                missing = True
                documents[name.key] = {"missing": error.message}
        status = "not ready" if missing else "ready"
        return json_reply({"status": status, "documents": documents}, status=_NOT_READY if missing else 200)

    def _reply(self, found: Found, body: bytes, content_type: str = "application/json", **headers: str) -> Reply:
        """Answer with a document; a cache behind this one goes on counting its age."""
        age_s = max(0, int((self.clock.now() - found.fetched_at).total_seconds()))
        freshness = "fresh" if found.stale is None else "stale"
        return Reply(
            body=body,
            content_type=content_type,
            headers={**headers, "Age": str(age_s), "Strongroom-Freshness": freshness},
        )


def collateral_application(service: CollateralService) -> Starlette:
    """Return the ASGI application."""
    v4 = "certification/v4"
    handlers = {
        f"/sgx/{v4}/pckcrl": service.pck_crl,
        f"/sgx/{v4}/rootcacrl": service.root_ca_crl,
        f"/{{tee}}/{v4}/tcb": service.tcb_info,
        f"/{{tee}}/{v4}/qe/identity": service.qe_identity,
        "/{signing_key}/v1/{product}/cert_chain": service.amd_chain,
        "/{signing_key}/v1/{product}/crl": service.amd_crl,
        "/vcek/v1/{product}/{hwid}": service.vcek,
        "/healthz": service.health,
        "/readyz": service.readiness,
    }
    routes = [endpoint(path, handler, errors=strongroom_error) for path, handler in handlers.items()]
    return application(routes, shape_for=lambda _path: strongroom_error)


def collateral_service(config: CollateralServiceConfig, *, clock: Clock) -> CollateralService:
    """Return the service that a configuration describes.

    Raises:
        ConfigurationError: A root, a folder, a file or an address cannot be used.
        FormatError: A root or the bundle's signer is malformed.
    """
    roots = TrustedRoots(
        roots=tuple(
            TrustedRoot(
                certificate_der=x509.parse_pem_chain(root.certificate_pem.encode())[0], simulated=root.simulated
            )
            for root in config.roots
        )
    )
    documents = open_endorsements(config.endorsements, trusted_roots=roots, clock=clock).documents
    kept_ready = names_for(config.families, config.products, edition=documents.edition)
    if not kept_ready and isinstance(documents, BundleEndorsements):
        kept_ready = documents.names()
    return CollateralService(documents=documents, kept_ready=kept_ready, clock=clock)


def run(config: CollateralServiceConfig, *, clock: Clock) -> None:
    """Serve until SIGTERM. Prints one JSON line when the port is open."""
    identity = open_identity(
        Path(config.state), common_name=COMMON_NAME, sans=tls_names(config.url, config.names), now=clock.now()
    )
    service = collateral_service(config, clock=clock)

    def ready() -> None:
        line = {"ready": "collateral-service", "url": config.url, "identity": identity.identity}
        sys.stdout.write(canonical_json(line).decode() + "\n")
        sys.stdout.flush()

    serve(
        collateral_application(service),
        host=config.host,
        port=config.port,
        certificate_chain_pem=identity.tls_chain_pem,
        key_pem=identity.tls.key.to_pem(),
        ready=ready,
    )


def main(argv: Sequence[str] | None = None) -> None:
    """`python -m strongroom.services.collateral_service --config FILE`."""
    run_configured(
        "collateral-service",
        argv,
        lambda content: run(CollateralServiceConfig.from_json(content), clock=SystemClock()),
    )


def _tee(call: Call) -> str:
    tee = call.path["tee"]
    if tee not in {"sgx", "tdx"}:
        raise NotFoundError("there is nothing at this address")
    return tee.upper()


def _amds(call: Call) -> dict[str, Any]:
    signing_key = call.path["signing_key"]
    if signing_key not in {"vcek", "vlek"}:
        raise NotFoundError("there is nothing at this address")
    return {"signing_key": signing_key.upper(), "product": call.path["product"]}


def _edition(call: Call) -> str | int:
    if "tcbEvaluationDataNumber" not in call.query:
        return call.query.get("update", "standard").lower()
    if "update" in call.query:
        raise FormatError("update and tcbEvaluationDataNumber exclude each other")
    return call.number("tcbEvaluationDataNumber")


def _signed(found: Found, *, member: str) -> bytes:
    """Put a signed document back between its name and its signature, byte for byte."""
    return f'{{"{member}":{found.document.content},"signature":"{found.document.signature}"}}'.encode()


if __name__ == "__main__":
    main()
