"""Guests of confidential VMs that lie: about their TPM, their state, their hardware, or the key to answer to."""

import base64
import contextlib
import functools
import hashlib
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.azure_guest import KINDS, Cloud, Guest, attestation_service, guest
from tests.support.service_processes import RunningService
from tests.support.simulated_guest import ATTRIBUTES, RUNTIME_DATA, SimulatedGuest, b64, tpm_public
from tests.support.swtpm import BOOT, NULL, create_key, event_log, extend

from strongroom.attestation.attester.azure_vtpm import AK_HANDLE
from strongroom.attestation.evidence.azure_vtpm import HclKind, parse_hcl_report
from strongroom.attestation.evidence.tpm import RESTRICTED, SIGN, USER_WITH_AUTH, policy_of_registers
from strongroom.attestation.verifier import TrustedRoots
from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.base.errors import (
    FormatError,
    IntegrityError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    UntrustedRootError,
    VerificationError,
)
from strongroom.clients.azure_guest import OperatingSystem, attest_guest, attest_vm, attestation_info, open_token
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity

NONCE = hashlib.sha256(RUNTIME_DATA).digest()


@functools.cache
def cloud() -> Cloud:
    return Cloud.new()


@functools.cache
def simulated(kind: HclKind = "snp") -> SimulatedGuest:
    return SimulatedGuest(cloud=cloud(), kind=kind)


def names(refused: pytest.ExceptionInfo[StrongroomError]) -> set[str]:
    return {mismatch.name for mismatch in refused.value.mismatches}


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_attacked_here_verifies_without_the_attack(kind: HclKind) -> None:
    verified = simulated(kind).verify()
    assert (verified.runtime_data, verified.hcl.kind, verified.log_replayed) == (RUNTIME_DATA, kind, False)
    assert verified.ephemeral_key.thumbprint == simulated(kind).ephemeral.verifying_key.thumbprint


# --- whose TPM -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_a_quote_by_another_tpms_key(kind: HclKind) -> None:
    each = simulated(kind)
    other = SigningKey.generate("RS256", rsa_bits=2048)
    with pytest.raises(VerificationError, match="signature"):
        each.verify(each.info(tpm=each.quoted(by=other)))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_everything_of_another_tpm_under_this_vms_hardware(kind: HclKind) -> None:
    """Mix and match: one VM's report, another's TPM, whole."""
    each, other = simulated(kind), SimulatedGuest(cloud=cloud(), kind=kind)
    with pytest.raises(VerificationError, match="not the one that the hardware vouches for") as refused:
        each.verify(each.info(TpmInfo=other.tpm_info()))
    assert names(refused) == {"AikPub"}


def test_refuses_a_document_that_names_another_key_under_this_hardwares_report() -> None:
    each, other = simulated(), SimulatedGuest(cloud=cloud())
    mixed = each.isolation()
    mixed["Evidence"]["RunTimeData"] = other.isolation()["Evidence"]["RunTimeData"]
    with pytest.raises(VerificationError, match="does not vouch"):
        each.verify(other.info(IsolationInfo=mixed))


def test_refuses_a_certificate_of_another_key() -> None:
    each, key, day = simulated(), SigningKey.generate("RS256", rsa_bits=2048), timedelta(1)
    now = datetime.now(tz=UTC)

    def certificate(of: SigningKey) -> bytes:
        return new_identity(common_name="AIK", key=of, not_before=now - day, not_after=now + day)

    own = certificate(each.vm.key) + bytes(100)  # as an NV index holds it
    assert each.verify(each.info(tpm={"AikCert": b64(own)}))
    with pytest.raises(VerificationError) as refused:
        each.verify(each.info(tpm={"AikCert": b64(certificate(key))}))
    assert names(refused) == {"AikCert"}
    for malformed in (own + b"x", b"0\x82", b"certificate"):
        with pytest.raises(FormatError):
            each.verify(each.info(tpm={"AikCert": b64(malformed)}))


# --- which state -----------------------------------------------------------------------------------------------------


