"""A master key in custody: locked key services in this process, and a whole attested installation of real processes."""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.asgi import send
from tests.support.key_service import MovableClock
from tests.support.platform import MRENCLAVE, Bench
from tests.support.service_processes import CLOCK, Installation, RunningService

from strongroom.attestation.attester import Quote
from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.simulated import entry_command
from strongroom.base.encoding import canonical_json
from strongroom.cli.custody import custody_client, expected_service, open_share, split_for
from strongroom.clients.custody import CustodyClient, UnsafeHttp
from strongroom.clients.pinned import Response
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.x509 import parse_pem_chain, to_pem
from strongroom.keys.custody import NewCustody, make_custody
from strongroom.services.attestation_service import AttestationServiceConfig
from strongroom.services.custody import LockedService
from strongroom.services.evidence import Platform
from strongroom.simulation.server import endorsements_of, expected_measurement, socket_of
from strongroom.submit.custody import ExpectedService, give_share, pin_service
from strongroom.wire.custody import CustodyProgress
from strongroom.wire.trust import Trust, TrustedRootEntry, TrustedService

NAMES = ("ann", "bob", "eve")
THRESHOLD = 2
CONFIGURATION = sha256_hex(b"a configuration")
KEY_SERVICE = "strongroom.services.key_service"


def trust_in(roots: Sequence[bytes], *, services: tuple[TrustedService, ...] = (), **changed: Any) -> Trust:
    """A trust file with these simulated roots."""
    fields: dict[str, Any] = {
        "hardware": "simulated",
        "roots": tuple(TrustedRootEntry(certificate_pem=to_pem(root), simulated=True) for root in roots),
        "services": services,
        "owners": (),
        "agent_measurements": (),
        **changed,
    }
    return Trust(**fields)


# --- in this process ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class BenchPlatform:
    """A platform as a service sees it; `changed` are fields of its reports that differ from a good one's."""

    bench: Bench
    changed: Mapping[str, Any]

    def launch(self, config_id: bytes) -> None:
        """Nothing is checked here: the real platform is another test's."""

    def quote(self, report_data: bytes) -> Quote:
        return Quote(kind="sgx", data=self.bench.quote(**{"report_data": report_data, **self.changed}))

    def get(self, **_family: Any) -> DcapEndorsements:
        return self.bench.endorsements


class AsgiHttp(UnsafeHttp):
    """The way to a service in this process; `sent` remembers what was asked."""

    def __init__(self, service: LockedService) -> None:
        super().__init__("https://locked.test")
        self._app = service.app()
        self.sent: list[tuple[str, str]] = []

    def request(self, method: str, target: str, **options: Any) -> Response:
        self.sent.append((method, target))
        answer = send(self._app, method, target, options.get("body") or b"")
        return Response(status=answer.status, body=answer.body)


class Custodians:
    """A split master key, and locked services that wait for it."""

    def __init__(self, **condition: Any) -> None:
        self.bench = Bench.new(**condition)
        self.clock = MovableClock()
        self.made: NewCustody = make_custody(NAMES, threshold=THRESHOLD)
        self.roster = self.made.roster

    def start(self, *, configuration: str = CONFIGURATION, roster: Any = None, **changed: Any) -> LockedService:
        """Start a service; `changed` are fields of its platform's reports."""
        platform = BenchPlatform(bench=self.bench, changed=changed)
        return LockedService(
            roster=roster or self.roster,
            configuration=configuration,
            platform=Platform(device=platform, endorsements=platform),
        )

    def expected(self, **changed: Any) -> ExpectedService:
        """What the custodians know of the service."""
        fields: dict[str, Any] = {
            "trust": trust_in([self.bench.platform.root_der]),
            "url": "https://locked.test",
            "measurement": MRENCLAVE.hex(),
            "configuration": CONFIGURATION,
            "roster": self.roster,
            "master_key": "custody",
            **changed,
        }
        return ExpectedService(**fields)

    def give(self, http: UnsafeHttp, number: int, *, expected: ExpectedService | None = None) -> CustodyProgress:
        """What a custodian's command does."""
        share = self.made.shares[number - 1]
        return give_share(CustodyClient(http), share, expected=expected or self.expected(), clock=self.clock)


# --- real processes -------------------------------------------------------------------------------------------------


