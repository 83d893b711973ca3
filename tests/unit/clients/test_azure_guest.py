"""Attestation from inside a confidential VM: a software TPM, a metadata service, the real service's process."""

import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.support.azure_guest import KINDS, Cloud, Guest, Metadata, attestation_service, guest
from tests.support.service_processes import RunningService
from tests.support.swtpm import OWNER, Paravisor, swtpm

from strongroom.attestation.attester.azure_vtpm import (
    AIK_CERTIFICATE_INDEX,
    USER_DATA_INDEX,
    AzureVtpm,
    MetadataService,
)
from strongroom.attestation.attester.tpm import Attested, Tpm
from strongroom.attestation.evidence.azure_vtpm import HclKind, parse_hcl_report
from strongroom.attestation.result import AttestationResult, verify_result
from strongroom.base.encoding import from_any_b64, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import FormatError, IntegrityError, LimitError, NotFoundError, UnavailableError
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.azure_guest import AzureMetadata, OperatingSystem, attest_guest, attest_vm, open_token
from strongroom.crypto.x509 import public_key
from strongroom.simulation.azure_vm import PARAVISOR

RUNTIME_DATA = b'{"application":"aa","nonces":{"key-service":"bb"},"role":"driver"}'
TEE = "x-ms-isolation-tee"

pytestmark = pytest.mark.needs_swtpm


@pytest.fixture(scope="module")
def cloud() -> Cloud:
    return Cloud.new()