def test_refuses_edited_register_values() -> None:
    each = simulated()
    values = each.tpm_info()["PCRs"]
    edited = [values[0] | {"Digest": b64(bytes(32))}, *values[1:]]
    with pytest.raises(VerificationError, match="other register values"):
        each.verify(each.info(tpm={"PCRs": edited}))


def test_refuses_register_values_under_other_numbers() -> None:
    """The digest covers values only: what was PCR 7 must not pass for PCR 23."""
    each = simulated()
    values = each.tpm_info()["PCRs"]
    moved = [*values[:-1], values[-1] | {"Index": 23}]
    with pytest.raises(VerificationError, match="other registers"):
        each.verify(each.info(tpm={"PCRs": moved, "PcrSet": [*range(7), 23]}))
    for wrong in ({"PcrSet": [0]}, {"PCRs": [*values, values[0]]}, {"PCRs": values[1:], "PcrSet": list(range(1, 8))}):
        with pytest.raises(FormatError):
            each.verify(each.info(tpm=wrong))


def test_refuses_an_event_log_that_leads_elsewhere() -> None:
    each = simulated()
    with pytest.raises(VerificationError, match="event log") as refused:
        each.verify(each.info(TcgLogs=b64(event_log(BOOT))))
    assert names(refused) == {f"pcr {number}" for number in range(8)}


# --- the key to answer to --------------------------------------------------------------------------------------------


def test_refuses_an_ephemeral_key_that_the_tpm_did_not_certify() -> None:
    each = simulated()
    with pytest.raises(VerificationError, match="signature"):
        each.verify(each.info(tpm=each.certified(by=SigningKey.generate("RS256", rsa_bits=2048))))
    thief = SigningKey.generate("RS256", rsa_bits=2048).verifying_key
    policy = policy_of_registers(range(8), each.digest)
    stolen = b64(tpm_public(thief, attributes=ATTRIBUTES, policy=policy))
    with pytest.raises(VerificationError, match="ephemeral key") as refused:
        each.verify(each.info(tpm={"EncKeyPub": stolen}))
    assert names(refused) == {"name"}


def test_refuses_the_quote_in_place_of_a_certification() -> None:
    each = simulated()
    quote = each.quoted()
    swapped = {"EncKeyCertifyInfo": quote["PcrQuote"], "EncKeyCertifyInfoSignature": quote["PcrSignature"]}
    with pytest.raises(FormatError, match="certification"):
        each.verify(each.info(tpm=swapped))


@pytest.mark.parametrize("attributes", [ATTRIBUTES & ~(1 << bit) for bit in (1, 4, 5, 17)], ids=hex)
def test_refuses_a_key_that_can_leave_the_tpm_or_came_from_outside(attributes: int) -> None:
    each = simulated()
    with pytest.raises(VerificationError) as refused:
        each.verify(each.info(tpm=each.certified(attributes=attributes)))
    assert names(refused) == {"attributes"}


@pytest.mark.parametrize("more", [USER_WITH_AUTH, RESTRICTED, SIGN])
def test_refuses_a_key_that_works_in_other_states_or_for_other_uses(more: int) -> None:
    each = simulated()
    with pytest.raises(VerificationError) as refused:
        each.verify(each.info(tpm=each.certified(attributes=ATTRIBUTES | more)))
    assert names(refused) == {"attributes"}
    for policy in (b"", bytes(32), policy_of_registers((0,), each.digest)):
        with pytest.raises(VerificationError) as refused:
            each.verify(each.info(tpm=each.certified(policy=policy)))
        assert names(refused) == {"policy"}


def test_refuses_a_key_of_another_boot_or_another_moment() -> None:
    each = simulated()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"reset_count": 2}, "reset count"),
        ({"restart_count": 1}, "restart count"),
        ({"nonce": hashlib.sha256(b"earlier").digest()}, "qualifying data"),
        ({"nonce": b""}, "qualifying data"),
    ]
    for changed, name in changes:
        with pytest.raises(VerificationError) as refused:
            each.verify(each.info(tpm=each.certified(**changed)))
        assert names(refused) == {name}


