"""The attestation service in this process: what it answers, what it refuses."""

import hashlib
import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.attestation_service import BOUND, POLICY, RUNTIME, URL, Installation
from tests.support.platform import MRENCLAVE, MRTD, NOW, Bench

from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.initdata import launch_value_of, parse_initdata, render_initdata
from strongroom.attestation.evidence.pck import SGX_EXTENSION, pck_chain
from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, FLAG_INIT, FLAG_KSS, FLAG_MODE64BIT, SgxAttributes
from strongroom.attestation.evidence.snp_report import GuestPolicy
from strongroom.base.encoding import from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import (
    AuthenticationError,
    FormatError,
    LimitError,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
    VerificationError,
)
from strongroom.base.limits import LIMITS
from strongroom.crypto import der
from strongroom.crypto.jose import unverified_header, unverified_payload, verify_jws
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.crypto.x509 import CertificateRequest, Extension, issue_certificate, to_pem
from strongroom.policy.evidence_policy import evidence_policy_hash
from strongroom.services.attestation_errors import attestation_error
from strongroom.services.http import Call
from strongroom.services.policy_tokens import unsigned_policy


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, Bench.new())
    yield made
    made.store.close()


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
    installed.restart()
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


def test_time_does_not_go_back_behind_what_a_vendor_signed(installed: Installation) -> None:
    installed.put(installed.policy_token())
    installed.attest()
    newest = installed.store.newest_signed_time.get()
    assert newest is not None
    installed.clock.at = newest
    installed.attest()
    installed.restart()
    installed.clock.at = newest - timedelta(seconds=1)
    with pytest.raises(UnavailableError, match="clock"):
        installed.attest()


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


LAUNCHED = {"SevSnpVm": ("x-ms-sevsnpvm-launchmeasurement", bytes(range(48)).hex()), "TdxVm": ("tdx_mrtd", MRTD.hex())}
POD_CLAIMS = {
    "x-ms-strongroom-initdata",
    "x-ms-strongroom-initdata-application",
    "x-ms-strongroom-pod-configuration",
    "x-ms-strongroom-pod-template",
    "x-ms-strongroom-image",
}


def pod_evidence(installed: Installation, kind: str, launched_with: bytes) -> dict[str, bytes]:
    if kind == "SevSnpVm":
        return {"report": installed.snp_report(host_data=launched_with)}
    return {"quote": installed.bench.td_quote(report_data=BOUND, mrconfigid=launched_with)}


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
@pytest.mark.parametrize("kind", ["SevSnpVm", "TdxVm"])
def test_a_pods_initdata_stand_in_the_result_where_it_was_launched_with_them(
    installed: Installation, kind: str, algorithm: Any
) -> None:
    claim, value = LAUNCHED[kind]
    installed.put(installed.policy_token(permit(claim, value)), kind=kind)
    image = "sha256:" + "c3" * 32
    policy = f'package agent_policy\nstrongroom_image := "registry.example/spark@{image}"\n'
    document = render_initdata({"policy.rego": policy}, application="a1" * 32, algorithm=algorithm)
    told = {"data": to_b64url(document), "dataType": "TOML"}
    field = launch_value_of(document, kind="snp" if kind == "SevSnpVm" else "tdx", algorithm=algorithm)
    claims = installed.claims(installed.send(kind, pod_evidence(installed, kind, field), initTimeData=told)).claims
    initdata = parse_initdata(document)
    assert {name: value for name, value in claims.items() if name in POD_CLAIMS} == {
        "x-ms-strongroom-initdata": hashlib.sha256(document).hexdigest(),
        "x-ms-strongroom-initdata-application": "a1" * 32,
        "x-ms-strongroom-pod-configuration": initdata.configuration,
        "x-ms-strongroom-pod-template": initdata.template,
        "x-ms-strongroom-image": image,
    }
    other = render_initdata({"policy.rego": policy}, application="b2" * 32, algorithm=algorithm)
    for shown, launched in ((other, field), (document, bytes(len(field)))):
        with pytest.raises(VerificationError, match="not launched with this initdata"):
            installed.send(
                kind,
                pod_evidence(installed, kind, launched),
                initTimeData={"data": to_b64url(shown), "dataType": "TOML"},
            )


def test_nothing_is_claimed_of_initdata_that_nobody_sent_or_that_is_of_azures_types(installed: Installation) -> None:
    claim, value = LAUNCHED["SevSnpVm"]
    installed.put(installed.policy_token(permit(claim, value)), kind="SevSnpVm")
    document = render_initdata({}, application="a1" * 32)
    evidence = pod_evidence(installed, "SevSnpVm", hashlib.sha256(document).digest())
    binary = {"data": to_b64url(document), "dataType": "Binary"}
    for more in ({}, {"initTimeData": binary}):
        claims = installed.claims(installed.send("SevSnpVm", evidence, **more)).claims
        assert not POD_CLAIMS & set(claims)


