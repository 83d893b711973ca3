"""The attestation service in this process: what it answers, what it refuses."""

import base64
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import MRENCLAVE, MRTD, NOW, Bench

from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, FLAG_INIT, FLAG_KSS, FLAG_MODE64BIT, SgxAttributes
from strongroom.attestation.evidence.snp_report import GuestPolicy
from strongroom.attestation.result import AttestationResult, verify_result
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    FormatError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    VerificationError,
)
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import new_identity, spki_sha256, to_pem
from strongroom.policy.evidence_policy import evidence_policy_hash
from strongroom.services.attestation_service import AttestationService, AttestationServiceConfig
from strongroom.services.endorsement_sources import FolderSettings
from strongroom.services.http import Call
from strongroom.services.identity import ServiceIdentity, open_identity
from strongroom.wire.key_service import PERSON_TOKEN_TYP, PersonToken
from strongroom.wire.trust import TrustedRootEntry

RUNTIME = b'{"hello":"world"}'
BOUND = hashlib.sha256(RUNTIME).digest() + bytes(32)
URL = "https://127.0.0.1:8443"
POLICY = (
    "version= 1.0;\nauthorizationrules\n{\n"
    f'\t[type=="x-ms-sgx-mrenclave", value=="{MRENCLAVE.hex()}"] && [type=="x-ms-sgx-is-debuggable", value==false]'
    " => permit();\n};\nissuancerules\n{\n"
    '\tc:[type=="x-ms-sgx-svn"] => issue(type="svn", value=c.value);\n'
    '\t=> issue(type="iss", value="https://somebody.else");\n};\n'
)


class FixedClock:
    def now(self) -> Any:
        return NOW


class Installation:
    def __init__(self, folder: Path, bench: Bench) -> None:
        self.bench = bench
        self.owner = SigningKey.generate("ES256")
        endorsements = folder / "endorsements"
        endorsements.mkdir()
        family = bench.platform.fmspc.hex()
        (endorsements / f"{family}.json").write_bytes(bench.endorsements.to_json())
        td = bench.platform.endorsements(now=NOW, tee="TDX")
        (endorsements / f"{family}-tdx.json").write_bytes(td.to_json())
        self.amd = amd_bench()
        self.crl = endorsements / f"{spki_sha256(self.amd.amd.root_der)}.crl"
        self.crl.write_bytes(bytes.fromhex(self.amd.endorsements().crl))
        self.config = AttestationServiceConfig(
            url=URL,
            host="127.0.0.1",
            port=1,
            state=str(folder / "state"),
            mode="owner-operated",
            owners=(self.owner.verifying_key.to_jwk(),),
            roots=tuple(
                TrustedRootEntry(certificate_pem=to_pem(root), simulated=True)
                for root in (bench.platform.root_der, self.amd.amd.root_der)
            ),
            endorsements=FolderSettings(path=str(endorsements)),
            platform=None,
        )
        self.identity: ServiceIdentity = open_identity(
            folder / "state", common_name="test", sans=("127.0.0.1",), now=NOW
        )
        self.service = self.start()

    def snp_report(self, **fields: Any) -> bytes:
        report = self.amd.amd.sign(self.amd.report(report_data=BOUND, **fields))
        chain = self.amd.endorsements().certificate_chain.encode()
        return json.dumps({"SnpReport": to_b64url(report), "VcekCertChain": to_b64url(chain)}).encode()

    def start(self) -> AttestationService:
        return AttestationService(self.config, identity=self.identity, clock=FixedClock())

    def token(self, **changed: Any) -> str:
        now = int(NOW.timestamp())
        subject = self.owner.verifying_key.thumbprint
        fields: dict[str, Any] = {"aud": self.identity.identity, "sub": subject, "iat": now, "exp": now + 60, **changed}
        payload = PersonToken(**fields).to_json()
        return sign_jws(payload, key=self.owner, header={"typ": PERSON_TOKEN_TYP, "kid": subject})

    def policy_token(self, text: str = POLICY, *, signer: SigningKey | None = None) -> str:
        key = signer or self.owner
        certificate = new_identity(
            common_name="policy signer", key=key, not_before=NOW.replace(year=2025), not_after=NOW.replace(year=2027)
        )
        body = canonical_json({"AttestationPolicy": to_b64url(text.encode())})
        return sign_jws(body, key=key, header={"x5c": [base64.b64encode(certificate).decode()]})

    def put(self, token: str, *, bearer: str | None = None, kind: str = "SgxEnclave") -> dict[str, Any]:
        call = self.call(token.encode(), bearer=bearer or self.token(), kind=kind)
        return parse_json_object(self.service.put_policy(call).body)

    def call(
        self,
        body: bytes = b"",
        *,
        bearer: str = "",
        kind: str = "SgxEnclave",
        **query: str,
    ) -> Call:
        return Call(
            path={"type": kind},
            query={"api-version": "2025-06-01", **query},
            authorization=f"Bearer {bearer}" if bearer else "",
            body=body,
        )

    def attest(self, *, runtime_data: bytes = RUNTIME, **changed: Any) -> str:
        return self.send("SgxEnclave", {"quote": self.bench.quote(report_data=BOUND, **changed)}, runtime_data)

    def send(
        self,
        kind: str,
        evidence: dict[str, bytes],
        runtime_data: bytes = RUNTIME,
        **more: Any,
    ) -> str:
        body = {name: to_b64url(value) for name, value in evidence.items()} | more
        body["runtimeData"] = {"data": to_b64url(runtime_data), "dataType": "JSON"}
        answer = parse_json_object(self.service.attest(self.call(json.dumps(body).encode(), kind=kind)).body)
        return str(answer["token"])

    def claims(self, token: str) -> AttestationResult:
        return verify_result(token, issuer=URL, verifying_key=self.identity.signing.key.verifying_key, now=NOW)


