"""One application over the datasets of two owners: each owner's service frees that owner's keys alone.

Neither trusts the other's. The services are real processes. A lying one is the hospital's own service as its operator
changed it, under its true identity: nobody can tell it by its name.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.two_owners import TwoOwners, two_owners

from strongroom.base.errors import IntegrityError, RefusedError, StrongroomError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.clients.owner import OwnerClient
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.random import random_secret
from strongroom.keys.hierarchy import run_secret
from strongroom.receipts.verify import VerifiedReceipt, verify_receipt
from strongroom.wire.descriptor import ServiceAddress

LYING = """
from strongroom.services import key_service
from strongroom.wire import key_service as wire

{lie}
key_service.main()
"""
GIVES_KEYS_TO_WRITE_ANOTHERS_DATASET = """
Genuine = wire.RunSecrets

def RunSecrets(*, writes, **rest):
    mine = wire.NewWrite(write_id="00" * 16, key="A" * 43, wrapped="AAAA", base=None)
    return Genuine(writes={**writes, "report": mine}, **rest)

wire.RunSecrets = RunSecrets
"""
NAMES_A_VERSION_OF_ANOTHERS_DATASET = """
Genuine = wire.Release

def Release(*, versions, **rest):
    return Genuine(versions={**versions, "trips": versions["visits"]}, **rest)

wire.Release = Release
"""
NAMES_NO_VERSION = """
Genuine = wire.Release

def Release(*, versions, **rest):
    return Genuine(versions={}, **rest)

wire.Release = Release
"""
CHOOSES_ITS_SHARE = """
Genuine = wire.RunSecrets

def RunSecrets(*, share, **rest):
    return Genuine(share="A" * 43, **rest)

wire.RunSecrets = RunSecrets
"""
GIVES_EACH_TEE_ANOTHER_SHARE = """
from strongroom.crypto.random import random_secret
from strongroom.base.encoding import to_b64url

Genuine = wire.RunSecrets

def RunSecrets(*, share, **rest):
    return Genuine(share=to_b64url(random_secret().reveal()), **rest)

wire.RunSecrets = RunSecrets
"""


@pytest.fixture(scope="module")
def owners(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoOwners]:
    with two_owners(tmp_path_factory.mktemp("two-owners")) as made:
        made.approve_all()
        Run(made).end(made)  # so that every later run builds on a version, whichever test comes first
        yield made


class Run:
    """A run that both owners approved, up to its end."""

    def __init__(self, owners: TwoOwners) -> None:
        self.ticket = owners.ticket()
        self.descriptor = owners.descriptor(self.ticket)
        self.driver = owners.taxis.join(self.descriptor)
        self.executor = owners.taxis.join(owners.descriptor(self.ticket, driver=self.driver))

    def end(self, owners: TwoOwners) -> bytes:
        owners.taxis.write(self.driver)
        kept = owners.taxis.finish(self.driver, self.descriptor)
        return (owners.folder / "out" / kept.receipt).read_bytes()


@pytest.fixture(scope="module")
def receipt(owners: TwoOwners) -> bytes:
    return Run(owners).end(owners)


# --- each owner's own service, each owner's own approval -------------------------------------------------------------


def test_a_run_over_both_owners_datasets_has_a_receipt_that_both_verify(owners: TwoOwners, receipt: bytes) -> None:
    for trust in (owners.taxis_trust(), owners.hospital_trust()):
        verified: VerifiedReceipt = verify_receipt(receipt, trust=trust)
        assert set(verified.modes) == {owners.services.keys.identity, owners.keys.identity}
        assert set(verified.approvals) == {"trips", "visits", "report"}
        assert set(verified.inputs) == {"trips", "visits", "report"}, "a write builds on the version before"
        assert set(verified.outputs) == {"report"}


def test_each_owners_keys_come_from_that_owners_service_alone(owners: TwoOwners) -> None:
    driver = Run(owners).driver
    said = {identity: set(release.versions) for identity, release in driver.releases.items()}

    assert said == {owners.services.keys.identity: {"trips", "report"}, owners.keys.identity: {"visits"}}


def test_refuses_a_run_that_only_one_owner_approved(tmp_path: Path) -> None:
    with two_owners(tmp_path) as owners:
        owners.taxis.approve_all()
        with pytest.raises(RefusedError, match="no approval names this application"):
            owners.taxis.join(owners.descriptor(owners.ticket()))

        owners.approve_at_hospital(submitters=("00" * 32,))
        with pytest.raises(RefusedError):
            owners.taxis.join(owners.descriptor(owners.ticket()))


def test_an_owner_does_not_approve_for_the_other(owners: TwoOwners) -> None:
    """Neither with his own key at the other's service, nor in a receipt."""
    with pytest.raises(StrongroomError):
        owners.taxis.approve("visits", "read", by=owners.hospital, key_service=owners.services.keys.identity)
    taxis = owners.taxis_trust()
    (hospital,) = taxis.partners
    anchors = hospital.anchors.model_copy(update={"owners": taxis.owners})
    partners = (hospital.model_copy(update={"anchors": anchors}),)
    swapped = taxis.model_copy(update={"owners": hospital.anchors.owners, "partners": partners})
    with pytest.raises(RefusedError, match="signed by nobody"):
        verify_receipt(Run(owners).end(owners), trust=swapped)


# --- a second key service that is not what it says -------------------------------------------------------------------