# --- freshness -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [{"runtime-data": b64(b'{"run":"2"}')}, {"other": b64(RUNTIME_DATA)}, {}, None])
def test_refuses_a_replayed_quote_for_other_runtime_data(payload: Any) -> None:
    each = simulated()
    with pytest.raises(VerificationError, match="does not bind this client payload"):
        each.verify(each.info(ClientPayload=payload))


def test_what_the_tpm_did_not_attest_is_not_called_attested() -> None:
    """Azure's own client has the TPM attest no nonce at all."""
    each = simulated()
    plain = each.quoted(b"") | each.certified(nonce=b"")
    verified = each.verify(each.info(tpm=plain, ClientPayload={"runtime-data": b64(b"anything")}))
    assert verified.runtime_data is None


# --- hardware --------------------------------------------------------------------------------------------------------


def test_refuses_hardware_of_one_kind_under_the_name_of_the_other() -> None:
    snp, tdx = simulated("snp"), simulated("tdx")
    for each, other in ((snp, tdx), (tdx, snp)):
        renamed = each.isolation() | {"Type": other.isolation()["Type"]}
        with pytest.raises(FormatError):
            each.verify(each.info(IsolationInfo=renamed))
        with pytest.raises(FormatError, match="other hardware"):
            each.verify(endorsements=cloud().endorsements(other.kind))
        with pytest.raises(VerificationError):  # the other machine's evidence, honestly named
            each.verify(each.info(IsolationInfo=other.isolation()), endorsements=cloud().endorsements(other.kind))


def test_refuses_vms_that_no_hardware_isolates() -> None:
    each = simulated()
    with pytest.raises(RefusedError, match="no hardware isolates"):
        each.verify(each.info(IsolationInfo={"Type": "TrustedLaunch"}))
    with pytest.raises(FormatError, match="Evidence"):
        each.verify(each.info(IsolationInfo={"Type": "SevSnp"}))


@pytest.mark.parametrize("kind", KINDS)
def test_refuses_without_trusted_roots(kind: HclKind) -> None:
    with pytest.raises(UntrustedRootError):
        simulated(kind).verify(trusted_roots=TrustedRoots(roots=()))


def test_refuses_the_real_report_of_one_machine_with_the_tpm_of_another(shared: Path) -> None:
    """A real HCL report and a real quote, which are of two VMs; and a real report with our TPM."""
    folder = shared / "vectors" / "azure-vtpm"
    real = parse_hcl_report((folder / "az_hcl_snp.bin").read_bytes())
    chain = (folder / "az_vcek_chain.pem").read_bytes()
    proof = {"SnpReport": to_b64url(real.hardware_report), "VcekCertChain": b64(chain)}
    isolation = {
        "Type": "SevSnp",
        "Evidence": {"Proof": b64(json.dumps(proof).encode()), "RunTimeData": b64(real.runtime_data)},
    }
    each = simulated()
    with pytest.raises(UntrustedRootError):  # the real root is not one of the simulated cloud's
        each.verify(
            each.info(IsolationInfo=isolation),
            endorsements=cloud().snp_endorsements().model_copy(update={"certificate_chain": chain.decode()}),
        )
    mixed = each.isolation()
    mixed["Evidence"]["RunTimeData"] = b64(real.runtime_data)
    with pytest.raises(VerificationError, match="does not vouch"):
        each.verify(each.info(IsolationInfo=mixed))
    quote = {
        "PcrQuote": b64((folder / "az_tpm_quote.msg").read_bytes()),
        "PcrSignature": b64((folder / "az_tpm_quote.sig").read_bytes()),
    }
    with pytest.raises(VerificationError, match="signature"):
        each.verify(each.info(tpm=quote))


# --- a real TPM, and the service's process ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    folder = tmp_path_factory.mktemp("attestation")
    folder.chmod(0o700)
    with attestation_service(folder, cloud()) as running:
        yield running


@pytest.fixture(scope="module")
def honest() -> Iterator[Guest]:
    with guest(cloud()) as running:
        yield running


def send(service: RunningService, info: dict[str, Any]) -> bytes:
    body = canonical_json({"AttestationInfo": to_b64url(json.dumps(info).encode())})
    return service.http().request("POST", "/attest/AzureGuest?api-version=2020-10-01", body=body).require_success()