@pytest.fixture
def installed(tmp_path: Path) -> Installation:
    return Installation(tmp_path, Bench.new())


def test_signs_the_claims_of_verified_evidence_that_the_policy_permits(installed: Installation) -> None:
    installed.put(installed.policy_token())
    result = installed.claims(installed.attest())
    assert result.claims["x-ms-sgx-mrenclave"] == MRENCLAVE.hex()
    assert result.runtime == {"hello": "world"}
    assert result.policy_hash == evidence_policy_hash(POLICY)
    assert result.claims["x-ms-strongroom-hardware"] == "simulated"
    assert result.claims["svn"] == 1 or isinstance(result.claims["svn"], int)
    assert result.issuer == URL


def test_without_a_registered_policy_nothing_is_attested(installed: Installation) -> None:
    with pytest.raises(RefusedError):
        installed.attest()


def test_refuses_what_the_policy_does_not_permit_and_says_which_claim_differed(installed: Installation) -> None:
    installed.put(installed.policy_token())
    with pytest.raises(RefusedError) as refused:
        installed.attest(mrenclave=bytes(32))
    assert any("mrenclave" in mismatch.name for mismatch in refused.value.mismatches)


def test_refuses_runtime_data_that_the_quote_does_not_bind(installed: Installation) -> None:
    installed.put(installed.policy_token())
    with pytest.raises(VerificationError):
        installed.attest(runtime_data=b'{"hello":"mars"}')


def test_keeps_its_policy_over_a_restart(installed: Installation) -> None:
    installed.put(installed.policy_token())
    installed.service = installed.start()
    assert installed.attest()


def test_the_answer_to_a_stored_policy_names_its_hash_and_signer(installed: Installation) -> None:
    token = installed.policy_token()
    answer = json.loads(unverified_payload(installed.put(token)["token"]))
    assert answer["x-ms-policy-result"] == "Updated"
    assert answer["x-ms-policy-token-hash"] == to_b64url(hashlib.sha256(token.encode()).digest())
    assert VerifyingKey.from_jwk(answer["x-ms-policy-signer"]).thumbprint == installed.owner.verifying_key.thumbprint
    stored = parse_json_object(installed.service.get_policy(installed.call(bearer=installed.token())).body)["token"]
    assert json.loads(unverified_payload(stored))["x-ms-policy"] == token


def test_a_policy_with_a_fault_names_line_and_column_and_changes_nothing(installed: Installation) -> None:
    installed.put(installed.policy_token())
    with pytest.raises(FormatError, match="line"):
        installed.put(installed.policy_token("version= 1.0;\nauthorizationrules\n{\n => permit()\n"))
    assert installed.attest()


