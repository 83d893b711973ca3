"""Trust files of owners whose services run nowhere."""

from pathlib import Path
from typing import Any

from tests.support.platform import NOW

from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem
from strongroom.wire.trust import Trust


def authority() -> str:
    key = SigningKey.generate("ES256")
    return to_pem(new_identity(common_name="x", key=key, not_before=NOW, not_after=NOW.replace(year=2040)))


def trust_file(path: Path, *, port: int, **changed: Any) -> Trust:
    """A trust file of an owner with both services."""
    services = []
    for number, kind in enumerate(("attestation-service", "key-service")):
        key = SigningKey.generate("ES256")
        certificate = new_identity(common_name=kind, key=key, not_before=NOW, not_after=NOW.replace(year=2040))
        services.append(
            {
                "service": kind,
                "url": f"https://127.0.0.1:{port + number}",
                "identity": spki_sha256(certificate),
                "certificate_pem": to_pem(certificate),
                "mode": "owner-operated",
                "measurement": None,
                "configuration": "cd" * 32,
                "log_key": None,
            }
        )
    fields = {
        "hardware": "simulated",
        "roots": [{"certificate_pem": authority(), "simulated": True}],
        "services": services,
        "owners": [SigningKey.generate("ES256").verifying_key.thumbprint],
        "agent_measurements": ["ab" * 32],
        "agent_mrtds": [],
        "agent_launch_digests": [],
        **changed,
    }
    trust = Trust.from_object(fields)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(trust.to_json())
    return trust
