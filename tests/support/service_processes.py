"""The attestation service and the key service as real processes on 127.0.0.1, over a simulated platform."""

import hashlib
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tests.support.platform import MRENCLAVE, MRTD, Bench

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.cli.installation import free_port
from strongroom.clients.attestation import AttestationClient, PolicyKind
from strongroom.clients.owner import OwnerClient, person_token
from strongroom.clients.pinned import PinnedHttp, Response
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem, to_x5c
from strongroom.services.issuers import AttestationServiceSettings, TrustedIssuers, configured_issuers
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import PARAVISOR
from strongroom.simulation.platform import PlatformCondition, SimulatedPlatform
from strongroom.wire.model import TEE_KINDS
from strongroom.wire.runtime_data import RuntimeData

CLOCK = SystemClock()
LAUNCH_DIGEST = hashlib.sha384(b"a guest").digest()
SNP_PARAVISOR = bytes(range(48))
POLICY = (
    "version= 1.0;\nauthorizationrules\n{\n"
    f'\t[type=="x-ms-sgx-mrenclave", value=="{MRENCLAVE.hex()}"] && [type=="x-ms-sgx-is-debuggable", value==false]'
    " => permit();\n"
    f'\t[type=="tdx_mrtd", value=="{MRTD.hex()}"] => permit();\n'
    f'\t[type=="x-ms-sevsnpvm-launchmeasurement", value=="{LAUNCH_DIGEST.hex()}"] => permit();\n'
    f'\t[type=="x-ms-isolation-tee.tdx_mrtd", value=="{PARAVISOR.hex()}"] => permit();\n'
    f'\t[type=="x-ms-isolation-tee.x-ms-sevsnpvm-launchmeasurement", value=="{SNP_PARAVISOR.hex()}"] => permit();\n'
    "};\nissuancerules\n{\n};\n"
)
"""One text for all kinds of evidence. It leaves to approvals what they demand whatever the policy says."""
POLICY_HASH = to_b64url(hashlib.sha256(to_b64url(POLICY.encode()).encode()).digest())


@dataclass(kw_only=True)
class RunningService:
    """One service's process and what it said when it was ready."""

    module: str
    config: Path
    process: subprocess.Popen[str]
    url: str
    identity: str
    certificate_pem: str
    ready: dict[str, Any]

    def http(self) -> PinnedHttp:
        return PinnedHttp(self.url, self.certificate_pem, self.identity, service=self.module)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        with self.process:
            return self.process.wait(timeout=30)


