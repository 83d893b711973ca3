"""The attestation service behind HTTP: errors, limits, health, metrics, logs; nothing a caller sends is a 5xx."""

import json
import logging
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.types import ASGIApp
from tests.support.asgi import Answer, send
from tests.support.attestation_service import BOUND, POLICY, RUNTIME, Installation, signed
from tests.support.platform import MRENCLAVE, NOW, Bench

from strongroom.attestation.verifier import second_opinion
from strongroom.base.encoding import from_b64url, parse_json_object, to_b64url
from strongroom.base.limits import LIMITS
from strongroom.crypto.keys import SigningKey
from strongroom.services.http import JsonLines
from strongroom.services.policy_tokens import unsigned_policy

VERSION = "api-version=2025-06-01"


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, Bench.new())
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    made = Installation(tmp_path_factory.mktemp("lasting"), Bench.new())
    made.put(made.policy_token())
    yield made
    made.store.close()


@pytest.fixture(scope="module")
def app(lasting: Installation) -> ASGIApp:
    return lasting.application(requests_per_second=1_000_000, requests_per_second_per_address=1_000_000)


def evidence(installed: Installation, **fields: Any) -> bytes:
    quote = installed.bench.quote(report_data=BOUND, **fields)
    data = {"data": to_b64url(RUNTIME), "dataType": "JSON"}
    return json.dumps({"quote": to_b64url(quote), "runtimeData": data}).encode()


# --- whatever a caller sends -----------------------------------------------------------------------------------------

ROUTES = [
    ("POST", f"/attest/{kind}?{VERSION}")
    for kind in ("SgxEnclave", "OpenEnclave", "TdxVm", "SevSnpVm", "AzureGuest", "x")
]
ROUTES += [("PUT", f"/policies/SgxEnclave?{VERSION}"), ("POST", f"/policies/SgxEnclave:reset?{VERSION}")]
ROUTES += [("GET", f"/policies/{kind}?{VERSION}") for kind in ("SgxEnclave", "%ff", "..", "a:reset")]
ROUTES += [("POST", f"/certificates:{verb}?{VERSION}") for verb in ("add", "remove")]
ROUTES += [("GET", f"/certificates?{VERSION}"), ("GET", f"/tcbbaselines/SgxEnclave?{VERSION}")]
ROUTES += [("GET", path) for path in ("/certs", "/.well-known/openid-configuration", "/healthz", "/readyz", "/metrics")]
ROUTES += [("POST", "/strongroom/v1/signing-keys:rotate"), ("GET", "/strongroom/v1/evidence?nonce=a")]
ROUTES += [("GET", "/strongroom/v1/endorsements?fmspc=%00"), ("GET", "/"), ("DELETE", "/certs"), ("OPTIONS", "*")]

MEMBERS = ["quote", "report", "runtimeData", "initTimeData", "data", "dataType", "nonce", "attestationInfo", "x"]
MEMBERS += ["draftPolicyForAttestation", "policyCertificateToAdd", "policyCertificateToRemove", "SnpReport"]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.sampled_from(["AA==", "e30", POLICY]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(MEMBERS),
            inner,
            max_size=6,
        )
    ),
    max_leaves=12,
)
BODIES = st.binary(max_size=400) | JSON.map(lambda value: json.dumps(value).encode())
TOKENS = st.tuples(
    st.sampled_from([b'{"alg":"none"}', b'{"alg":"RS256","x5c":["AA"]}', b"{}", b"[]"]),
    st.binary(max_size=60),
    st.binary(max_size=80),
).map(lambda parts: ".".join(map(to_b64url, parts)).encode())