@pytest.mark.parametrize(
    "token",
    [
        lambda it: it.policy_token(signer=SigningKey.generate("ES256")),
        lambda it: to_b64url(b'{"alg":"none"}') + "." + it.policy_token().split(".")[1] + ".",
        lambda it: it.policy_token().rsplit(".", 1)[0] + "." + it.policy_token("version= 1.0;").rsplit(".", 1)[1],
    ],
    ids=["another signer", "no signature", "another policy's signature"],
)
def test_refuses_a_policy_that_no_policy_signer_signed(
    installed: Installation, token: Callable[[Installation], str]
) -> None:
    with pytest.raises((AuthenticationError, FormatError)):
        installed.put(token(installed))
    with pytest.raises(RefusedError):
        installed.attest()


@pytest.mark.parametrize(
    "changed",
    [{"aud": "0" * 64}, {"exp": int(NOW.timestamp()) - 1, "iat": int(NOW.timestamp()) - 60}],
    ids=["for another service", "expired"],
)
def test_policy_calls_need_a_person(installed: Installation, changed: dict[str, Any]) -> None:
    with pytest.raises(AuthenticationError):
        installed.put(installed.policy_token(), bearer=installed.token(**changed))
    with pytest.raises(AuthenticationError):
        installed.service.get_policy(installed.call())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b'{"quote":1}',
        b'{"quote":"AA","runtimeData":{"data":"AA","dataType":"XML"}}',
        b"\xff",
        b"{" * 9,
    ],
)
def test_malformed_requests_are_format_errors(installed: Installation, body: bytes) -> None:
    with pytest.raises(StrongroomError) as refused:
        installed.service.attest(installed.call(body))
    assert isinstance(refused.value, FormatError)


# --- trust domains and SEV-SNP guests --------------------------------------------------------------------------------


def permit(claim: str, value: str) -> str:
    return (
        f'version= 1.0;\nauthorizationrules\n{{\n\t[type=="{claim}", value=="{value}"] => permit();\n}};\n'
        f'issuancerules\n{{\n\tc:[type=="{claim}"] => issue(type="appraised", value=c.value);\n}};\n'
    )


def test_attests_a_trust_domain_under_its_own_policy(installed: Installation) -> None:
    quote = {"quote": installed.bench.td_quote(report_data=BOUND)}
    installed.put(installed.policy_token())  # for enclaves: it does not speak for trust domains
    with pytest.raises(RefusedError):
        installed.send("TdxVm", quote)
    installed.put(installed.policy_token(permit("tdx_mrtd", MRTD.hex())), kind="TdxVm")
    result = installed.claims(installed.send("TdxVm", quote, nonce="12"))
    assert result.claims["x-ms-attestation-type"] == "tdxvm"
    assert result.claims["appraised"] == MRTD.hex()
    assert result.claims["nonce"] == "12"
    assert result.runtime == {"hello": "world"}
    with pytest.raises(RefusedError):
        installed.send("TdxVm", {"quote": installed.bench.td_quote(report_data=BOUND, mrtd=bytes(48))})


def test_attests_an_sev_snp_guest_as_azures_clients_send_it(installed: Installation) -> None:
    with pytest.raises(RefusedError):
        installed.send("SevSnpVm", {"report": installed.snp_report()})
    measurement = bytes(range(48)).hex()
    installed.put(installed.policy_token(permit("x-ms-sevsnpvm-launchmeasurement", measurement)), kind="SevSnpVm")
    result = installed.claims(installed.send("SevSnpVm", {"report": installed.snp_report()}))
    assert result.claims["x-ms-attestation-type"] == "sevsnpvm"
    assert result.claims["appraised"] == measurement
    with pytest.raises(RefusedError, match="not safe"):
        installed.send("SevSnpVm", {"report": installed.snp_report(policy=GuestPolicy(debug=True))})


DEBUG = SgxAttributes(flags=FLAG_INIT | FLAG_MODE64BIT | FLAG_KSS | FLAG_DEBUG, xfrm=3)


