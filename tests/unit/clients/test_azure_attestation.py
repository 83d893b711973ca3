"""The client of Azure Attestation: what it asks for, what it takes, and every way to no."""

import hashlib
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.support.azure_attestation import AzureInstallation, ProviderKey, azure_attested
from tests.support.service_processes import CLOCK
from tests.support.tee import PlatformDevice
from tests.support.vault_releases import Said, Waits

from strongroom.agent.member import launch_identity
from strongroom.attestation.attester import collect_evidence
from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.endorsements.platforms import platform_of
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    LimitError,
    NotFoundError,
    RateError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.workflow import Step
from strongroom.clients.azure_attestation import AzureAttestation
from strongroom.clients.intel_pcs import INTEL_PCS, lacks_root_crl
from strongroom.wire.azure_attestation import AzureAttestationAddress
from strongroom.wire.model import TEE_KINDS, TeeKind

RUNTIME_DATA = canonical_json({"keys": [], "said": "by the TEE"})


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AzureInstallation]:
    with azure_attested(tmp_path_factory.mktemp("azure")) as made:
        yield made


@pytest.fixture(autouse=True)
def _honest(services: AzureInstallation) -> Iterator[None]:
    before = services.provider.signing, services.provider.published
    yield
    services.provider.signing, services.provider.published = before
    services.provider.honest()


def evidence(services: AzureInstallation, kind: TeeKind = "sgx") -> UnverifiedEvidence:
    device = PlatformDevice(services=services, kind=kind)
    device.launch(launch_identity("ab" * 32))
    return collect_evidence(device, runtime_data=RUNTIME_DATA)


def client(services: AzureInstallation, *, waits: Waits | None = None, **changed: Any) -> AzureAttestation:
    return AzureAttestation(services.address(**changed), clock=CLOCK, wait=waits or Waits())


def answering(path: str, said: Callable[[Said], Said], *, times: int = 99) -> Callable[[Said], Said]:
    """Return an edit of the first answers that hold a part of what a path's answers hold."""
    left = [times]

    def change(answer: Said) -> Said:
        if path.encode() not in answer.body or not left[0]:
            return answer
        left[0] -= 1
        return said(answer)

    return change


TOKEN, KEYS = '"token"', '"x5c"'


# --- what it asks for and takes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_asks_as_azure_wants_to_be_asked_and_verifies_what_it_is_told(
    services: AzureInstallation, kind: TeeKind
) -> None:
    given = evidence(services, kind)
    token = client(services).attest(given)
    claims = parse_json_object(from_b64url(token.split(".")[1]))
    body = services.provider.bodies[-1]
    assert claims["x-ms-runtime"] == parse_json_object(RUNTIME_DATA)
    assert claims["nonce"] == body["nonce"]
    assert body["runtimeData"]["dataType"] == "JSON"
    assert from_b64url(body["runtimeData"]["data"]) == RUNTIME_DATA
    if kind == "snp":
        report = parse_json_object(from_b64url(body["report"]))
        assert from_b64url(report["SnpReport"]) == given.quote
        assert from_b64url(report["VcekCertChain"]).decode() == given.certificate_chain
    else:
        assert from_b64url(body["quote"]) == given.quote
    assert "x-ms-strongroom-quotehash" not in claims


def test_each_request_has_a_nonce_of_its_own(services: AzureInstallation) -> None:
    asked = client(services)
    for _ in range(2):
        asked.attest(evidence(services))
    assert len({body["nonce"] for body in services.provider.bodies[-2:]}) == 2


def test_tells_which_keys_signed_and_no_others(services: AzureInstallation) -> None:
    asked = client(services)
    first = asked.attest(evidence(services))
    new = services.provider.rotate()
    second = asked.attest(evidence(services))
    old = services.provider.published[-2]
    assert asked.signers([first, first]).keys == {old.kid: old.certificate}
    assert asked.signers([first, second]).keys == {old.kid: old.certificate, new.kid: new.certificate}
    assert client(services).signers([second]).keys == {new.kid: new.certificate}
    assert asked.signers([first]).certificates == ()
    stranger = ProviderKey.new("stranger")
    with pytest.raises(VerificationError, match="does not publish"):
        asked.signers([services.provider.sign({}, key=stranger)])


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_gets_endorsements_from_the_vendors(services: AzureInstallation, kind: TeeKind) -> None:
    asked, given = client(services), evidence(services, kind)
    asked.attest(given)
    services.vendors.requests.clear()
    found = asked.endorsements(platform_of(given))
    assert services.vendors.requests
    if kind == "snp":
        assert bytes.fromhex(found)
    else:
        assert json.loads(parse_endorsements(found.encode()).tcb_info)["id"] == kind.upper()
    assert not [line for line in services.provider.server.requests if "strongroom" in line]


def test_has_no_endorsements_of_platforms_that_nobody_knows(services: AzureInstallation) -> None:
    asked = client(services)
    for platform in (f"snp.{'ab' * 32}", "sgx.00906ed50000.platform"):
        with pytest.raises(NotFoundError):
            asked.endorsements(platform)
    with pytest.raises(FormatError):
        asked.endorsements("vax.1")


def test_asks_intel_for_the_roots_list_where_the_root_says_it_is() -> None:
    assert lacks_root_crl(INTEL_PCS)
    assert not lacks_root_crl("https://pccs.example:8081")
    address = AzureAttestationAddress(kind="azure-attestation", url="https://a.weu.attest.azure.net")
    with pytest.raises(NotFoundError, match="no evidence yet"):
        AzureAttestation(address, clock=CLOCK).endorsements("sgx.00906ed50000.platform")


# --- every way to no --------------------------------------------------------------------------------------------------


