"""Guests of Azure confidential VMs with software TPMs, their metadata service, and an attestation service's process."""

import base64
import http.server
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.service_processes import CLOCK, RunningService, start
from tests.support.swtpm import Paravisor, azure_vm, swtpm

from strongroom.attestation.attester.azure_vtpm import AzureVtpm
from strongroom.attestation.attester.tpm import Tpm
from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_vtpm import HclKind
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.cli.installation import free_port
from strongroom.clients.azure_guest import AzureMetadata
from strongroom.clients.owner import person_token
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import PARAVISOR
from strongroom.simulation.platform import PlatformCondition, SimulatedPlatform

KINDS: tuple[HclKind, ...] = ("snp", "tdx")
TEE = "x-ms-isolation-tee"
POLICY = (
    "version= 1.0;\nauthorizationrules\n{\n"
    f'\t[type=="{TEE}.x-ms-sevsnpvm-launchmeasurement", value=="{bytes(range(48)).hex()}"]'
    f' && [type=="{TEE}.x-ms-sevsnpvm-is-debuggable", value==false]'
    f' && [type=="{TEE}.x-ms-runtime.vm-configuration.secure-boot", value==true] => permit();\n'
    f'\t[type=="{TEE}.tdx_mrtd", value=="{PARAVISOR.hex()}"]'
    f' && [type=="{TEE}.x-ms-runtime.vm-configuration.secure-boot", value==true] => permit();\n'
    "};\nissuancerules\n{\n"
    f'\tc:[type=="{TEE}.x-ms-runtime.vm-configuration.secure-boot"] => issue(type="secureboot", value=c.value);\n'
    "};\n"
)


class Metadata:
    """A VM's metadata service on loopback."""

    def __init__(self, certificates: str, paravisor: Paravisor) -> None:
        leaf, rest = certificates.split("-----END CERTIFICATE-----\n", 1)
        thim = {"vcekCert": leaf + "-----END CERTIFICATE-----\n", "tcbm": "0", "certificateChain": rest}

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                return

            def _answer(self, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(200 if self.headers["Metadata"] == "true" else 400)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def do_GET(self) -> None:
                self._answer(thim if self.path == "/metadata/THIM/amd/certification" else {"error": "not found"})

            def do_POST(self) -> None:
                sent = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/acc/tdquote"
                assert len(base64.urlsafe_b64decode(sent["report"] + "==")) == 1024
                assert paravisor.td_quote is not None
                self._answer({"quote": to_b64url(paravisor.td_quote)})

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """The hardware's vendors, and what a verifier knows of them, now."""

    now: datetime
    amd: SimulatedAmd
    intel: SimulatedPlatform

    @classmethod
    def new(cls) -> "Cloud":
        now = datetime.now(tz=UTC)
        return cls(
            now=now,
            amd=SimulatedAmd.create("Milan", now=now, rsa_bits=2048),
            intel=SimulatedPlatform.create(now=now, condition=PlatformCondition()),
        )

    @property
    def trusted_roots(self) -> TrustedRoots:
        return TrustedRoots(
            roots=tuple(
                TrustedRoot(certificate_der=root, simulated=True) for root in (self.amd.root_der, self.intel.root_der)
            )
        )

    def endorsements(self, kind: HclKind) -> SnpEndorsements | DcapEndorsements:
        return self.snp_endorsements() if kind == "snp" else self.intel.endorsements(now=self.now, tee="TDX")

    def snp_endorsements(self) -> SnpEndorsements:
        return self.amd.endorsements("VCEK", now=self.now)

    def write_endorsements(self, folder: Path) -> None:
        folder.mkdir()
        document = self.intel.endorsements(now=self.now, tee="TDX").to_json()
        (folder / f"{self.intel.fmspc.hex()}-tdx.json").write_bytes(document)
        (folder / f"{spki_sha256(self.amd.root_der)}.crl").write_bytes(bytes.fromhex(self.snp_endorsements().crl))


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A guest's view of its VM."""

    tpm: Tpm
    vtpm: AzureVtpm
    event_log: bytes


@contextmanager
def guest(cloud: Cloud, kind: HclKind = "snp", **configuration: Any) -> Iterator[Guest]:
    """A running VM with a new TPM."""
    with ExitStack() as stack:
        channel = stack.enter_context(swtpm())
        paravisor, log = azure_vm(channel, cloud.amd if kind == "snp" else cloud.intel, **configuration)
        metadata = Metadata(cloud.snp_endorsements().certificate_chain, paravisor)
        stack.callback(metadata.close)
        tpm = Tpm(paravisor)
        yield Guest(tpm=tpm, vtpm=AzureVtpm(tpm, AzureMetadata(metadata.url)), event_log=log)


@contextmanager
def attestation_service(folder: Path, cloud: Cloud) -> Iterator[RunningService]:
    """The service's process, with `POLICY` for guests."""
    owner, endorsements = SigningKey.generate("ES256"), folder / "endorsements"
    cloud.write_endorsements(endorsements)
    port, state = free_port(), folder / "state"
    url = f"https://127.0.0.1:{port}"
    roots = [{"certificate_pem": to_pem(root.certificate_der), "simulated": True} for root in cloud.trusted_roots.roots]
    config = {
        "version": 1,
        "url": url,
        "host": "127.0.0.1",
        "port": port,
        "state": str(state),
        "mode": "owner-operated",
        "owners": [owner.verifying_key.to_jwk()],
        "roots": roots,
        "endorsements": {"kind": "folder", "path": str(endorsements)},
        "platform": None,
    }
    path = folder / "attestation.json"
    path.write_text(json.dumps(config))
    service = start("attestation_service", path, url=url, state=state)
    try:
        set_policy(service, owner, POLICY)
        yield service
    finally:
        service.stop()


def set_policy(service: RunningService, owner: SigningKey, policy: str) -> None:
    now = datetime.now(tz=UTC)
    certificate = new_identity(
        common_name="signer", key=owner, not_before=now - timedelta(1), not_after=now + timedelta(1)
    )
    body = canonical_json({"AttestationPolicy": to_b64url(policy.encode())})
    token = sign_jws(body, key=owner, header={"x5c": [base64.b64encode(certificate).decode()]})
    bearer = person_token(owner, audience=service.identity, clock=CLOCK)
    service.http().request(
        "PUT",
        "/policies/AzureGuest?api-version=2025-06-01",
        body=token.encode(),
        content_type="text/plain",
        headers={"Authorization": f"Bearer {bearer}"},
    ).require_success()