def collect(who: Guest, *, log: bytes | None = None, runtime_data: bytes = RUNTIME_DATA) -> dict[str, Any]:
    info, _ = attestation_info(
        who.vtpm, runtime_data=runtime_data, system=OperatingSystem(), event_log=who.event_log if log is None else log
    )
    parsed: dict[str, Any] = json.loads(info.to_json())
    return parsed


@pytest.mark.needs_swtpm
def test_the_service_refuses_each_of_these(service: RunningService, honest: Guest) -> None:
    good = collect(honest)
    assert send(service, good)
    with guest(cloud()) as other:
        foreign = collect(other)
    attacks: dict[str, dict[str, Any]] = {
        "another VM's TPM": good | {"TpmInfo": foreign["TpmInfo"]},
        "another VM's hardware": good | {"IsolationInfo": foreign["IsolationInfo"]},
        "another VM's key to answer to": good
        | {
            "TpmInfo": good["TpmInfo"]
            | {name: foreign["TpmInfo"][name] for name in good["TpmInfo"] if "EncKey" in name}
        },
        "edited registers": good
        | {
            "TpmInfo": good["TpmInfo"]
            | {"PCRs": [good["TpmInfo"]["PCRs"][1] | {"Index": 0}, *good["TpmInfo"]["PCRs"][1:]]}
        },
        "a log with an event more": good | {"TcgLogs": b64(event_log([*BOOT, (4, 13, b"more")]))},
        "a log with an event less": good | {"TcgLogs": b64(event_log(BOOT[:-1]))},
        "an old quote": good | {"ClientPayload": {"runtime-data": b64(b'{"run":"2"}')}},
    }
    assert {name for name, info in attacks.items() if accepted(service, info)} == set()


def accepted(service: RunningService, info: dict[str, Any]) -> bool:
    with contextlib.suppress(VerificationError):
        send(service, info)
        return True
    return False


@pytest.mark.needs_swtpm
def test_the_policy_sees_the_paravisors_word(service: RunningService) -> None:
    with guest(cloud(), **{"secure-boot": False}) as insecure:
        for attest in (attest_guest, attest_vm):
            with pytest.raises(RefusedError):
                attest(service.http(), insecure.vtpm, runtime_data=RUNTIME_DATA)


@pytest.mark.needs_swtpm
def test_another_tpm_does_not_open_the_answer(service: RunningService, honest: Guest) -> None:
    token = json.loads(send(service, collect(honest)))["token"]
    values = honest.vtpm.quote(NONCE).values
    assert open_token(token, vtpm=honest.vtpm, values=values).count(".") == 2
    with guest(cloud()) as other, pytest.raises((IntegrityError, UnavailableError, FormatError)):
        open_token(token, vtpm=other.vtpm, values=values)


@pytest.mark.needs_swtpm
def test_the_tpm_does_not_open_the_answer_in_another_state(service: RunningService) -> None:
    with guest(cloud()) as changed:
        values = changed.vtpm.quote(NONCE).values
        token = json.loads(send(service, collect(changed)))["token"]
        extend(changed.tpm, 7, hashlib.sha256(b"something else was booted").digest())
        with pytest.raises(UnavailableError):
            open_token(token, vtpm=changed.vtpm, values=values)
        with pytest.raises(VerificationError, match="event log"):
            send(service, collect(changed))


@pytest.mark.needs_swtpm
def test_a_certified_key_without_a_policy_is_refused(service: RunningService, honest: Guest) -> None:
    """The real TPM certifies whatever key is shown to it; how the key may be used is ours to check."""
    good = collect(honest)
    key = create_key(honest.tpm, hierarchy=NULL, attributes=ATTRIBUTES | USER_WITH_AUTH)
    try:
        attested = honest.tpm.certify(key.handle, key=AK_HANDLE, nonce=NONCE)
    finally:
        honest.tpm.flush(key.handle)
    good["TpmInfo"] |= {
        "EncKeyPub": b64(key.public),
        "EncKeyCertifyInfo": b64(attested.attest),
        "EncKeyCertifyInfoSignature": b64(attested.signature),
    }
    with pytest.raises(VerificationError) as refused:
        send(service, good)
    assert "ephemeral key" in refused.value.message


