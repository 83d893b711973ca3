"""Two owners, each with a key service of their own, and one application that joins their datasets, without an engine.

The taxi commission has `trips`, and gets the result, `report`; the hospital has `visits`. Agents are attested by the
taxi commission's attestation service, which the hospital's key service believes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.service_processes import CLOCK, Installation, RunningService, installation, start
from tests.support.tee import Runner

from strongroom.agent.member import Membership
from strongroom.application.description import DatasetBinding
from strongroom.application.package import ApplicationSources, pack
from strongroom.clients.owner import OwnerClient
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_id
from strongroom.datasets.identity import DatasetWrite
from strongroom.datasets.manifest import build_manifest
from strongroom.datasets.storage import Storage
from strongroom.wire.descriptor import Descriptor, ServiceAddress
from strongroom.wire.key_service import Commit
from strongroom.wire.manifest import FileEntry
from strongroom.wire.trust import Anchors, Partner, Trust, TrustedService


class TwoOwners:
    """Both owners, and what they agreed on.

    Args:
        services: The taxi commission's services.
        folder: For files.
        lie: What the hospital's operator made of its key service: a program in the service's place.
    """

    def __init__(self, services: Installation, folder: Path, *, lie: str = "") -> None:
        self.services, self.folder = services, folder
        self.taxis = Runner(services, folder)
        self.hospital_key = SigningKey.generate("ES256")
        self.keys = self._start_hospital(lie)
        self.hospital = OwnerClient(self.keys.http(), identity=self.keys.identity, key=self.hospital_key, clock=CLOCK)
        self.storage = {**self.taxis.storage, "visits": (folder / "storage" / "visits").as_uri()}
        self.hospital.create_dataset("visits")
        self._import_visits()
        self.taxis.description = self._pack()

    def _start_hospital(self, lie: str) -> RunningService:
        home = self.folder / "hospital"
        home.mkdir()
        before = self.services.keys.config.read_bytes()
        written = self.services.write_key_config(
            state=str(home / "keys"),
            master_key=f"file://{home}/mek",
            owners=[self.hospital_key.verifying_key.to_jwk()],
        )
        config = home / "keys.json"
        config.write_bytes(written.read_bytes())
        self.services.keys.config.write_bytes(before)
        url = json.loads(config.read_text())["url"]
        return start("key_service", config, url=url, state=home / "keys", program=lie)

    def _import_visits(self) -> None:
        write = DatasetWrite.from_message(self.hospital.start_write("visits"))
        file = FileEntry(path="part-0.parquet", write_id=write.write_id, file_id=random_id(), length_bytes=10)
        data, digest = build_manifest(
            dataset="visits", key_service=self.keys.identity, base=None, write=write, files=[file]
        )
        Storage(self.storage["visits"]).write_manifest(data, digest)
        commit = Commit(dataset="visits", base=write.base, manifest_digest=digest, write_ids=(write.write_id,))
        self.hospital.commit("visits", commit)

    def _pack(self) -> Any:
        script = self.folder / "join.py"
        script.write_bytes(b"print('a join')\n")
        taxis, hospital = self.services.keys.identity, self.keys.identity
        return pack(
            ApplicationSources(
                script=str(script),
                arguments=("strongroom://trips", "strongroom://visits", "strongroom://report"),
                datasets={
                    "trips": DatasetBinding(key_service=taxis, access="read", version=None),
                    "visits": DatasetBinding(key_service=hospital, access="read", version=None),
                    "report": DatasetBinding(key_service=taxis, access="write", version=None),
                },
            ),
            output=self.folder / "joint",
        )

    # --- what they agree on

    def approve_at_hospital(self, **changed: Any) -> str:
        """The hospital's approval; returns its id."""
        fields = {"key_service": self.keys.identity, **changed}
        return self.taxis.approve("visits", "read", by=self.hospital, **fields)

    def approve_all(self) -> str:
        """Everybody approves; returns the id of the hospital's approval."""
        self.taxis.approve_all()
        return self.approve_at_hospital()

    def ticket(self, **changed: Any) -> str:
        return self.taxis.ticket(**{"datasets": {"trips": 1, "visits": 1, "report": None}, **changed})

    def descriptor(self, ticket: str, *, driver: Membership | None = None, **changed: Any) -> Descriptor:
        services = (self.services.keys, self.keys)
        fields: dict[str, Any] = {
            "package": str(self.folder / "joint"),
            "storage": self.storage,
            "key_services": {
                each.identity: ServiceAddress(url=each.url, certificate_pem=each.certificate_pem) for each in services
            },
            **changed,
        }
        return self.taxis.descriptor(ticket, driver=driver, **fields)

    # --- who trusts what

    def taxis_trust(self) -> Trust:
        """The taxi commission's trust file: its own anchors, and the hospital as a partner."""
        return self._trust_of(self.taxis.trust(), "hospital", self._hospital_anchors())

    def hospital_trust(self) -> Trust:
        """The hospital's trust file: its own anchors, and the taxi commission as a partner."""
        own = self._hospital_anchors()
        theirs = self.taxis.trust().model_dump(mode="json")
        mine = Trust.from_object(own.model_dump(mode="json"))
        anchors = Anchors.from_object({name: theirs[name] for name in theirs if name in Anchors.model_fields})
        return self._trust_of(mine, "taxis", anchors, accept_results=True)

    def _trust_of(self, own: Trust, name: str, anchors: Anchors, *, accept_results: bool = False) -> Trust:
        partner = Partner(name=name, accept_results=accept_results, anchors=anchors)
        return Trust.from_json(own.model_copy(update={"partners": (partner,)}).to_json())

    def _hospital_anchors(self) -> Anchors:
        theirs = self.taxis.trust().model_dump(mode="json")
        service = TrustedService(
            service="key-service",
            url=self.keys.url,
            identity=self.keys.identity,
            certificate_pem=self.keys.certificate_pem,
            configuration=str(self.keys.ready["configuration"]),
            log_key=str(self.keys.ready["log_key"]),
            mode="owner-operated",
            measurement=None,
        )
        fields = {name: theirs[name] for name in theirs if name in Anchors.model_fields}
        return Anchors.from_object(
            {
                **fields,
                "services": [service.model_dump(mode="json")],
                "owners": [self.hospital_key.verifying_key.thumbprint],
            }
        )

    def stop(self) -> None:
        self.keys.stop()


@contextmanager
def two_owners(folder: Path, *, lie: str = "") -> Iterator[TwoOwners]:
    """Both owners' services, while the block runs."""
    with installation(folder) as services:
        made = TwoOwners(services, folder, lie=lie)
        try:
            yield made
        finally:
            made.stop()