@settings(max_examples=400, deadline=None)
@given(route=st.sampled_from(ROUTES), body=BODIES | TOKENS, authenticated=st.booleans(), version=st.booleans())
def test_no_body_on_any_route_is_the_services_own_failure(
    app: ASGIApp, lasting: Installation, route: tuple[str, str], body: bytes, *, authenticated: bool, version: bool
) -> None:
    method, target = route
    headers = {"authorization": f"Bearer {lasting.token()}" if authenticated else "Bearer a.b.c"}
    answer = send(app, method, target if version else target.replace("2025-06-01", "2020-10-01"), body, headers=headers)
    assert answer.status < 500


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_no_edit_of_a_good_request_is_the_services_own_failure(
    app: ASGIApp, lasting: Installation, data: st.DataObject
) -> None:
    kind = data.draw(st.sampled_from(["SgxEnclave", "TdxVm", "SevSnpVm"]))
    good = {
        "SgxEnclave": {"quote": lasting.bench.quote(report_data=BOUND)},
        "TdxVm": {"quote": lasting.bench.td_quote(report_data=BOUND)},
        "SevSnpVm": {"report": lasting.snp_report()},
    }[kind]
    ((name, content),) = good.items()
    edited = bytearray(content)
    for _ in range(data.draw(st.integers(0, 3))):
        edited[data.draw(st.integers(0, len(edited) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([len(edited), len(edited) // 2, 0]))
    runtime = {"data": to_b64url(RUNTIME), "dataType": data.draw(st.sampled_from(["JSON", "Binary"]))}
    body = {name: to_b64url(bytes(edited[:cut])), "runtimeData": runtime}
    assert send(app, "POST", f"/attest/{kind}?{VERSION}", json.dumps(body).encode()).status < 500


@pytest.mark.parametrize(
    ("query", "status"),
    [("", 400), ("?api-version=1", 400), (f"?{VERSION}&{VERSION}", 400), (f"?{VERSION}&x=%ff", 200)],
)
def test_queries_are_read_strictly(lasting: Installation, app: ASGIApp, query: str, status: int) -> None:
    assert send(app, "POST", f"/attest/SgxEnclave{query}", evidence(lasting)).status == status


def test_errors_have_azures_shape_and_header(lasting: Installation, app: ASGIApp) -> None:
    refused = send(app, "POST", f"/attest/SgxEnclave?{VERSION}", evidence(lasting, mrenclave=bytes(32)))
    error = parse_json_object(refused.body)["error"]
    assert (refused.status, refused.headers["x-ms-error-code"]) == (400, "PolicyEvaluationError")
    assert error["code"] == "PolicyEvaluationError"
    assert error["innererror"]["mismatches"][0]["actual"] == f'"{bytes(32).hex()}"'
    nowhere = send(app, "GET", "/nowhere")
    assert (nowhere.status, nowhere.headers["x-ms-error-code"]) == (404, "NotFound")
    assert send(app, "DELETE", "/certs").status == 405


def test_bodies_have_limits(app: ASGIApp) -> None:
    for method, target, limit in (
        ("POST", f"/attest/SgxEnclave?{VERSION}", LIMITS.attest_body_bytes),
        ("PUT", f"/policies/SgxEnclave?{VERSION}", LIMITS.token_bytes),
        ("POST", f"/certificates:add?{VERSION}", LIMITS.token_bytes),
    ):
        assert send(app, method, target, bytes(limit)).status in {400, 401}
        assert send(app, method, target, bytes(limit + 1)).status == 413
        announced = send(app, method, target, b"", headers={"content-length": str(limit + 1)})
        assert (announced.status, announced.headers["x-ms-error-code"]) == (413, "RequestTooLarge")


# --- limits ----------------------------------------------------------------------------------------------------------


def test_too_many_requests_are_told_when_to_come_again(lasting: Installation) -> None:
    app = lasting.application(requests_per_second=1000, requests_per_second_per_address=1)
    answers = [send(app, "GET", "/certs", client="192.0.2.1") for _ in range(5)]
    assert [each.status for each in answers] == [200, 200, 200, 429, 429]
    assert int(answers[-1].headers["retry-after"]) == 1
    assert answers[-1].headers["x-ms-error-code"] == "TooManyRequests"
    assert send(app, "GET", "/certs", client="192.0.2.2").status == 200
    assert send(app, "GET", "/healthz", client="192.0.2.1").status == 200
    ours = send(app, "GET", "/strongroom/v1/endorsements", client="192.0.2.1")
    assert (ours.status, parse_json_object(ours.body)["error"]["code"]) == (429, "rate")


# --- storage ---------------------------------------------------------------------------------------------------------


def test_only_storage_that_is_gone_is_the_services_own_failure_and_it_says_so(installed: Installation) -> None:
    installed.put(installed.policy_token())
    installed.attest()
    path = installed.store._place.path
    path.rename(path.with_name("moved"))
    key = installed.owner
    calls = [
        ("PUT", "/policies/SgxEnclave", installed.policy_token()),
        ("POST", "/policies/SgxEnclave:reset", signed(b"", key=key)),
        ("GET", "/certificates", ""),
        ("POST", "/strongroom/v1/signing-keys:rotate", ""),
    ]
    for method, target, body in calls:
        answer = installed.ask(method, target, body.encode())
        assert answer.status == 503
        error = parse_json_object(answer.body)["error"]
        assert "storage is gone" in error["message"]
        assert "disk" in error.get("innererror", error)["action"]
    ready = installed.ask("GET", "/readyz")
    assert (ready.status, parse_json_object(ready.body)["checks"]["store"]) == (503, "failed")
    assert installed.ask("GET", "/healthz").status == 200
    path.with_name("moved").rename(path)
    assert installed.attest()
    assert installed.ask("GET", "/readyz").status == 200


# --- health, metrics, logs -------------------------------------------------------------------------------------------


def checks(installed: Installation) -> dict[str, str]:
    answer = installed.ask("GET", "/readyz")
    found: dict[str, str] = parse_json_object(answer.body)["checks"]
    assert (answer.status == 200) is all(value == "ok" for value in found.values())
    return found


def test_is_ready_with_endorsements_and_a_clock_that_is_not_behind(installed: Installation) -> None:
    assert checks(installed) == {"store": "ok", "endorsements": "ok", "clock": "ok"}
    installed.store.newest_signed_time.advance(NOW)
    assert checks(installed)["clock"] == "ok"
    installed.store.newest_signed_time.advance(NOW + timedelta(seconds=1))
    assert checks(installed)["clock"] == "failed"
    for file in installed.crl.parent.iterdir():
        file.unlink()
    assert checks(installed)["endorsements"] == "failed"


def metrics(answer: Answer) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in answer.body.decode().splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, _, value in lines}


def test_counts_outcomes_by_type_and_reason_and_never_a_value(
    installed: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = installed.application()
    installed.put(installed.policy_token())
    target = f"/attest/SgxEnclave?{VERSION}"
    nonce = json.dumps(json.loads(evidence(installed)) | {"nonce": "a-secret-nonce"}).encode()
    draft = json.dumps(
        json.loads(evidence(installed)) | {"draftPolicyForAttestation": unsigned_policy(POLICY)}
    ).encode()
    assert send(app, "POST", target, nonce).status == 200
    assert send(app, "POST", target, draft).status == 200
    assert send(app, "POST", target, evidence(installed, mrenclave=bytes(32))).status == 400
    assert send(app, "POST", target, b"{").status == 400
    assert send(app, "POST", f"/attest/Made-Up?{VERSION}", b"{}").status == 404
    monkeypatch.setattr(second_opinion, "_SGX", {"mrenclave": "mr_signer"})
    assert send(app, "POST", target, evidence(installed)).status == 400
    answer = send(app, "GET", "/metrics")
    found = metrics(answer)
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert found['strongroom_attestations_total{outcome="signed",type="SgxEnclave"}'] == 1
    assert found['strongroom_attestations_total{outcome="draft",type="SgxEnclave"}'] == 1
    assert found['strongroom_attestations_total{outcome="refused",type="SgxEnclave"}'] == 1
    assert found['strongroom_attestation_refusals_total{reason="refused",type="SgxEnclave"}'] == 1
    assert found['strongroom_attestation_refusals_total{reason="verifiers-disagree",type="SgxEnclave"}'] == 1
    assert found['strongroom_attestation_refusals_total{reason="format",type="SgxEnclave"}'] == 1
    assert found['strongroom_verifier_disagreements_total{type="SgxEnclave"}'] == 1
    assert found['strongroom_policy_changes_total{call="policy-put",outcome="done"}'] == 1
    assert found['strongroom_http_requests_total{method="POST",route="/attest/{type}",status="200"}'] == 2
    assert found['strongroom_attestation_duration_seconds_count{type="SgxEnclave"}'] >= 4
    text = answer.body.decode()
    for value in (MRENCLAVE.hex(), "a-secret-nonce", "hello", "Made-Up", installed.identity.identity):
        assert value not in text
    assert set(re.findall(r'[{,](\w+)="', text)) <= {
        "type",
        "outcome",
        "reason",
        "route",
        "method",
        "status",
        "call",
        "le",
    }


def test_logs_are_json_lines_without_claims_values_or_secrets(
    installed: Installation, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    bearer, app = installed.token(), installed.application()
    headers = {"authorization": f"Bearer {bearer}"}
    token = installed.policy_token()
    send(app, "PUT", f"/policies/SgxEnclave?{VERSION}", token.encode(), headers=headers)
    signed_result = send(app, "POST", f"/attest/SgxEnclave?{VERSION}", evidence(installed))
    send(app, "POST", f"/attest/SgxEnclave?{VERSION}", evidence(installed, mrenclave=bytes(32)))
    send(app, "POST", "/strongroom/v1/signing-keys:rotate", headers=headers)
    lines = [JsonLines().format(record) for record in caplog.records if record.name.startswith("strongroom")]
    records = [json.loads(line) for line in lines]
    requests = [record for record in records if record["message"] == "request"]
    assert [(each["route"], each["method"], each["status"]) for each in requests] == [
        ("/policies/{type}", "PUT", 200),
        ("/attest/{type}", "POST", 200),
        ("/attest/{type}", "POST", 400),
        ("/strongroom/v1/signing-keys:rotate", "POST", 200),
    ]
    assert {"time", "level", "logger", "client", "duration_ms"} <= set(requests[0])
    private = (Path(installed.config.state) / "signing.key").read_text()
    result = parse_json_object(signed_result.body)["token"]
    for secret in (bearer, token, result, MRENCLAVE.hex(), bytes(32).hex(), "hello", private.splitlines()[1]):
        assert secret not in "\n".join(lines)


def test_head_of_a_page_is_counted_as_such(lasting: Installation) -> None:
    app = lasting.application()
    assert send(app, "HEAD", "/certs").status == 200
    assert send(app, "X-" + "Y" * 100, "/certs").status == 405
    found = metrics(send(app, "GET", "/metrics"))
    assert not [name for name in found if "YYYY" in name]


def test_a_rotated_key_is_what_the_services_evidence_names(installed: Installation) -> None:
    app = installed.application()

    def named() -> str:
        answer = parse_json_object(send(app, "GET", "/strongroom/v1/evidence?nonce=a").body)
        return str(json.loads(from_b64url(answer["statement"]))["signing_key"])

    before = named()
    kid = installed.service.signer.rotate()
    assert named() == kid != before


def test_a_stranger_cannot_rotate_the_signing_key(lasting: Installation, app: ASGIApp) -> None:
    before = lasting.service.signer.thumbprint
    lasting_owner, lasting.owner = lasting.owner, SigningKey.generate("ES256")
    try:
        headers = {"authorization": f"Bearer {lasting.token()}"}
    finally:
        lasting.owner = lasting_owner
    assert send(app, "POST", "/strongroom/v1/signing-keys:rotate", headers=headers).status == 401
    assert lasting.service.signer.thumbprint == before
