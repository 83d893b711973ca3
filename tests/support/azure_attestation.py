"""A stand-in for a provider of Azure Attestation: our own service verifies, what it says is signed as Azure does it.

Keys are published as self-signed certificates, tokens carry none, claims that Azure does not have are left out, and
nothing of ours is answered. Where hardware is simulated one claim of ours stays, because nobody may take it for real:
that it is simulated. Under a name of Azure's it goes as well.
"""

import base64
import hashlib
import json
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.support.service_processes import CLOCK, RunningService, start
from tests.support.vault_releases import Said, TlsServer, VaultInstallation, VaultRunner
from tests.support.vendor_server import Vendors, VendorServer

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.clients.azure_attestation import AzureAttestation
from strongroom.clients.pinned import ServiceHttp
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_x5c
from strongroom.policy.approval import Approval, PlatformDemand
from strongroom.wire.azure_attestation import AzureAttestationAddress, EndorsementServers, TrustedAzureAttestation
from strongroom.wire.descriptor import Descriptor
from strongroom.wire.trust import Trust
from strongroom.wire.vault_key import VaultKey

AZURE_HOST = "strongroom.weu.attest.azure.net"
API_VERSION = "2025-06-01"
_OURS, _HARDWARE = "x-ms-strongroom-", "x-ms-strongroom-hardware"


@dataclass(frozen=True, kw_only=True)
class ProviderKey:
    """A key that a provider signs with: its certificate is its own, and its id says nothing to anybody."""

    key: SigningKey
    certificate: bytes

    @property
    def kid(self) -> str:
        return base64.b64encode(hashlib.sha256(self.certificate).digest()).decode()

    @property
    def digest(self) -> str:
        return sha256_hex(self.certificate)

    @classmethod
    def new(cls, name: str, *, days: int = 365) -> "ProviderKey":
        key, now = SigningKey.generate("RS256"), datetime.now(tz=UTC)
        span = {"not_before": now - timedelta(days=400), "not_after": now + timedelta(days=days)}
        return cls(key=key, certificate=new_identity(common_name=name, key=key, **span))


class AzureProvider:
    """The provider. Every attribute is one edit away from an attack.

    Attributes:
        signing: The key that signs now.
        published: What `/certs` lists.
        claims: Changes a result's claims before they are signed.
        header: Further members of a result's header.
        answer: Changes an answer on its way.
        bodies: What was asked to be attested.
    """

    def __init__(self, upstream: ServiceHttp, *, host: str = "127.0.0.1") -> None:
        self._upstream, self._host = upstream, host
        self.bodies: list[dict[str, Any]] = []
        self.server = TlsServer(self._respond, names=(host,))
        self.url = f"https://{host}:{urlsplit(self.server.url).port}"
        self.signing = ProviderKey.new(self.url)
        self.published = [ProviderKey.new(self.url, days=-30), self.signing]
        self.honest()

    def honest(self) -> None:
        """Take back every edit."""
        self.claims: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims
        self.header: dict[str, Any] = {}
        self.answer: Callable[[Said], Said] = lambda said: said

    @property
    def authority_pem(self) -> str:
        return self.server.authority_pem

    def address(self, vendors: VendorServer, **changed: Any) -> AzureAttestationAddress:
        fields: dict[str, Any] = {
            "kind": "azure-attestation",
            "url": self.url,
            "authorities_pem": self.authority_pem,
            "endorsements": EndorsementServers(pcs=vendors.url, kds=vendors.url, authorities_pem=vendors.authority_pem),
            **changed,
        }
        return AzureAttestationAddress(**fields)

    def rotate(self) -> ProviderKey:
        """Sign with a new key from now on."""
        self.signing = ProviderKey.new(self.url)
        self.published = [*self.published, self.signing]
        return self.signing

    def sign(self, claims: Mapping[str, Any], *, key: ProviderKey | None = None, **header: Any) -> str:
        """Return a token with these claims as this provider would."""
        signer = key or self.signing
        named = {"jku": f"{self.url}/certs", "kid": signer.kid, "typ": "JWT", **header}
        return sign_jws(canonical_json(dict(claims)), key=signer.key, header=named)

    def _respond(self, method: str, path: str, _headers: Mapping[str, str], body: bytes) -> Said:
        parts = urlsplit(path)
        version = parse_qs(parts.query).get("api-version")
        if (method, parts.path) == ("GET", "/certs"):
            said = Said(200, {}, canonical_json({"keys": [_jwk(each) for each in self.published]}))
        elif method == "POST" and parts.path.startswith("/attest/") and version == [API_VERSION]:
            said = self._attest(path, body)
        else:
            said = _fault(404, "NotFound", "Azure Attestation has no such thing")
        return self.answer(said)

    def _attest(self, path: str, body: bytes) -> Said:
        self.bodies.append(parse_json_object(body))
        reply = self._upstream.request("POST", path, body=body, content_type="application/json")
        if reply.status != 200:
            error = parse_json_object(reply.body)["error"]
            return _fault(reply.status, error["code"], error["message"])
        claims = parse_json_object(unverified_payload(parse_json_object(reply.body)["token"]))
        kept = () if self._host == AZURE_HOST else (_HARDWARE,)
        azures = {name: value for name, value in claims.items() if name in kept or not name.startswith(_OURS)}
        token = self.sign(self.claims({**azures, "iss": self.url}), **self.header)
        return Said(200, {"content-type": "application/json"}, canonical_json({"token": token}))

    def stop(self) -> None:
        self.server.stop()