@pytest.fixture(scope="module")
def service(cloud: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("attestation")
    folder.chmod(0o700)
    with attestation_service(folder, cloud) as running:
        yield running


@pytest.fixture(scope="module", params=KINDS)
def running(cloud: Cloud, request: pytest.FixtureRequest) -> Iterator[tuple[HclKind, Guest]]:
    with guest(cloud, request.param) as made:
        yield request.param, made


def result(service: RunningService, token: str) -> AttestationResult:
    key = public_key(AttestationClient(service.http()).certificates()[0])
    return verify_result(token, issuer=service.url, verifying_key=key, now=datetime.now(tz=UTC))


def test_azures_call_answers_what_the_hardware_the_paravisor_and_the_guest_say(
    service: RunningService, running: tuple[HclKind, Guest]
) -> None:
    kind, each = running
    system = OperatingSystem(distribution="Ubuntu", major=24, minor=4)
    token = attest_guest(service.http(), each.vtpm, runtime_data=RUNTIME_DATA, system=system, event_log=each.event_log)
    claims: Any = result(service, token).claims
    assert claims["x-ms-attestation-type"] == "azurevm"
    assert claims["x-ms-azurevm-attested-pcrs"] == list(range(8))
    assert (claims["x-ms-azurevm-vmid"], claims["x-ms-azurevm-ostype"]) == ("simulated", "Linux")
    assert (claims["x-ms-azurevm-osdistro"], claims["x-ms-azurevm-is-windows"]) == ("Ubuntu", False)
    assert (claims["x-ms-azurevm-osversion-major"], claims["x-ms-azurevm-osversion-minor"]) == (24, 4)
    assert claims["x-ms-azurevm-attestation-protocol-ver"] == "2.0"
    assert claims["secureboot"] is True  # the policy's
    tee = claims[TEE]
    assert tee["x-ms-runtime"]["keys"][0]["kid"] == "HCLAkPub"
    assert tee["x-ms-runtime"]["vm-configuration"]["secure-boot"] is True
    if kind == "snp":
        assert (tee["x-ms-attestation-type"], tee["x-ms-sevsnpvm-vmpl"]) == ("sevsnpvm", 0)
    else:
        assert (tee["x-ms-attestation-type"], tee["tdx_mrtd"]) == ("tdxvm", PARAVISOR.hex())
    [ephemeral] = claims["x-ms-runtime"]["keys"]
    assert (ephemeral["kid"], ephemeral["key_ops"]) == ("TpmEphemeralEncryptionKey", ["encrypt"])
    assert from_any_b64(claims["x-ms-runtime"]["client-payload"]["runtime-data"]) == RUNTIME_DATA
    assert claims["x-ms-strongroom-runtime-data-attested"] is True
    assert claims["x-ms-strongroom-event-log-replayed"] is True
    assert claims["x-ms-strongroom-hardware"] == "simulated"
    assert claims["x-ms-strongroom-pcr7"] == each.tpm.pcr_values((7,))[7].hex()


def test_our_call_answers_with_the_guests_runtime_data(service: RunningService, running: tuple[HclKind, Guest]) -> None:
    _, each = running
    found = result(service, attest_vm(service.http(), each.vtpm, runtime_data=RUNTIME_DATA))
    assert found.runtime == parse_json_object(RUNTIME_DATA)
    assert found.claims["x-ms-attestation-type"] == "azurevm"
    user_data: Any = found.claims[TEE]
    assert user_data["x-ms-runtime"]["user-data"].lower() == hashlib.sha512(RUNTIME_DATA).hexdigest()
    assert each.tpm.nv_read(USER_DATA_INDEX) == hashlib.sha512(RUNTIME_DATA).digest()


def test_what_only_azure_may_say_is_not_said(service: RunningService, running: tuple[HclKind, Guest]) -> None:
    _, each = running
    for attest in (attest_guest, attest_vm):
        text = from_b64url(attest(service.http(), each.vtpm, runtime_data=RUNTIME_DATA).split(".")[1]).decode()
        assert "compliance" not in text


def test_nothing_is_left_in_the_tpms_memory(service: RunningService, running: tuple[HclKind, Guest]) -> None:
    _, each = running
    attest_guest(service.http(), each.vtpm, runtime_data=RUNTIME_DATA)
    assert each.tpm.handles("transient") == ()


def test_the_attestation_keys_certificate_is_sent_where_there_is_one(running: tuple[HclKind, Guest]) -> None:
    _, each = running
    assert each.vtpm.attestation_key_certificate() == b""
    each.tpm.nv_write(AIK_CERTIFICATE_INDEX, b"certificate" + bytes(100))
    assert each.vtpm.attestation_key_certificate() == b"certificate" + bytes(100)
    each.tpm.execute(0x122, handles=(OWNER, AIK_CERTIFICATE_INDEX), passwords=1)


def test_refuses_more_runtime_data_than_a_verifier_takes(
    service: RunningService, running: tuple[HclKind, Guest]
) -> None:
    _, each = running
    for attest in (attest_guest, attest_vm):
        with pytest.raises(LimitError):
            attest(service.http(), each.vtpm, runtime_data=b" " * (17 << 10))


def test_refuses_an_event_log_larger_than_a_verifier_takes(
    service: RunningService, running: tuple[HclKind, Guest]
) -> None:
    with pytest.raises(LimitError, match="event log"):
        attest_guest(service.http(), running[1].vtpm, runtime_data=b"{}", event_log=bytes((1 << 20) + 1))


def test_changed_answers_do_not_open(service: RunningService, running: tuple[HclKind, Guest]) -> None:
    _, each = running
    values = each.vtpm.quote(b"").values
    sealed = capture(service, each)
    for name, value in sealed.items():
        if isinstance(value, str):
            changed = bytearray(from_any_b64(value))
            changed[0] ^= 1
            wrong = json.dumps(sealed | {name: to_b64url(bytes(changed))}).encode()
            with pytest.raises((IntegrityError, FormatError, UnavailableError)):
                open_token(to_b64url(wrong), vtpm=each.vtpm, values=values)
    for malformed in (b"{}", json.dumps(sealed | {"more": 1}).encode()):
        with pytest.raises(FormatError):
            open_token(to_b64url(malformed), vtpm=each.vtpm, values=values)


def capture(service: RunningService, each: Guest) -> dict[str, Any]:
    """The service's answer, sealed."""
    http, kept = service.http(), []

    class Recording:
        def request(self, *arguments: Any, **options: Any) -> Any:
            kept.append(http.request(*arguments, **options))
            return kept[-1]

    attest_guest(Recording(), each.vtpm, runtime_data=RUNTIME_DATA)  # type: ignore[arg-type]
    return parse_json_object(from_b64url(parse_json_object(kept[0].body)["token"]))


# --- a VM that is not one, or not in order ---------------------------------------------------------------------------


class Mute(MetadataService):
    def get(self, path: str) -> bytes:
        return b"{}" if path else b""

    def post(self, path: str, body: bytes) -> bytes:
        return b"{}" if path and body else b""


def test_a_tpm_without_a_paravisors_report_is_no_confidential_vm() -> None:
    with swtpm() as channel:
        vtpm = AzureVtpm(Tpm(channel), Mute())
        assert not vtpm.is_there()
        with pytest.raises(NotFoundError, match="no such key or index"):
            vtpm.hcl_report()


def test_a_confidential_vm_is_recognised(running: tuple[HclKind, Guest]) -> None:
    assert running[1].vtpm.is_there()


def test_a_paravisor_that_ignores_user_data_is_unavailable(cloud: Cloud) -> None:
    with guest(cloud) as each:
        paravisor = each.tpm._channel
        assert isinstance(paravisor, Paravisor)
        waited: list[float] = []
        vtpm = AzureVtpm(Tpm(paravisor._channel), Mute(), pause=waited.append)
        with pytest.raises(UnavailableError, match="no report with the user data"):
            vtpm.evidence(RUNTIME_DATA)
        assert sum(waited) >= 3


def test_registers_that_never_stand_still_are_unavailable(running: tuple[HclKind, Guest]) -> None:
    each = running[1]

    class Restless(Tpm):
        def quote(self, key: int, *, pcrs: Any, nonce: bytes) -> Attested:
            return super().quote(key, pcrs=pcrs[:1], nonce=nonce)

    with pytest.raises(UnavailableError, match="change while they are read"):
        AzureVtpm(Restless(each.tpm._channel), Mute()).quote(b"")


def test_metadata_services_that_answer_otherwise_are_errors(cloud: Cloud, running: tuple[HclKind, Guest]) -> None:
    each = running[1]
    vtpm = AzureVtpm(each.tpm, Mute())
    with pytest.raises(FormatError, match="no certificates"):
        vtpm.snp_certificates()
    with pytest.raises(FormatError, match="no quote"):
        vtpm.td_quote(parse_hcl_report(each.vtpm.hcl_report()))
    with pytest.raises(UnavailableError, match="does not answer"):
        AzureMetadata("http://127.0.0.1:1").get("/metadata/THIM/amd/certification")


def test_the_metadata_services_refusals_and_floods_are_errors(cloud: Cloud) -> None:
    with guest(cloud) as each:
        paravisor = each.tpm._channel
        assert isinstance(paravisor, Paravisor)
        served = Metadata("x" * 300_000 + cloud.snp_endorsements().certificate_chain, paravisor)
        with pytest.raises(LimitError):
            AzureMetadata(served.url).get("/metadata/THIM/amd/certification")
        with pytest.raises(UnavailableError, match="answers 501"):
            AzureMetadata(served.url)._request("PUT", "/", b"")
        served.close()