class AttestedInstallation(Installation):
    """Both services as processes; the key service is attested by a simulated platform, and custodians hold its key.

    Attributes:
        key_config: The key service's configuration.
        custody: The folder with the roster and the sealed shares.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.keys.stop()
        self._started: list[subprocess.Popen[str]] = []
        self.machine = folder / "machine"
        self._machine = self._start_machine()
        self.custody = folder / "custody"
        split_for([f"{name}={self.custodian(name)}" for name in NAMES], threshold=THRESHOLD, out=self.custody)
        self.key_config = self.attested_config()
        self.trust_file = folder / "trust.json"
        self.write_trust()

    def _start_machine(self) -> "subprocess.Popen[str]":
        command = [sys.executable, "-I", "-m", "strongroom.cli.main", "simulated-platform", "--folder"]
        process = subprocess.Popen([*command, str(self.machine)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline()
        return process

    def custodian(self, name: str) -> Path:
        """Make a custodian's keys; return the public one's file."""
        key, private, public = ReceivingKey.generate_p256(), self.folder / f"{name}.key", self.folder / f"{name}.jwk"
        private.write_bytes(key.to_pem().reveal())
        private.chmod(0o600)
        jwk = {name: key.public_jwk[name] for name in ("kty", "crv", "x", "y")}
        public.write_bytes(canonical_json(jwk))  # type: ignore[arg-type]
        return public

    def attested_config(self, **changed: Any) -> Path:
        """Write an attested key service's configuration."""
        platform = {"socket": str(socket_of(self.machine)), "endorsements": str(endorsements_of(self.machine))}
        fields = {
            "mode": "attested",
            "state": str(self.folder / "attested"),
            "master_key": f"custody://{self.custody}/roster.json",
            "platform": platform,
        }
        return self.write_key_config(**(fields | changed))

    @property
    def measurement(self) -> str:
        return expected_measurement(socket_of(self.machine), entry=KEY_SERVICE)

    @property
    def roots(self) -> tuple[bytes, ...]:  # type: ignore[override]
        """The vendors' roots, those of the platform's process too once it runs."""
        pem = endorsements_of(self.folder / "machine") / "roots.pem"
        return (*super().roots, *(parse_pem_chain(pem.read_bytes()) if pem.exists() else ()))

    def write_trust(self) -> Trust:
        """Write the trust file as an owner does who has not pinned the key service yet."""
        config = AttestationServiceConfig.from_json(self.attestation.config.read_bytes())
        attestation = TrustedService(
            service="attestation-service",
            url=self.attestation.url,
            identity=self.attestation.identity,
            certificate_pem=self.attestation.certificate_pem,
            mode="owner-operated",
            measurement=None,
            configuration=config.digest(),
            log_key=None,
        )
        owners = (self.owner.verifying_key.thumbprint,)
        trust = trust_in(self.roots, services=(attestation,), owners=owners, agent_measurements=(MRENCLAVE.hex(),))
        self.trust_file.write_bytes(trust.to_json())
        return trust

    def expected(self, config: Path | None = None, **changed: Any) -> ExpectedService:
        """What custodians expect behind a configuration's address."""
        found = expected_service(config or self.key_config, measurement=self.measurement, trust=self.trust_file)
        return replace(found, **changed)

    def start_locked(self, config: Path | None = None) -> "subprocess.Popen[str]":
        """Start the key service; it waits for its custodians."""
        process = subprocess.Popen(
            [*entry_command(sys.executable, KEY_SERVICE), "--config", str(config or self.key_config)],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._started.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the key service ended with {process.wait()}"
        assert json.loads(line)["locked"] is True
        return process

    def give(self, name: str) -> CustodyProgress:
        """Give a custodian's share, as the command does."""
        share = open_share(self.custody / f"{name}.share.jwe", key=self.folder / f"{name}.key")
        expected = self.expected()
        return give_share(custody_client(expected), share, expected=expected, clock=CLOCK)

    def unlocked(self, process: "subprocess.Popen[str]", config: Path | None = None) -> RunningService:
        """Return the service once it says that it is ready; it is `keys` from then on."""
        used = config or self.key_config
        settings = json.loads(used.read_text())
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, f"the key service ended with {process.wait()}"
        ready = json.loads(line)
        self.keys = RunningService(
            module="key_service",
            config=used,
            process=process,
            url=settings["url"],
            identity=ready["identity"],
            ready=ready,
            certificate_pem=ready["certificate_pem"],
        )
        return self.keys

    def start_unlocked(self) -> RunningService:
        """Start the key service and have as many custodians as it takes unlock it."""
        process = self.start_locked()
        for name in NAMES[:THRESHOLD]:
            self.give(name)
        return self.unlocked(process)

    def pinned(self) -> TrustedService:
        """Return what to trust the running key service by, as its evidence says."""
        expected = self.expected()
        return pin_service(custody_client(expected), expected=expected, clock=CLOCK)

    def stop(self) -> None:
        super().stop()
        for process in (*self._started, self._machine):
            with process:
                process.terminate()


@contextmanager
def attested_installation(folder: Path) -> Iterator[AttestedInstallation]:
    """Both services and the platform; the key service is not started yet."""
    made = AttestedInstallation(folder)
    try:
        yield made
    finally:
        made.stop()