def _jwk(key: ProviderKey) -> dict[str, Any]:
    return {"alg": "RS256", "kid": key.kid, "kty": "RSA", "use": "sig", "x5c": to_x5c([key.certificate])}


def _fault(status: int, code: str, message: str) -> Said:
    body = {"error": {"code": code, "message": message}}
    return Said(status, {"content-type": "application/json", "x-ms-error-code": code}, json.dumps(body).encode())


class AzureInstallation(VaultInstallation):
    """A vault that believes Azure Attestation, a provider of it, and the hardware's vendors.

    Args:
        host: The provider's name: one of Azure's makes the vault a Key Vault, which knows real hardware only.
    """

    def __init__(self, folder: Path, *, host: str = "127.0.0.1") -> None:
        self.called = host
        super().__init__(folder)
        self.vendors = VendorServer(Vendors(platform=self.platform.platform, amd=self.amd, clock=CLOCK))

    @property
    def is_named_azure(self) -> bool:
        return self.called == AZURE_HOST

    def _start_attestation(self, endorsements: Path, changed: Mapping[str, Any]) -> RunningService:
        service = super()._start_attestation(endorsements, changed)
        self.provider = AzureProvider(service.http(), host=self.called)
        return service

    def write_key_config(self, **changed: Any) -> Path:
        issuer = {
            "kind": "azure-attestation",
            "url": self.provider.url,
            "authorities_pem": self.provider.authority_pem,
        }
        hardware = "real" if self.is_named_azure else "simulated"
        return super().write_key_config(**{"attestation_services": [issuer], "hardware": hardware, **changed})

    def start_keys(self, config: Path) -> RunningService:
        if not self.is_named_azure:
            return super().start_keys(config)
        settings = json.loads(config.read_text())
        self.direct = f"https://127.0.0.1:{settings['port']}"
        program = (
            "import socket\nknown = socket.getaddrinfo\n"
            "def found(host, *rest, **more):\n"
            f"    return known('127.0.0.1' if host == {AZURE_HOST!r} else host, *rest, **more)\n"
            "socket.getaddrinfo = found\n"
            "from strongroom.services.key_service import main\nmain()\n"
        )
        return start("key_service", config, url=self.direct, state=Path(settings["state"]), program=program)

    def create_key(self, name: str, kty: str, **changed: Any) -> VaultKey:
        kind = "azure-key-vault" if self.is_named_azure else "azure-managed-hsm"
        return super().create_key(name, kty, **{"kind": kind, **changed})

    def attest(self, evidence: UnverifiedEvidence) -> str:
        return AzureAttestation(self.address(), clock=CLOCK).attest(evidence)

    def address(self, **changed: Any) -> AzureAttestationAddress:
        """How an agent reaches the provider."""
        return self.provider.address(self.vendors, **changed)

    def pinned(self) -> TrustedAzureAttestation:
        """The provider as a trust file names it now."""
        certificates = tuple(each.digest for each in self.provider.published)
        return TrustedAzureAttestation(address=self.address(), certificates=certificates)

    def stop(self) -> None:
        super().stop()
        self.provider.stop()
        self.vendors.stop()


@contextmanager
def azure_attested(folder: Path, *, host: str = "127.0.0.1") -> Iterator[AzureInstallation]:
    """An installation whose provider answers under a name in this process and in the vault's."""
    known = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            socket,
            "getaddrinfo",
            lambda name, *rest, **more: known("127.0.0.1" if name == AZURE_HOST else name, *rest, **more),
        )
        made = AzureInstallation(folder, host=host)
        try:
            yield made
        finally:
            made.stop()


class AzureRunner(VaultRunner):
    """Runs over a vault's key whose TEEs Azure Attestation appraises; no service of Strongroom's takes part."""

    services: AzureInstallation

    def approval(self, name: str, access: Any, **changed: Any) -> Approval:
        any_machine = PlatformDemand(machines="any", min_tcb_evaluation_data_number=None, min_crl_number=None)
        real = {"hardware": "real", "platform": any_machine} if self.services.is_named_azure else {}
        issuer = {"attestation_issuer": self.services.provider.url}
        return super().approval(name, access, **{**issuer, **real, **changed})

    def descriptor(self, ticket: str, *, driver: Any = None, **changed: Any) -> Descriptor:
        return super().descriptor(ticket, driver=driver, **{"attestation_service": self.services.address(), **changed})

    def trust(self, **changed: Any) -> Trust:
        """The trust file: a provider of Azure Attestation, and no service of Strongroom's."""
        return super().trust(**{"services": (), "azure_attestation": (self.services.pinned(),), **changed})