def test_a_key_service_in_the_place_of_the_bound_one_is_noticed(owners: TwoOwners) -> None:
    taxis, hospital = owners.services.keys, owners.keys
    impostor = ServiceAddress(url=taxis.url, certificate_pem=taxis.certificate_pem)
    impostor_tls = ServiceAddress(url=taxis.url, certificate_pem=hospital.certificate_pem)
    genuine = ServiceAddress(url=taxis.url, certificate_pem=taxis.certificate_pem)
    for false in (impostor, impostor_tls):
        addresses = {taxis.identity: genuine, hospital.identity: false}
        with pytest.raises(VerificationError, match="pinned"):
            owners.taxis.join(owners.descriptor(owners.ticket(), key_services=addresses))


@pytest.mark.parametrize(
    ("lie", "error", "says"),
    [
        (GIVES_KEYS_TO_WRITE_ANOTHERS_DATASET, VerificationError, "gives keys to write other datasets"),
        (NAMES_A_VERSION_OF_ANOTHERS_DATASET, VerificationError, "did not prove that the version of dataset trips"),
        (NAMES_NO_VERSION, IntegrityError, "names no version of visits"),
    ],
    ids=["write keys", "versions", "no version"],
)
def test_a_service_that_speaks_for_the_others_datasets_is_noticed(
    tmp_path: Path, lie: str, error: type[StrongroomError], says: str
) -> None:
    with two_owners(tmp_path, lie=LYING.format(lie=lie)) as owners:
        owners.approve_all()
        with pytest.raises(error, match=says):
            owners.taxis.join(owners.descriptor(owners.ticket()))


def test_a_service_that_gives_each_tee_another_share_parts_them(tmp_path: Path) -> None:
    """They have no secret in common, and Spark's authentication keeps them apart: no run, and no plaintext."""
    with two_owners(tmp_path, lie=LYING.format(lie=GIVES_EACH_TEE_ANOTHER_SHARE)) as owners:
        owners.approve_all()
        run = Run(owners)
        assert run.executor.secret != run.driver.secret


def test_a_service_that_chooses_its_share_does_not_know_the_runs_secret(tmp_path: Path) -> None:
    with two_owners(tmp_path, lie=LYING.format(lie=CHOOSES_ITS_SHARE)) as owners:
        owners.approve_all()
        run = Run(owners)
    assert run.executor.secret == run.driver.secret

    mine, theirs = owners.keys.identity, owners.services.keys.identity
    public = {
        "run": run.driver.run,
        "application": run.driver.application.digest,
        "driver_key": run.driver.signing_key.verifying_key.thumbprint,
    }
    chosen = SecretBytes(bytes(32))
    for guess in ({mine: chosen}, {mine: chosen, theirs: chosen}, {mine: chosen, theirs: random_secret()}):
        assert run_secret(guess, **public) != run.driver.secret


# --- one owner revokes -----------------------------------------------------------------------------------------------


def test_an_owner_who_revokes_ends_the_run_for_everybody(tmp_path: Path) -> None:
    with two_owners(tmp_path) as owners:
        owners.taxis.approve_all()
        approval = owners.approve_at_hospital()
        run = Run(owners)
        owners.hospital.revoke(approval)

        with pytest.raises(RefusedError, match="nothing more is released"):  # no further key
            owners.taxis.join(owners.descriptor(run.ticket, driver=run.driver))
        # and no version, though the other owner would let it
        with pytest.raises(RefusedError, match="nothing more is released"):
            run.end(owners)
        assert owners.taxis.owner.versions("report") == ()
        with pytest.raises(RefusedError):  # and no next run
            owners.taxis.join(owners.descriptor(owners.ticket()))


# --- what one owner's service sees of the other's --------------------------------------------------------------------


def test_an_owners_service_sees_nothing_of_the_others_beyond_application_ticket_and_evidence(
    owners: TwoOwners, receipt: bytes
) -> None:
    """The application's description and the ticket name all datasets, versions and key services: they are what each
    owner approves. Neither approvals, policies, keys, manifests nor places of the other owner are in it.
    """
    body = json.loads(receipt)["body"]
    taxis, hospital = owners.services.keys.identity, owners.keys.identity
    secret_of_taxis = _affairs(body, taxis, owners.services.owner, names=("trips", "report"))
    secret_of_hospital = _affairs(body, hospital, owners.hospital_key, names=("visits",))

    seen_by_hospital = _everything(owners.hospital, owners.folder / "hospital")
    seen_by_taxis = _everything(owners.taxis.owner, owners.services.folder / "keys")
    for text, mine, others in (
        (seen_by_hospital, secret_of_hospital, secret_of_taxis),
        (seen_by_taxis, secret_of_taxis, secret_of_hospital),
    ):
        assert [what for what in mine if what in text], "the search finds nothing at all"
        assert [what for what in others if what in text] == []


def _affairs(body: dict[str, Any], identity: str, owner: SigningKey, *, names: tuple[str, ...]) -> list[str]:
    """What is one owner's alone, as texts to look for."""
    record = body["records"][identity]
    approvals = [token for name, token in record["approvals"].items() if name in names]
    versions = [token for name, token in body["inputs"].items() if name in names]
    statements = [json.loads(unverified_payload(token)) for token in versions]
    manifests = [statement["manifest_digest"] for statement in statements]
    writes = [write for statement in statements for write in statement["write_ids"]]
    return [*approvals, *versions, *manifests, *writes, owner.verifying_key.thumbprint]


def _everything(owner: OwnerClient, state: Path) -> str:
    """All that a service tells its owner, and all that its operator finds in its files."""
    listed = owner.runs()
    said = [listed, owner.approvals(), owner.datasets(), *(owner.run(run["run"]) for run in listed["runs"])]
    files = [path.read_bytes().decode("latin-1") for path in state.rglob("*") if path.is_file()]
    return "\n".join([json.dumps(said), *files])