def start(module: str, config: Path, *, url: str, state: Path, program: str = "") -> RunningService:
    """Start a service and wait for its first line; `program`: what its operator made of it."""
    code = ["-c", program] if program else ["-m", f"strongroom.services.{module}"]
    command = [sys.executable, "-I", *code, "--config", str(config)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line, f"{module} ended with {process.wait()}"
    return RunningService(
        module=module,
        config=config,
        process=process,
        url=url,
        identity=json.loads(line)["identity"],
        ready=json.loads(line),
        certificate_pem=(state / "identity.pem").read_text(),
    )


class Installation:
    """Both services, an owner, and a platform whose enclaves the evidence policy permits."""

    def __init__(self, folder: Path, *, host: str = "127.0.0.1", **attestation: Any) -> None:
        now = datetime.now(tz=UTC)
        self.folder, self.host = folder, host
        self.owner, self.submitter = SigningKey.generate("ES256"), SigningKey.generate("ES256")
        platform = SimulatedPlatform.create(now=now, condition=PlatformCondition())
        self.platform = Bench.around(platform)
        self.amd = SimulatedAmd.create("Milan", now=now, rsa_bits=2048)
        endorsements = folder / "endorsements"
        endorsements.mkdir()
        family = platform.fmspc.hex()
        (endorsements / f"{family}.json").write_bytes(platform.endorsements(now=now).to_json())
        (endorsements / f"{family}-tdx.json").write_bytes(platform.endorsements(now=now, tee="TDX").to_json())
        crl = bytes.fromhex(self.amd.endorsements(now=now).crl)
        (endorsements / f"{spki_sha256(self.amd.root_der)}.crl").write_bytes(crl)
        self.attestation = self._start_attestation(endorsements, attestation)
        self.set_policy()
        self.keys = self.start_keys(self.write_key_config())

    @property
    def roots(self) -> tuple[bytes, bytes]:
        """The simulated vendors' roots: Intel's and AMD's."""
        return self.platform.platform.root_der, self.amd.root_der

    def _start_attestation(self, endorsements: Path, changed: Mapping[str, Any]) -> RunningService:
        port, state = free_port(), self.folder / "attestation"
        url = f"https://127.0.0.1:{port}"
        config = {
            "version": 1,
            "url": url,
            "host": "127.0.0.1",
            "port": port,
            "state": str(state),
            "mode": "owner-operated",
            "owners": [self.owner.verifying_key.to_jwk()],
            "roots": [{"certificate_pem": to_pem(root), "simulated": True} for root in self.roots],
            "endorsements": {"kind": "folder", "path": str(endorsements)},
            "platform": None,
            **changed,
        }
        path = self.folder / "attestation.json"
        path.write_text(json.dumps(config))
        return start("attestation_service", path, url=url, state=state)

    def restart_attestation(self) -> None:
        """Start the attestation service again with its configuration, whether or not it still runs."""
        self.attestation.stop()
        state = self.folder / "attestation"
        self.attestation = start("attestation_service", self.attestation.config, url=self.attestation.url, state=state)

    def set_policy(self, text: str = POLICY, *, kinds: Iterable[PolicyKind] = TEE_KINDS) -> None:
        client = AttestationClient(self.attestation.http())
        for kind in kinds:
            client.set_policy(self.policy_token(text), token=self.attestation_token(), tee=kind)

    def attestation_token(self) -> str:
        """The owner's bearer token for the attestation service."""
        return person_token(self.owner, audience=self.attestation.identity, clock=CLOCK)

    def ask_attestation(self, method: str, target: str, body: bytes = b"") -> Response:
        """Send one request to the attestation service, as the owner."""
        headers = {"Authorization": f"Bearer {self.attestation_token()}"}
        return self.attestation.http().request(method, target, body=body, headers=headers)

    def rotate_signing_key(self) -> str:
        """Have the attestation service make a new signing key; return its kid."""
        answer = self.ask_attestation("POST", "/strongroom/v1/signing-keys:rotate")
        return str(json.loads(answer.require_success())["kid"])

    def issuers(self) -> TrustedIssuers:
        """What a key service makes of its configuration: it believes this attestation service."""
        service = self.attestation
        settings = AttestationServiceSettings(
            url=service.url, identity=service.identity, certificate_pem=service.certificate_pem
        )
        return configured_issuers([settings], clock=CLOCK)

    def owner_certificate(self) -> bytes:
        """A certificate of the owner's key, as policy tokens carry one."""
        now = CLOCK.now()
        return new_identity(
            common_name="signer", key=self.owner, not_before=now - timedelta(1), not_after=now + timedelta(1)
        )

    def policy_token(self, text: str) -> str:
        """A policy, signed by the owner."""
        body = canonical_json({"AttestationPolicy": to_b64url(text.encode())})
        return sign_jws(body, key=self.owner, header={"x5c": to_x5c([self.owner_certificate()])})

    def write_key_config(self, **changed: Any) -> Path:
        port = free_port()
        config = {
            "version": 1,
            "url": f"https://{self.host}:{port}",
            "host": "127.0.0.1",
            "port": port,
            "names": ["127.0.0.1"],
            "state": str(self.folder / "keys"),
            "master_key": f"file://{self.folder}/mek",
            "owners": [self.owner.verifying_key.to_jwk()],
            "attestation_services": [
                {
                    "url": self.attestation.url,
                    "identity": self.attestation.identity,
                    "certificate_pem": self.attestation.certificate_pem,
                }
            ],
            "mode": "owner-operated",
            "hardware": "simulated",
            "platform": None,
            **changed,
        }
        path = self.folder / "keys.json"
        path.write_text(json.dumps(config))
        return path

    def start_keys(self, config: Path) -> RunningService:
        settings = json.loads(config.read_text())
        return start("key_service", config, url=settings["url"], state=Path(settings["state"]))

    def person_token(self) -> str:
        return person_token(self.owner, audience=self.keys.identity, clock=CLOCK)

    def owner_client(self) -> OwnerClient:
        return OwnerClient(self.keys.http(), identity=self.keys.identity, key=self.owner, clock=CLOCK)

    def evidence(self, runtime: RuntimeData | bytes, *, application: bytes = bytes(32)) -> UnverifiedEvidence:
        data = runtime if isinstance(runtime, bytes) else runtime.to_json()
        report = self.platform.report(
            config_id=application.ljust(64, b"\0"), report_data=hashlib.sha256(data).digest().ljust(64, b"\0")
        )
        quote = self.platform.platform.quote(replace(report, mrenclave=MRENCLAVE))
        return UnverifiedEvidence(kind="sgx", quote=quote, runtime_data=data)

    def attest(self, evidence: UnverifiedEvidence) -> str:
        return AttestationClient(self.attestation.http()).attest(evidence)

    def stop(self) -> None:
        self.keys.stop()
        self.attestation.stop()


@contextmanager
def installation(folder: Path, *, host: str = "127.0.0.1", **attestation: Any) -> Iterator[Installation]:
    """Both services; further arguments are members of the attestation service's configuration."""
    made = Installation(folder, host=host, **attestation)
    try:
        yield made
    finally:
        made.stop()
