"""Azure's call for guests and ours, in this process and without a TPM: what is appraised, signed, sealed, refused."""

import functools
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from tests.support.azure_guest import KINDS, Cloud
from tests.support.simulated_guest import RUNTIME_DATA, SimulatedGuest

from strongroom.attestation.claims import azure_guest_claims, incoming_claims
from strongroom.attestation.endorsements.dcap import DirectoryEndorsements
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.attestation.evidence.azure_vtpm import HclKind
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.base.encoding import Json, canonical_json, from_any_b64, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, NotFoundError, RefusedError, VerificationError
from strongroom.base.secret import SecretBytes
from strongroom.clients.attestation import azure_vm_request
from strongroom.crypto.transport_key import Envelope, open_envelope
from strongroom.services.azure_guest import AzureGuestDesk
from strongroom.services.errors import Reply
from strongroom.services.evidence_kinds import Anchors, VerifiedClaims
from strongroom.services.http import Call


@functools.cache
def simulated(kind: HclKind) -> SimulatedGuest:
    return SimulatedGuest(cloud=cloud(), kind=kind)


@functools.cache
def cloud() -> Cloud:
    return Cloud.new()


class Desk:
    """The desk, and the claims that it had appraised."""

    def __init__(self, folder: Path) -> None:
        cloud().write_endorsements(folder / "endorsements")
        self.folder = folder / "endorsements"
        self.appraised: list[Mapping[str, Json]] = []
        self.desk = AzureGuestDesk(anchors=self._anchors, appraise=self._appraise)

    @contextmanager
    def _anchors(self) -> Iterator[Anchors]:
        yield Anchors(
            roots=cloud().trusted_roots,
            endorsements=DirectoryEndorsements(self.folder),
            revocations=DirectoryRevocations(self.folder),
            now=cloud().now,
        )

    def _appraise(self, verified: VerifiedClaims) -> str:
        self.appraised.append(verified.claims)
        if verified.claims["x-ms-strongroom-hardware"] != "simulated":
            raise RefusedError("not this policy")
        return "header.claims.signature"

    def guest(self, info: dict[str, Any], member: str = "AttestationInfo") -> Reply:
        body = canonical_json({member: to_b64url(json.dumps(info).encode())})
        return self.desk.attest_guest(Call(path={}, query={}, authorization="", body=body))

    def vm(self, evidence: UnverifiedAzureVm, *, certificates: str | None) -> Reply:
        body = azure_vm_request(evidence, certificates=certificates).to_json()
        return self.desk.attest_vm(Call(path={}, query={}, authorization="", body=body))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def opened(reply: Reply, guest: SimulatedGuest) -> bytes:
    sealed = parse_json_object(from_b64url(parse_json_object(reply.body)["token"]))
    private = guest.ephemeral.hazmat
    assert isinstance(private, rsa.RSAPrivateKey)
    envelope = Envelope(
        encrypted_key=from_any_b64(sealed["EncryptedInnerKey"]),
        nonce=from_any_b64(sealed["EncryptionParams"]["Iv"]),
        ciphertext=from_any_b64(sealed["Jwt"]),
        tag=from_any_b64(sealed["AuthenticationData"]),
    )
    return open_envelope(envelope, key=SecretBytes(private.decrypt(envelope.encrypted_key, padding.PKCS1v15())))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("member", ["AttestationInfo", "attestationInfo"])
def test_azures_call_is_answered_to_the_certified_key(desk: Desk, kind: HclKind, member: str) -> None:
    reply = desk.guest(simulated(kind).info(), member)
    assert opened(reply, simulated(kind)) == b"header.claims.signature"
    assert b"signature" not in reply.body
    [claims] = desk.appraised
    assert claims["x-ms-attestation-type"] == "azurevm"


@pytest.mark.parametrize("kind", KINDS)
def test_our_call_is_answered_in_the_open(desk: Desk, kind: HclKind) -> None:
    certificates = cloud().snp_endorsements().certificate_chain if kind == "snp" else None
    reply = desk.vm(simulated(kind).vm.evidence(RUNTIME_DATA), certificates=certificates)
    assert parse_json_object(reply.body) == {"token": "header.claims.signature"}
    [claims] = desk.appraised
    assert claims["x-ms-runtime"] == parse_json_object(RUNTIME_DATA)


@pytest.mark.parametrize("kind", KINDS)
def test_policies_read_the_hardwares_claims_under_their_path(kind: HclKind) -> None:
    claims = azure_guest_claims(simulated(kind).verify())
    read = {claim.type: claim.value for claim in incoming_claims(claims)}
    tee = "x-ms-isolation-tee."
    assert read[tee + "x-ms-runtime.vm-configuration.secure-boot"] is True
    assert read[tee + "x-ms-attestation-type"] == ("sevsnpvm" if kind == "snp" else "tdxvm")
    assert read["x-ms-attestation-type"] == "azurevm"
    assert not {name for name in read if "client-payload" in name or "compliance" in name}


def test_nothing_is_appraised_before_it_is_verified(desk: Desk) -> None:
    each = simulated("snp")
    with pytest.raises(VerificationError):
        desk.guest(each.info(ClientPayload={}))
    with pytest.raises(RefusedError, match="no hardware"):
        desk.guest(each.info(IsolationInfo={"Type": "TrustedLaunch"}))
    assert desk.appraised == []


def test_a_missing_revocation_list_or_platform_family_is_no(desk: Desk) -> None:
    for file in desk.folder.iterdir():
        file.unlink()
    for kind in KINDS:
        with pytest.raises(NotFoundError):
            desk.guest(simulated(kind).info())
    assert desk.appraised == []


def test_runtime_data_of_our_call_are_a_json_object(desk: Desk) -> None:
    certificates = cloud().snp_endorsements().certificate_chain
    for data in (b"text", b"[]", b'{"a":1,"a":2}'):
        with pytest.raises(FormatError):
            desk.vm(simulated("snp").vm.evidence(data), certificates=certificates)


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b"{}", b'{"AttestationInfo":1}', b'{"AttestationInfo":"e30","more":1}', b'{"AttestationInfo":"%"}'],
)
def test_other_bodies_are_format_errors(desk: Desk, body: bytes) -> None:
    call = Call(path={}, query={}, authorization="", body=body)
    for ask in (desk.desk.attest_guest, desk.desk.attest_vm):
        with pytest.raises(FormatError):
            ask(call)


def test_a_request_has_one_member_however_good_its_evidence_is(desk: Desk) -> None:
    good = to_b64url(json.dumps(simulated("snp").info()).encode())
    for body in ({"AttestationInfo": good, "nonce": "1"}, {"AttestationInfo": good, "attestationInfo": good}):
        with pytest.raises(FormatError, match="exactly one member"):
            desk.desk.attest_guest(Call(path={}, query={}, authorization="", body=canonical_json(body)))