@pytest.mark.parametrize(
    "told",
    [
        {"data": to_b64url(b"version = 1"), "dataType": "TOML"},
        {"data": to_b64url(render_initdata({}, application="a1" * 32)), "dataType": "toml"},
        {"data": to_b64url(render_initdata({}, application="a1" * 32)), "dataType": "TOML", "more": 1},
        {"data": 1, "dataType": "TOML"},
    ],
)
def test_malformed_initdata_are_format_errors(installed: Installation, told: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        installed.send("SevSnpVm", {"report": installed.snp_report()}, initTimeData=told)


def test_initdata_are_bounded_and_an_enclave_has_none(installed: Installation) -> None:
    large = {"data": to_b64url(bytes(LIMITS.initdata_bytes + 1)), "dataType": "TOML"}
    with pytest.raises(LimitError):
        installed.send("SevSnpVm", {"report": installed.snp_report()}, initTimeData=large)
    told = {"data": to_b64url(render_initdata({}, application="a1" * 32)), "dataType": "TOML"}
    with pytest.raises(FormatError, match="initTimeData"):
        installed.send("SgxEnclave", {"quote": installed.bench.quote(report_data=BOUND)}, initTimeData=told)


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


def test_the_answer_to_a_body_with_half_a_character_is_an_error_in_azures_shape(installed: Installation) -> None:
    body = b'{"quote":"AA","\\ud800":1}'
    with pytest.raises(FormatError) as refused:
        installed.service.attest(installed.call(body))
    reply = attestation_error(refused.value)
    assert reply.status == 400
    assert parse_json_object(reply.body)["error"]["code"] == "InvalidParameter"


def test_an_endless_object_identifier_in_a_certificate_is_a_format_error(installed: Installation) -> None:
    """Certificates are read before anything is verified: to look up the platform's endorsements."""
    endless = der.encode(der.OBJECT_IDENTIFIER, b"\x2a" + b"\xff" * 3000 + b"\x7f")
    value = der.encode_sequence(der.encode_sequence(endless, der.encode(der.OCTET_STRING, b"")))
    leaf = issue_certificate(
        CertificateRequest(
            common_name="a platform",
            public_key=installed.owner.verifying_key,
            not_before=NOW,
            not_after=NOW,
            ca_path_length=None,
            extensions=[Extension(oid=SGX_EXTENSION, value_der=value, critical=False)],
        ),
        issuer_der=None,
        issuer_key=installed.owner,
    )
    quote = parse_sgx_quote(installed.bench.quote(report_data=BOUND))
    chain = "".join(map(to_pem, (leaf, *pck_chain(quote)[1:]))).encode()
    forged = replace(quote, signature=replace(quote.signature, certification_data=chain))
    with pytest.raises(FormatError, match="256 bits"):
        installed.send("SgxEnclave", {"quote": forged.to_bytes()})


@pytest.mark.parametrize("kind", ["Tpm", "sgxenclave", ""])
def test_other_kinds_of_evidence_are_not_found(installed: Installation, kind: str) -> None:
    for ask in (installed.service.attest, installed.service.get_policy, installed.service.put_policy):
        with pytest.raises(NotFoundError, match="not supported"):
            ask(installed.call(b"{}", bearer=installed.token(), kind=kind))


def test_a_missing_or_unknown_api_version_is_refused(installed: Installation) -> None:
    for version in ({}, {"api-version": "2019-01-01"}):
        with pytest.raises(FormatError):
            installed.service.get_policy(Call(path={"type": "SgxEnclave"}, query=version, authorization="", body=b""))


@pytest.mark.parametrize("platform", ["sgx.000000000000.platform", "tdx.000000000000.processor", f"snp.{'0' * 64}"])
def test_unknown_platforms_have_no_endorsements(installed: Installation, platform: str) -> None:
    with pytest.raises(NotFoundError):
        installed.service.endorsements(installed.call(platform=platform))


# --- versions, drafts, Open Enclave, properties ----------------------------------------------------------------------


def sgx_body(installed: Installation, **more: Any) -> bytes:
    quote = installed.bench.quote(report_data=BOUND)
    data = {"data": to_b64url(RUNTIME), "dataType": "JSON"}
    return json.dumps({"quote": to_b64url(quote), "runtimeData": data, **more}).encode()


@pytest.mark.parametrize("version", ["2020-10-01", "2022-08-01"])
def test_older_versions_have_no_trust_domains_no_nonce_and_no_baselines(installed: Installation, version: str) -> None:
    installed.put(installed.policy_token())
    assert installed.ask("POST", "/attest/SgxEnclave", sgx_body(installed), version=version).status == 200
    refused = [
        installed.ask("POST", "/attest/SgxEnclave", sgx_body(installed, nonce="1"), version=version),
        installed.ask("POST", "/attest/TdxVm", sgx_body(installed), version=version),
        installed.ask("GET", "/policies/TdxVm", version=version),
        installed.ask("GET", "/tcbbaselines/SgxEnclave", version=version),
    ]
    assert {(each.status, each.headers["x-ms-error-code"]) for each in refused} == {(400, "InvalidParameter")}
    assert all(version in parse_json_object(each.body)["error"]["message"] for each in refused)


def test_a_draft_decides_instead_of_the_standing_policy_and_is_never_signed(installed: Installation) -> None:
    installed.put(installed.policy_token())
    permitting = permit("x-ms-sgx-mrenclave", bytes(32).hex())
    draft = {"draftPolicyForAttestation": permitting}
    quote = {"quote": installed.bench.quote(report_data=BOUND, mrenclave=bytes(32))}
    token = installed.send("SgxEnclave", quote, **draft)
    header, _, signature = token.split(".")
    assert (header, signature) == (to_b64url(b'{"alg":"none"}'), "")
    said = json.loads(unverified_payload(token))
    assert said["x-ms-policy-hash"] == evidence_policy_hash(permitting)
    assert said["appraised"] == bytes(32).hex()
    with pytest.raises(VerificationError):
        installed.claims(token)
    with pytest.raises(RefusedError):
        installed.send("SgxEnclave", quote)
    with pytest.raises(RefusedError):
        installed.send("SgxEnclave", {"quote": installed.bench.quote(report_data=BOUND)}, **draft)
    as_token = {"draftPolicyForAttestation": unsigned_policy(permitting)}
    assert json.loads(unverified_payload(installed.send("SgxEnclave", quote, **as_token)))["appraised"]


@pytest.mark.parametrize("draft", [1, "", "nonsense", "{", "\ud800{", "a.b.c", {"x": 1}])
def test_a_draft_that_is_no_policy_is_a_format_error(installed: Installation, draft: Any) -> None:
    with pytest.raises(FormatError):
        installed.send(
            "SgxEnclave", {"quote": installed.bench.quote(report_data=BOUND)}, draftPolicyForAttestation=draft
        )


def test_trust_domains_have_no_drafts(installed: Installation) -> None:
    quote = {"quote": installed.bench.td_quote(report_data=BOUND)}
    with pytest.raises(FormatError, match="draft"):
        installed.send("TdxVm", quote, draftPolicyForAttestation=permit("tdx_mrtd", MRTD.hex()))


def test_attests_an_open_enclave_report_under_a_policy_of_its_own(installed: Installation) -> None:
    quote = installed.bench.quote(report_data=BOUND)
    report = {"report": struct.pack("<IIQ", 1, 2, len(quote)) + quote}
    installed.put(installed.policy_token())  # for SgxEnclave: it does not speak for OpenEnclave
    with pytest.raises(RefusedError):
        installed.send("OpenEnclave", report)
    installed.put(installed.policy_token(), kind="OpenEnclave")
    result = installed.claims(installed.send("OpenEnclave", report))
    assert result.claims["x-ms-sgx-mrenclave"] == MRENCLAVE.hex()


@pytest.mark.parametrize(
    "header",
    [
        lambda size: struct.pack("<IIQ", 2, 2, size),
        lambda size: struct.pack("<IIQ", 1, 1, size),
        lambda size: struct.pack("<IIQ", 1, 2, size + 1),
        lambda size: struct.pack("<IIQ", 1, 2, size)[:-1],
        lambda _size: b"",
    ],
    ids=["version", "local", "size", "short", "none"],
)
def test_refuses_other_open_enclave_reports(installed: Installation, header: Callable[[int], bytes]) -> None:
    quote = installed.bench.quote(report_data=BOUND)
    with pytest.raises(FormatError):
        installed.send("OpenEnclave", {"report": header(len(quote)) + quote})


def with_property(name: str, value: str) -> str:
    return (
        f'version= 1.1;\nconfigurationrules\n{{\n\t=> issueproperty(type="{name}", value={value});\n}};\n'
        "authorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};\n"
    )


def test_the_policy_says_how_long_a_result_is_valid(installed: Installation) -> None:
    installed.put(installed.policy_token())
    assert lifetime(installed.attest()) == 8 * 3600
    installed.put(installed.policy_token(with_property("report_validity_in_minutes", "10")))
    assert lifetime(installed.attest()) == 600


def lifetime(token: str) -> int:
    said = json.loads(unverified_payload(token))
    return int(said["exp"] - said["iat"])


def test_the_policy_may_have_the_certificate_named_instead_of_carried(installed: Installation) -> None:
    installed.put(installed.policy_token(with_property("omit_x5c", "false")))
    header = unverified_header(installed.attest())
    published = installed.service.signer.published()[0]
    assert header["x5c"] == published["x5c"]  # type: ignore[index, call-overload]
    installed.put(installed.policy_token(with_property("omit_x5c", "true")))
    header = unverified_header(installed.attest())
    assert "x5c" not in header
    leaf = from_any_b64(published["x5c"][0])  # type: ignore[index, call-overload, arg-type]
    assert header["x5t"] == to_b64url(hashlib.sha1(leaf).digest())


def test_a_tcb_baseline_is_demanded_of_the_evidence(installed: Installation) -> None:
    answer = installed.ask("GET", "/tcbbaselines/SgxEnclave")
    (baseline,) = parse_json_object(answer.body)["tcbBaselines"]
    number = baseline["tcbEvaluationDataNumber"]
    assert baseline == {
        "tcbIdentifier": str(number),
        "tcbEvaluationDataNumber": number,
        "tcbReleaseDate": baseline["tcbReleaseDate"],
        "isSelectedTcb": True,
    }
    for identifier in ("azuredefault", str(number), str(number - 1)):
        installed.put(installed.policy_token(with_property("x-ms-sgx-tcbidentifier", f'"{identifier}"')))
        assert installed.attest()
    for identifier in (str(number + 1), "", "newest", "-1", "9" * 40):
        installed.put(installed.policy_token(with_property("x-ms-sgx-tcbidentifier", f'"{identifier}"')))
        with pytest.raises(RefusedError, match="baseline"):
            installed.attest()


def test_only_intels_evidence_has_tcb_baselines(installed: Installation) -> None:
    found = {
        kind: parse_json_object(installed.ask("GET", f"/tcbbaselines/{kind}").body)["tcbBaselines"]
        for kind in ("SgxEnclave", "OpenEnclave", "TdxVm", "SevSnpVm", "AzureGuest")
    }
    assert {kind for kind, baselines in found.items() if baselines} == {"SgxEnclave", "OpenEnclave", "TdxVm"}
    (installed.crl.parent / "broken.json").write_bytes(b"{")
    assert installed.ask("GET", "/tcbbaselines/SgxEnclave").status == 200


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("report_validity_in_minutes", "0"),
        ("report_validity_in_minutes", "525601"),
        ("report_validity_in_minutes", "true"),
        ("report_validity_in_minutes", '"10"'),
        ("omit_x5c", "1"),
        ("omit_x5c", '"true"'),
        ("x-ms-sgx-tcbidentifier", "17"),
        ("require_valid_aik_cert", "true"),
        ("required_pcr_mask", "1"),
        ("something", "1"),
    ],
)
def test_properties_that_are_not_honoured_are_refused(installed: Installation, name: str, value: str) -> None:
    installed.put(installed.policy_token(with_property(name, value)))
    with pytest.raises(RefusedError, match=name):
        installed.attest()