def vm_request(honest: Guest, **changed: Any) -> dict[str, Any]:
    evidence = honest.vtpm.evidence(RUNTIME_DATA)
    request: dict[str, Any] = {
        "hclReport": to_b64url(evidence.hcl_report),
        "certificates": cloud().snp_endorsements().certificate_chain,
        "tpmQuote": to_b64url(evidence.tpm_quote),
        "tpmSignature": to_b64url(evidence.tpm_signature),
        "pcrs": {str(pcr): value.hex() for pcr, value in enumerate(evidence.pcr_values)},
        "runtimeData": to_b64url(RUNTIME_DATA),
    }
    return request | changed


def send_vm(service: RunningService, request: dict[str, Any]) -> bytes:
    http = service.http()
    return http.request("POST", "/strongroom/v1/attest/AzureVm", body=canonical_json(request)).require_success()


@pytest.mark.needs_swtpm
def test_our_own_call_refuses_mixes_replays_and_moved_registers(service: RunningService, honest: Guest) -> None:
    good = vm_request(honest)
    assert send_vm(service, good)
    with guest(cloud()) as other:
        foreign = vm_request(other)
    for changed in (
        {"hclReport": foreign["hclReport"]},
        {"tpmQuote": foreign["tpmQuote"], "tpmSignature": foreign["tpmSignature"]},
        {"runtimeData": to_b64url(b'{"run":"2"}')},
        {"pcrs": good["pcrs"] | {"7": "00" * 32}},
    ):
        with pytest.raises(VerificationError):
            send_vm(service, good | changed)
    moved = {pcr: value for pcr, value in good["pcrs"].items() if pcr != "7"} | {"9": good["pcrs"]["7"]}
    for malformed in (
        {"pcrs": moved},
        {"tdQuote": "AAAA"},
        {"certificates": None},
        {"certificates": "none"},
        {"pcrs": {"24": "00" * 32}},
        {"surprise": 1},
    ):
        with pytest.raises(FormatError):
            send_vm(service, good | malformed)


@pytest.mark.needs_swtpm
def test_nothing_malformed_is_the_services_own_fault(service: RunningService, honest: Guest) -> None:
    good = collect(honest)
    http = service.http()
    path = "/attest/AzureGuest?api-version=2020-10-01"
    bodies = [
        b"",
        b"[]",
        b"{}",
        b'{"AttestationInfo":1}',
        b'{"AttestationInfo":"e30","attestationInfo":"e30"}',
        b'{"AttestationInfo":"%%"}',
        *(
            canonical_json({"attestationInfo": base64.b64encode(json.dumps(each).encode()).decode()})
            for each in (
                {},
                good | {"surprise": 1},
                good | {"TcgLogs": "AAAA"},
                good | {"OSType": b64(b"\xff")},
                good | {"ClientPayload": {"n" * 129: ""}},
                good | {"ClientPayload": {"runtime-data": "A" * 40_000}},
                good | {"AttestationProtocolVersion": "1.0"},
                good | {"IsolationInfo": good["IsolationInfo"] | {"Evidence": {"Proof": "e30", "RunTimeData": "e30"}}},
                *(
                    {**good, "TpmInfo": {**good["TpmInfo"], name: "QUJD"}}
                    for name in good["TpmInfo"]
                    if "P" not in name[:1]
                ),
            )
        ),
    ]
    for body in bodies:
        assert 400 <= http.request("POST", path, body=body).status < 500, body[:80]
    accepted_body = canonical_json({"attestationInfo": to_b64url(json.dumps(good).encode())})
    assert http.request("POST", path, body=accepted_body).status == 200
    for version in ("", "?api-version=2019-01-01"):
        assert http.request("POST", f"/attest/AzureGuest{version}", body=accepted_body).status == 400


def test_a_missing_revocation_list_is_no() -> None:
    without = cloud().snp_endorsements().model_copy(update={"crl": ""})
    with pytest.raises(FormatError, match="revocation"):
        simulated().verify(endorsements=without)
