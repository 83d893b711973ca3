"""The client of Azure's vaults against our own key service in a vault's place: what it takes, and every way to no."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.service_processes import CLOCK
from tests.support.vault_releases import (
    RESOURCE,
    AttestedTee,
    Said,
    TlsServer,
    VaultInstallation,
    VaultRunner,
    Waits,
    vault_installation,
)

from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    ConfigurationError,
    FormatError,
    IntegrityError,
    LimitError,
    NotFoundError,
    RateError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    UntrustedRootError,
    VerificationError,
)
from strongroom.base.workflow import Step
from strongroom.clients.azure_identity import access_token
from strongroom.clients.azure_key_vault import AzureKeyVaultClient
from strongroom.clients.https import Https
from strongroom.crypto.web_pki import pinned_roots
from strongroom.policy.release_policy import parse_release_policy
from strongroom.wire.vault_key import VaultAddress


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VaultInstallation]:
    with vault_installation(tmp_path_factory.mktemp("vault")) as made:
        yield made


@pytest.fixture(scope="module")
def runner(services: VaultInstallation, tmp_path_factory: pytest.TempPathFactory) -> VaultRunner:
    return VaultRunner(services, tmp_path_factory.mktemp("runner"))


@pytest.fixture(scope="module")
def tee(runner: VaultRunner) -> AttestedTee:
    return AttestedTee.of(runner)


@pytest.fixture(autouse=True)
def _untouched(services: VaultInstallation) -> Iterator[None]:
    yield
    services.edit = services.token_answer = lambda said: said


def patient(
    runner: VaultRunner,
    tee: AttestedTee,
    waits: Waits,
    *,
    url: str | None = None,
    address: VaultAddress | None = None,
    **limits: Any,
) -> AzureKeyVaultClient:
    """A client whose waiting is remembered, or whose patience is short."""
    address = address or runner.address()
    return AzureKeyVaultClient(
        runner.key,
        Https(url or runner.key.url, service="the vault", authorities_pem=address.authorities_pem, **limits),
        token=access_token(address.credential, resource=RESOURCE),
        roots_der=pinned_roots(address.roots_pem.encode(), digests=runner.key.roots),
        receiving_key=tee.receiving,
        now=CLOCK.now,
        wait=waits,
    )


def answering(status: int, *, once: bool = False, body: bytes = b"{}", **headers: str) -> Callable[[Said], Said]:
    """Return an edit that answers something else than the vault did."""
    asked: list[Said] = []

    def change(said: Said) -> Said:
        asked.append(said)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return said if once and len(asked) > 1 else Said(status, named, body)

    return change


# --- what it takes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kty", ["RSA-HSM", "oct-HSM"])
def test_a_vault_releases_its_key_into_an_attested_tee(
    services: VaultInstallation, tmp_path_factory: pytest.TempPathFactory, kty: str
) -> None:
    runner = VaultRunner(services, tmp_path_factory.mktemp("kty"), kty=kty)
    tee, other = AttestedTee.of(runner), AttestedTee.of(runner, role="executor")
    release = tee.client(runner).release(tee.result)
    again = other.client(runner).release(other.result)
    assert release.released.kek("trips") == again.released.kek("trips")
    assert release.nonce != again.nonce
    assert len(parse_release_policy(release.policy).authorities) == 2  # a driver, an executor
    assert not release.policy_immutable


def test_asks_entra_with_the_projected_token_for_the_vaults_resource(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.forms.clear()
    tee.client(runner).release(tee.result)
    (form,) = services.forms
    assert form == {
        "path": "/tenant/oauth2/v2.0/token",
        "grant_type": "client_credentials",
        "client_id": runner.workload_identity().client_id,
        "scope": "https://managedhsm.azure.net/.default",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": services.federated,
    }


def test_asks_the_machines_own_identity(services: VaultInstallation, runner: VaultRunner, tee: AttestedTee) -> None:
    services.forms.clear()
    tee.client(runner, credential=runner.managed_identity()).release(tee.result)
    (form,) = services.forms
    assert form == {
        "path": "/metadata/identity/oauth2/token",
        "metadata": "true",
        "api-version": "2018-02-01",
        "resource": "https://managedhsm.azure.net",
        "client_id": runner.managed_identity().client_id,
    }


def test_a_replaced_projected_token_is_read_anew(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    client = tee.client(runner)
    client.release(tee.result)
    services.federated = "a-second-token"
    services.token_file.write_text("a-second-token")
    client.release(tee.result)


# --- the credential -----------------------------------------------------------------------------------------------


def test_refuses_what_entra_and_this_machine_do_not_give(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.federated = "another"
    with pytest.raises(AuthenticationError, match="invalid_client"):
        tee.client(runner).release(tee.result)
    services.federated = services.token_file.read_text().strip()
    for missing in (services.folder / "nowhere", services.folder):
        identity = runner.workload_identity(token_file=str(missing))
        with pytest.raises(ConfigurationError, match="federated token"):
            tee.client(runner, credential=identity).release(tee.result)
    empty = services.folder / "empty"
    empty.write_text("\n")
    with pytest.raises(ConfigurationError, match="empty"):
        tee.client(runner, credential=runner.workload_identity(token_file=str(empty))).release(tee.result)
    foreign = runner.workload_identity(authorities_pem=services.relay.authority_pem)
    with pytest.raises(VerificationError):
        tee.client(runner, credential=foreign).release(tee.result)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Said(500, {}, b""), UnavailableError),
        (Said(429, {"retry-after": "1"}, b""), UnavailableError),
        (Said(400, {}, b'{"error": "unauthorized_client"}'), AuthenticationError),
        (Said(302, {"location": "https://elsewhere"}, b""), AuthenticationError),
        (Said(200, {}, b"not json"), FormatError),
        (Said(200, {}, b'{"token_type": "Bearer"}'), FormatError),
        (Said(200, {}, b'{"token_type": "mac", "access_token": "a"}'), FormatError),
        (Said(200, {}, b'{"token_type": "Bearer", "access_token": ""}'), FormatError),
        (Said(200, {}, json.dumps({"token_type": "Bearer", "access_token": "a\r\nX-Evil: 1"}).encode()), FormatError),
        (Said(200, {}, b" " * (300 << 10)), LimitError),
    ],
)
@pytest.mark.parametrize("credential", ["workload_identity", "managed_identity"])
def test_refuses_answers_without_a_token(
    services: VaultInstallation,
    runner: VaultRunner,
    tee: AttestedTee,
    answer: Said,
    error: type[StrongroomError],
    credential: str,
) -> None:
    services.token_answer = lambda _: answer
    services.relay.requests.clear()
    with pytest.raises(error):
        tee.client(runner, credential=getattr(runner, credential)()).release(tee.result)
    assert services.relay.requests == []


# --- the connection -----------------------------------------------------------------------------------------------


def test_refuses_a_vault_with_another_certificate_before_it_says_anything(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.relay.requests.clear()
    for foreign in (services.entra.authority_pem, None):
        with pytest.raises(VerificationError, match="not the vault"):
            tee.client(runner, authorities_pem=foreign).release(tee.result)
    assert services.relay.requests == []


def test_refuses_a_certificate_for_another_host(runner: VaultRunner, tee: AttestedTee) -> None:
    elsewhere = TlsServer(lambda *_: Said(200, {}, b"{}"), names=("b.vault.azure.net",))
    try:
        key = runner.key.model_copy(update={"url": elsewhere.url})
        with pytest.raises(VerificationError, match="not the vault"):
            tee.client(runner, key=key, authorities_pem=elsewhere.authority_pem).release(tee.result)
        assert elsewhere.requests == []
    finally:
        elsewhere.stop()


def test_a_vault_that_is_away_or_slow_is_unavailable(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    away = runner.key.model_copy(update={"url": "https://127.0.0.1:1"})
    with pytest.raises(UnavailableError) as error:
        tee.client(runner, key=away).release(tee.result)
    assert error.value.step == Step.RELEASE
    answer = threading.Event()

    def silent(*_: object) -> Said:
        answer.wait()
        return Said(200, {}, b"{}")

    slow = TlsServer(silent, names=("127.0.0.1",))
    try:
        address = runner.address(authorities_pem=slow.authority_pem)
        client = patient(runner, tee, Waits(), url=slow.url, address=address, total_s=0.2)
        with pytest.raises(UnavailableError, match="took longer"):
            client.release(tee.result)
    finally:
        answer.set()
        slow.stop()


# --- statuses -----------------------------------------------------------------------------------------------------


def test_waits_as_long_as_the_vault_asks_for_and_not_longer(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    waits = Waits()
    services.edit = answering(429, once=True, retry_after="7")
    patient(runner, tee, waits).release(tee.result)
    services.edit = answering(503, once=True, retry_after="2")
    patient(runner, tee, waits).release(tee.result)
    assert waits.seconds == [7, 2]
    services.edit = answering(429, retry_after="3")
    with pytest.raises(RateError, match="too often"):
        patient(runner, tee, waits).release(tee.result)
    assert waits.seconds == [7, 2, 3, 3, 3]
    for later in ("11", "86400", "Wed, 21 Oct 2026 07:28:00 GMT", "-1", "x"):
        services.edit = answering(429, retry_after=later)
        with pytest.raises(RateError):
            patient(runner, tee, waits).release(tee.result)
    assert len(waits.seconds) == 5


def test_a_token_that_ran_out_is_replaced_once(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.forms.clear()
    services.edit = answering(401, once=True)
    tee.client(runner).release(tee.result)
    assert len(services.forms) == 2
    challenge = 'Bearer authorization="https://login.microsoftonline.com/t", resource="https://vault.azure.net"'
    services.edit = answering(401, www_authenticate=challenge)
    with pytest.raises(AuthenticationError) as error:
        tee.client(runner).release(tee.result)
    assert len(services.forms) == 4
    assert "https://vault.azure.net by https://login.microsoftonline.com/t" in error.value.action


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, FormatError),
        (400, FormatError),
        (403, RefusedError),
        (404, NotFoundError),
        (409, FormatError),
        (500, UnavailableError),
        (502, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_every_other_status_is_an_error_that_says_what_the_vault_said(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee, status: int, error: type[StrongroomError]
) -> None:
    inner = {"code": "AKV.SKR.1002"}
    body = {"error": {"code": "Forbidden", "message": "not\nmet" + "!" * 999, "innererror": inner}}
    services.edit = answering(status, body=canonical_json(body))
    with pytest.raises(error) as raised:
        tee.client(runner).release(tee.result)
    assert "Forbidden (AKV.SKR.1002): not met!" in raised.value.message
    assert len(raised.value.message) < 600
    assert (raised.value.step, bool(raised.value.action)) == (Step.RELEASE, True)
    services.edit = answering(status, body=b"<html>")
    with pytest.raises(error, match=str(status)):
        tee.client(runner).release(tee.result)


def test_refuses_evidence_that_the_keys_policy_does_not_accept(runner: VaultRunner) -> None:
    other = AttestedTee.of(runner, application="ab" * 32)
    with pytest.raises(RefusedError, match="does not release"):
        other.client(runner).release(other.result)


def test_refuses_a_disabled_key_and_one_that_is_not_there(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    key = runner.key
    services.vault("PATCH", f"/keys/{key.key}/{key.key_version}", {"attributes": {"enabled": False}})
    try:
        with pytest.raises(RefusedError, match="does not release"):
            tee.client(runner).release(tee.result)
    finally:
        services.vault("PATCH", f"/keys/{key.key}/{key.key_version}", {"attributes": {"enabled": True}})
    for changed in ({"key": "another"}, {"key_version": "00" * 16}):
        with pytest.raises(NotFoundError):
            tee.client(runner, key=key.model_copy(update=changed)).release(tee.result)


# --- the answer ---------------------------------------------------------------------------------------------------


def flipped(text: str, position: int) -> str:
    raw = bytearray(from_any_b64(text))
    raw[position] ^= 1
    return to_b64url(bytes(raw))


def in_envelope(edit: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any], dict[str, Any]], None]:
    def change(_header: dict[str, Any], payload: dict[str, Any]) -> None:
        key = payload["response"]["key"]["key"]
        envelope = parse_json_object(from_any_b64(key["key_hsm"]))
        edit(envelope)
        key["key_hsm"] = to_b64url(canonical_json(envelope))

    return change


def _other_nonce(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["request"]["nonce"] = "another"


def _no_nonce(_: dict[str, Any], payload: dict[str, Any]) -> None:
    del payload["request"]["nonce"]


def _other_interface(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["request"]["api-version"] = "7.3"


def _other_kid_asked(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["request"]["kid"] += "0"


def _other_kid_given(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["response"]["key"]["key"]["kid"] += "0"


def _other_type(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["response"]["key"]["key"]["kty"] = "oct-HSM"


def _other_enc(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["request"]["enc"] = "CKM_RSA_AES_KEY_WRAP"


def _other_thumbprint(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["x5t#S256"] = to_b64url(bytes(32))


def _no_chain(header: dict[str, Any], _: dict[str, Any]) -> None:
    del header["x5c"]


def _chain_of_nothing(header: dict[str, Any], _: dict[str, Any]) -> None:
    header["x5c"] = ["AAAA"]


def _no_policy(_: dict[str, Any], payload: dict[str, Any]) -> None:
    del payload["response"]["key"]["release_policy"]


def _long_policy(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["response"]["key"]["release_policy"]["data"] = to_b64url(bytes(65 << 10))


def _no_key(_: dict[str, Any], payload: dict[str, Any]) -> None:
    payload["response"]["key"]["key"] = {}


EDITS = {
    "another nonce": (_other_nonce, VerificationError),
    "no nonce": (_no_nonce, VerificationError),
    "another version of the interface": (_other_interface, VerificationError),
    "another kid asked for": (_other_kid_asked, VerificationError),
    "another kid given": (_other_kid_given, VerificationError),
    "another type": (_other_type, VerificationError),
    "another algorithm": (_other_enc, VerificationError),
    "another certificate named": (_other_thumbprint, VerificationError),
    "no chain": (_no_chain, FormatError),
    "a chain of no certificates": (_chain_of_nothing, FormatError),
    "no policy": (_no_policy, FormatError),
    "a policy too long": (_long_policy, FormatError),
    "no key": (_no_key, FormatError),
    "another envelope": (in_envelope(lambda e: e["header"].update(enc="RSA_AES_KEY_WRAP_384")), VerificationError),
    "another schema": (in_envelope(lambda e: e.update(schema_version="2.0.0")), VerificationError),
    "no envelope": (in_envelope(lambda e: e.pop("header")), FormatError),
    "a changed RSA part": (in_envelope(lambda e: e.update(ciphertext=flipped(e["ciphertext"], 3))), IntegrityError),
    "a changed AES part": (in_envelope(lambda e: e.update(ciphertext=flipped(e["ciphertext"], -3))), IntegrityError),
    "a cut ciphertext": (in_envelope(lambda e: e.update(ciphertext=e["ciphertext"][:40])), StrongroomError),
}


@pytest.mark.parametrize("name", EDITS)
def test_refuses_an_answer_that_the_vault_signed_and_is_not_to_this_request(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee, name: str
) -> None:
    edit, error = EDITS[name]
    services.edit = services.signed_again(edit)
    with pytest.raises(error) as raised:
        tee.client(runner).release(tee.result)
    assert raised.value.step == Step.RELEASE


def test_the_vaults_own_words_signed_again_pass(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.edit = services.signed_again(lambda _header, payload: payload["response"].update(more="later fields"))
    tee.client(runner).release(tee.result)


def test_refuses_a_forged_signature(services: VaultInstallation, runner: VaultRunner, tee: AttestedTee) -> None:
    def change(said: Said) -> Said:
        head, payload, signature = parse_json_object(said.body)["value"].split(".")
        return replace(said, body=canonical_json({"value": f"{head}.{payload}.{flipped(signature, 5)}"}))

    services.edit = change
    with pytest.raises(VerificationError):
        tee.client(runner).release(tee.result)


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"value": 1}', b'{"value": "a.b"}', b'{"value": "a.b.c"}'])
def test_refuses_what_is_no_release(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee, body: bytes
) -> None:
    services.edit = answering(200, body=body)
    with pytest.raises(FormatError):
        tee.client(runner).release(tee.result)


def test_refuses_an_answer_that_is_too_large(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    services.edit = answering(200, body=b" " * ((256 << 10) + 1))
    with pytest.raises(LimitError):
        tee.client(runner).release(tee.result)


def test_a_replayed_answer_is_not_one_to_this_request(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    kept: list[Said] = []

    def keep(said: Said) -> Said:
        kept.append(said)
        return kept[0]

    services.edit = keep
    tee.client(runner).release(tee.result)
    with pytest.raises(VerificationError) as error:
        tee.client(runner).release(tee.result)
    assert [mismatch.name for mismatch in error.value.mismatches] == ["nonce"]


def test_a_key_that_is_wrapped_to_another_tee_does_not_open(runner: VaultRunner, tee: AttestedTee) -> None:
    other = AttestedTee.of(runner)
    with pytest.raises(IntegrityError):
        tee.client(runner).release(other.result)


def test_refuses_another_key_in_the_pinned_ones_place(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    other = services.create_key("another", "RSA-HSM")
    services.set_policy_of(other, tee.client(runner).release(tee.result).policy)
    pinned = other.model_copy(update={"public_jwk": runner.key.public_jwk})
    with pytest.raises(IntegrityError, match="pinned"):
        tee.client(runner, key=pinned).release(tee.result)
    symmetric = services.create_key("another-oct", "oct-HSM")
    services.set_policy_of(symmetric, tee.client(runner).release(tee.result).policy)
    pinned = symmetric.model_copy(update={"check_value": "00" * 32})
    with pytest.raises(IntegrityError, match="pinned"):
        tee.client(runner, key=pinned).release(tee.result)


def test_refuses_roots_that_the_statement_does_not_pin(
    services: VaultInstallation, runner: VaultRunner, tee: AttestedTee
) -> None:
    with pytest.raises(UntrustedRootError):
        tee.client(runner, roots_pem=services.relay.authority_pem)