def refusal(services: AzureInstallation, error: type[StrongroomError], **changed: Any) -> StrongroomError:
    with pytest.raises(error) as refused:
        client(services, **changed).attest(evidence(services))
    assert type(refused.value) is error
    assert (refused.value.step, bool(refused.value.action)) == (Step.ATTEST, True)
    return refused.value


def test_waits_as_long_as_it_is_asked_to_and_not_longer(services: AzureInstallation) -> None:
    waits = Waits()
    busy = answering(TOKEN, lambda _: Said(429, {"retry-after": "2"}, b"{}"), times=1)
    services.provider.answer = busy
    client(services, waits=waits).attest(evidence(services))
    assert waits.seconds == [2]
    services.provider.answer = answering(TOKEN, lambda _: Said(429, {"retry-after": "3"}, b"{}"))
    refusal(services, RateError, waits=waits)
    assert waits.seconds == [2, 3, 3, 3]
    services.provider.answer = answering(TOKEN, lambda _: Said(503, {"retry-after": "60"}, b"{}"))
    refusal(services, UnavailableError, waits=waits)
    assert len(waits.seconds) == 4


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "PolicyEvaluationError", RefusedError),
        (403, "PolicyEvaluationError", RefusedError),
        (400, "InvalidParameter", VerificationError),
        (404, "NotFound", VerificationError),
        (302, "Moved", VerificationError),
        (401, "Unauthorized", AuthenticationError),
        (403, "Forbidden", AuthenticationError),
        (500, "InternalError", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
    ],
)
def test_every_status_is_an_error_that_says_what_azure_said(
    services: AzureInstallation, status: int, code: str, error: type[StrongroomError]
) -> None:
    body = canonical_json({"error": {"code": code, "message": "it\nis so"}})
    services.provider.answer = answering(TOKEN, lambda _: Said(status, {}, body))
    assert f"{code}: it is so" in refusal(services, error).message
    services.provider.answer = answering(TOKEN, lambda _: Said(status, {}, b"<html>"))
    with pytest.raises(StrongroomError, match=str(status)):
        client(services).attest(evidence(services))


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"[]", b'{"token": 1}', b'{"token": "a"}', b'{"token": "e30.e30."}', b'{"token": "e30.e30.AAAA"}'],
)
def test_refuses_answers_without_a_result(services: AzureInstallation, body: bytes) -> None:
    services.provider.answer = answering(TOKEN, lambda _: Said(200, {}, body))
    refusal(services, FormatError)


def test_refuses_an_answer_that_is_too_large(services: AzureInstallation) -> None:
    services.provider.answer = answering(TOKEN, lambda _: Said(200, {}, b" " * (300 << 10)))
    refusal(services, LimitError)


@pytest.mark.parametrize("kid", ["", " ", "a b", "a\n", "ä", "x" * 201])
def test_refuses_a_result_whose_key_has_no_plain_name(services: AzureInstallation, kid: str) -> None:
    services.provider.header = {"kid": kid}
    refusal(services, FormatError)


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [1]}',
        b'{"keys": [{"kid": "k"}]}',
        b'{"keys": [{"kid": "k", "x5c": []}]}',
        b'{"keys": [{"kid": "k", "x5c": [1]}]}',
        b'{"keys": [{"kid": "k", "x5c": ["!"]}]}',
        b'{"keys": [{"x5c": ["AAAA"]}]}',
    ],
)
def test_refuses_keys_that_are_not_published_as_keys_are(services: AzureInstallation, body: bytes) -> None:
    services.provider.answer = answering(KEYS, lambda _: Said(200, {}, body))
    refusal(services, FormatError)


def test_refuses_a_key_whose_certificate_is_none(services: AzureInstallation) -> None:
    kid = services.provider.signing.kid
    body = json.dumps({"keys": [{"kid": kid, "x5c": ["AAAA"]}]}).encode()
    services.provider.answer = answering(KEYS, lambda _: Said(200, {}, body))
    refusal(services, FormatError)


def test_refuses_keys_that_are_not_to_be_had(services: AzureInstallation) -> None:
    services.provider.answer = answering(KEYS, lambda _: Said(500, {}, b""))
    refusal(services, UnavailableError)
    services.provider.answer = answering(KEYS, lambda _: Said(404, {}, b""))
    refusal(services, NotFoundError)


def test_refuses_what_answers_without_the_providers_certificate(services: AzureInstallation) -> None:
    before = len(services.provider.bodies)
    for authorities in (services.relay.authority_pem, None):
        refusal(services, VerificationError, authorities_pem=authorities)
    assert len(services.provider.bodies) == before


def test_refuses_what_are_no_authorities(services: AzureInstallation) -> None:
    with pytest.raises(ConfigurationError):
        client(services, authorities_pem="no certificate")


def test_a_provider_that_is_away_is_unavailable(services: AzureInstallation) -> None:
    refusal(services, UnavailableError, url="https://127.0.0.1:1")


def test_refuses_evidence_that_does_not_verify(services: AzureInstallation) -> None:
    good = evidence(services)
    edited = bytearray(good.quote)
    edited[200] ^= 1
    with pytest.raises(VerificationError, match="does not accept the evidence"):
        client(services).attest(UnverifiedEvidence(kind="sgx", quote=bytes(edited), runtime_data=RUNTIME_DATA))
    other = canonical_json({"keys": [], "said": "by another"})
    assert hashlib.sha256(other).digest() != hashlib.sha256(RUNTIME_DATA).digest()
    with pytest.raises(VerificationError, match="does not accept the evidence"):
        client(services).attest(UnverifiedEvidence(kind="sgx", quote=good.quote, runtime_data=other))