def test_evidence_that_one_verifier_decided_passes_only_where_the_policy_names_why(installed: Installation) -> None:
    bench, enclave = installed.bench, f'[type=="x-ms-sgx-mrenclave", value=="{MRENCLAVE.hex()}"]'
    quotes = {
        "x-ms-sgx-is-debuggable": bench.quote(report_data=BOUND, attributes=DEBUG),
        "x-ms-strongroom-quote-version": bench.platform.quote(bench.report(report_data=BOUND), version=4),
    }
    for name, value in (("x-ms-sgx-is-debuggable", "true"), ("x-ms-strongroom-quote-version", "4")):
        installed.put(installed.policy_token(f"version=1.0; authorizationrules {{ {enclave} => permit(); }};"))
        with pytest.raises(RefusedError) as refused:
            installed.send("SgxEnclave", {"quote": quotes[name]})
        assert [each.name for each in refused.value.mismatches] == [name]
        named = f'{enclave} && [type=="{name}", value=={value}]'
        installed.put(installed.policy_token(f"version=1.0; authorizationrules {{ {named} => permit(); }};"))
        result = installed.claims(installed.send("SgxEnclave", {"quote": quotes[name]}))
        assert result.claims["x-ms-strongroom-verifiers"] == ["strongroom"]


def test_evidence_without_runtime_data_is_attested_and_binds_nothing(installed: Installation) -> None:
    installed.put(installed.policy_token())
    body = json.dumps({"quote": to_b64url(installed.bench.quote(report_data=bytes(64)))}).encode()
    token = parse_json_object(installed.service.attest(installed.call(body)).body)["token"]
    assert "x-ms-runtime" not in json.loads(unverified_payload(token))
    with pytest.raises(FormatError, match="runtime data"):  # nobody releases a key for it
        installed.claims(token)


def test_launch_time_data_must_be_what_the_host_fixed(installed: Installation) -> None:
    installed.put(
        installed.policy_token(permit("x-ms-sevsnpvm-launchmeasurement", bytes(range(48)).hex())), kind="SevSnpVm"
    )
    data = b'{"containers":[]}'
    launched = {"report": installed.snp_report(host_data=hashlib.sha256(data).digest())}
    told = {"data": to_b64url(data), "dataType": "JSON"}
    result = installed.claims(installed.send("SevSnpVm", launched, initTimeData=told))
    assert result.claims["x-ms-inittime"] == {"containers": []}
    with pytest.raises(VerificationError, match="initTimeData") as refused:
        installed.send("SevSnpVm", {"report": installed.snp_report()}, initTimeData=told)
    assert [each.name for each in refused.value.mismatches] == ["host data"]
    with pytest.raises(FormatError, match="initTimeData"):
        installed.send("TdxVm", {"quote": installed.bench.td_quote(report_data=BOUND)}, initTimeData=told)


def test_refuses_a_guest_whose_roots_revocation_list_is_not_here(installed: Installation) -> None:
    installed.crl.unlink()
    with pytest.raises(NotFoundError, match="revocation list"):
        installed.send("SevSnpVm", {"report": installed.snp_report()})


@pytest.mark.parametrize("report", [b"", b"[]", b"{}", b'{"SnpReport":"AA"}', b'{"SnpReport":1,"VcekCertChain":"AA"}'])
def test_malformed_reports_are_format_errors(installed: Installation, report: bytes) -> None:
    with pytest.raises(FormatError):
        installed.send("SevSnpVm", {"report": report})
    extended = json.loads(installed.snp_report()) | {"Endorsements": "AA"}
    with pytest.raises(FormatError, match="nothing else"):
        installed.send("SevSnpVm", {"report": json.dumps(extended).encode()})


@pytest.mark.parametrize("kind", ["OpenEnclave", "sgxenclave", ""])
def test_other_kinds_of_evidence_are_not_found(installed: Installation, kind: str) -> None:
    for ask in (installed.service.attest, installed.service.get_policy, installed.service.put_policy):
        with pytest.raises(NotFoundError, match="not supported"):
            ask(installed.call(b"{}", bearer=installed.token(), kind=kind))


def test_a_missing_or_unknown_api_version_is_refused(installed: Installation) -> None:
    for version in ({}, {"api-version": "2019-01-01"}):
        with pytest.raises(FormatError):
            installed.service.get_policy(Call(path={}, query=version, authorization="", body=b""))


@pytest.mark.parametrize("platform", ["sgx.000000000000.platform", "tdx.000000000000.processor", f"snp.{'0' * 64}"])
def test_unknown_platforms_have_no_endorsements(installed: Installation, platform: str) -> None:
    with pytest.raises(NotFoundError):
        installed.service.endorsements(installed.call(platform=platform))
