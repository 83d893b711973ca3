"""Whose attestation results a key service believes: ours by identity, Azure's by certificate authorities."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.key_service import POLICY_HASH, KeyBench, Tee
from tests.support.platform import NOW
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import ConfigurationError, RefusedError, VerificationError
from strongroom.clients.attestation import AttestationClient
from strongroom.clients.pinned import ServiceHttp
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem
from strongroom.policy.approval import PlatformDemand
from strongroom.policy.back_ends import Demand
from strongroom.services.issuers import AzureAttestationSettings, TrustedIssuers, configured_issuers

KEY = SigningKey.generate("RS256")
RUNTIME_DATA = b'{"said":"by the TEE"}'


class Clock:
    def now(self) -> Any:
        return NOW


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("issuers")) as made:
        yield made


def azure(installed: Installation, authorities_pem: str | None) -> AzureAttestationSettings:
    return AzureAttestationSettings(
        kind="azure-attestation", url=installed.attestation.url, authorities_pem=authorities_pem
    )


def evidence(installed: Installation) -> UnverifiedEvidence:
    bound = hashlib.sha256(RUNTIME_DATA).digest() + bytes(32)
    quote = installed.platform.quote(report_data=bound)
    return UnverifiedEvidence(kind="sgx", quote=quote, runtime_data=RUNTIME_DATA)


def test_a_service_that_speaks_azures_contract_is_asked_and_believed_by_its_address(installed: Installation) -> None:
    authorities = installed.attestation.certificate_pem
    client = AttestationClient(ServiceHttp(installed.attestation.url, authorities_pem=authorities))
    issuers = configured_issuers([azure(installed, authorities)], clock=CLOCK)
    result = issuers.verify(client.attest(evidence(installed)))
    assert result.runtime == {"said": "by the TEE"}
    # Ours says that its hardware is simulated; whoever configures it as Azure's does not make it real.
    assert result.claims["x-ms-strongroom-hardware"] == "simulated"


@pytest.mark.parametrize("authorities", ["another", "the machine's"])
def test_another_authority_vouches_for_nothing(installed: Installation, authorities: str) -> None:
    key = SigningKey.generate("ES256")
    other = new_identity(
        common_name="other", key=key, not_before=NOW.replace(year=2025), not_after=NOW.replace(year=2035)
    )
    pem = to_pem(other) if authorities == "another" else None
    with pytest.raises(VerificationError, match="no accepted authority"):
        AttestationClient(ServiceHttp(installed.attestation.url, authorities_pem=pem)).attest(evidence(installed))
    token = AttestationClient(installed.attestation.http()).attest(evidence(installed))
    with pytest.raises(VerificationError, match="no accepted authority"):
        configured_issuers([azure(installed, pem)], clock=CLOCK).verify(token)


def test_authorities_that_are_none_are_a_mistake_in_the_configuration(installed: Installation) -> None:
    with pytest.raises(ConfigurationError, match="authorities"):
        configured_issuers([azure(installed, "no certificates")], clock=CLOCK)


def result(**claims: Any) -> str:
    now = int(NOW.timestamp())
    said = {"iss": "https://a.test", "nbf": now, "exp": now + 60, "x-ms-policy-hash": POLICY_HASH, "x-ms-runtime": {}}
    return sign_jws(canonical_json({**said, **claims}), key=KEY, header={"typ": "JWT", "kid": "k"})


def issuers(*, azure: bool) -> TrustedIssuers:
    where = "https://a.test"
    sources = {where: lambda _header, _now: KEY.verifying_key}
    return TrustedIssuers(sources, clock=Clock(), azure={where} if azure else set())


def test_hardware_is_real_where_azure_vouches_for_it_and_unknown_elsewhere() -> None:
    assert issuers(azure=True).verify(result()).claims["x-ms-strongroom-hardware"] == "real"
    assert "x-ms-strongroom-hardware" not in issuers(azure=False).verify(result()).claims
    simulated = result(**{"x-ms-strongroom-hardware": "simulated"})
    assert issuers(azure=True).verify(simulated).claims["x-ms-strongroom-hardware"] == "simulated"


def test_an_approval_that_azure_cannot_enforce_is_refused_and_what_it_can_is_released(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path, hardware="real", azure=True)
    bench.create_dataset("trips")
    bench.create_dataset("report")
    bench.trips, _ = bench.import_version("trips")
    listed = {"machines": ["ppid:" + "0a" * 16], "min_tcb_evaluation_data_number": 17, "min_crl_number": 1}
    with pytest.raises(RefusedError, match="Azure Attestation") as refusal:
        bench.approve("trips", "read", platform=PlatformDemand.from_object(listed))
    assert {each.name for each in refusal.value.mismatches} == {
        *(Demand.HARDWARE_LIST, Demand.TCB_EVALUATION, Demand.CRL_NUMBER)
    }
    any_machine = PlatformDemand(machines="any", min_tcb_evaluation_data_number=None, min_crl_number=None)
    with pytest.raises(RefusedError, match="Azure Attestation") as refusal:
        bench.approve("trips", "read", platform=any_machine, tees=("sgx", "tdx"))
    assert Demand.EVIDENCE in {each.name for each in refusal.value.mismatches}
    bench.approve("trips", "read", platform=any_machine)
    bench.approve("report", "write", platform=any_machine)
    bench.open(Tee(), bench.ticket(), claims={"x-ms-strongroom-hardware": "real"})
    bench.store.close()


def test_our_own_service_is_asked_for_every_number_it_can_say(tmp_path: Path) -> None:
    bench = KeyBench(tmp_path, hardware="real")
    bench.create_dataset("trips")
    bare = PlatformDemand(machines="any", min_tcb_evaluation_data_number=None, min_crl_number=None)
    with pytest.raises(RefusedError, match="fresh") as refusal:
        bench.approve("trips", "read", platform=bare)
    assert {each.name for each in refusal.value.mismatches} == {Demand.TCB_EVALUATION, Demand.CRL_NUMBER}
    with pytest.raises(RefusedError, match="fresh") as refusal:
        bench.approve("trips", "read", platform=bare, tees=("snp",))
    assert {each.name for each in refusal.value.mismatches} == {Demand.CRL_NUMBER}
    bench.store.close()