def test_what_the_service_says_of_itself_cannot_be_issued_by_a_policy(installed: Installation) -> None:
    names = ("nonce", "x-ms-policy-signer", "x-ms-policy-hash", "iss", "exp", "jti", "x-ms-ver", "x-ms-runtime")
    rules = "".join(f'=> issue(type="{name}", value="forged");' for name in names)
    text = f"version= 1.0;authorizationrules{{=> permit();}};issuancerules{{{rules}}};"
    installed.restart(policy_management="owner")
    installed.put(unsigned_policy(text))
    assert "forged" not in json.loads(unverified_payload(installed.attest())).values()


def test_a_result_as_ear_says_what_azures_form_says_and_passes_nowhere_for_it(installed: Installation) -> None:
    installed.put(installed.policy_token())
    answer = installed.ask("POST", "/strongroom/v1/ear/SgxEnclave", sgx_body(installed, nonce="12345678"))
    token = str(parse_json_object(answer.body)["token"])
    key = VerifyingKey.from_jwk(installed.service.signer.published()[0])  # type: ignore[arg-type]
    ear = parse_json_object(verify_jws(token, key=key, typ="eat+jwt").payload)
    assert (ear["iss"], ear["eat_nonce"]) == (URL, "12345678")
    appraisal = ear["submods"]["cpu0"]
    assert appraisal["ear.status"] == "contraindicated"  # the hardware is simulated
    assert appraisal["ear.veraison.annotated-evidence"]["sgx"]["x-ms-sgx-mrenclave"] == MRENCLAVE.hex()
    with pytest.raises(VerificationError):
        installed.claims(token)
    refused = installed.ask("POST", "/strongroom/v1/ear/TdxVm", sgx_body(installed))
    assert refused.status == 400
