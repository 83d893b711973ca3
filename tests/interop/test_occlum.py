"""Occlum's own Azure Attestation request, as its demonstration `maa_init` makes it, against our service's process.

The init process of an Occlum instance decodes MAA_REPORT_DATA, puts its SHA-256 into the quote's report data, and posts
quote and data; the application finds answer and quote in MAA_TOKEN_PATH. Here Python stands for the Rust program: the
same bytes, in the same order of members, to the same address.

Source: occlum/occlum, `demos/remote_attestation/azure_attestation/maa_init/init/src/{main,maa}.rs` (commit 690d5dbf).
"""

import base64
import hashlib
import json
import ssl
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import urllib3
from tests.support.platform import MRENCLAVE
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.pck import pck_chain
from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG
from strongroom.attestation.result import RESULT_TYP
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.sgx import verify_sgx_quote
from strongroom.base.encoding import from_any_b64, from_b64url, parse_json_object
from strongroom.base.errors import VerificationError
from strongroom.crypto.jose import verify_jws
from strongroom.crypto.x509 import LeafUsage, verify_leaf

REPORT_DATA = base64.b64encode(b"-----BEGIN PRIVATE KEY-----\nany bytes, more than 64 of them: " + bytes(range(256)))
"""MAA_REPORT_DATA: the demonstration's build script puts a base64 encoded PEM file there."""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation")) as made:
        yield made


def maa_json(quote: bytes, user_data: bytes) -> bytes:
    """Return what `maa_generate_json` and reqwest's `json` give: serde_json sorts members and writes no spaces."""
    fields = {
        "quote": base64.b64encode(quote).decode(),
        "runtimeData": {"data": base64.b64encode(user_data).decode(), "dataType": "Binary"},
    }
    return json.dumps(fields, separators=(",", ":")).encode()


def maa_attestation(installed: Installation, body: bytes) -> urllib3.BaseHTTPResponse:
    """Post as `maa_attestation` does; MAA_PROVIDER_URL is our service's address."""
    trusted = ssl.create_default_context(cadata=installed.attestation.certificate_pem)
    with urllib3.PoolManager(ssl_context=trusted) as client:
        return client.request(
            "POST",
            f"{installed.attestation.url}/attest/SgxEnclave?api-version=2020-10-01",
            body=body,
            headers={"content-type": "application/json", "accept": "*/*"},
            retries=False,
        )


def occlum_quote(installed: Installation, user_data: bytes, **fields: Any) -> bytes:
    """Return a quote over SHA-256 of the data; Occlum fills the other 32 bytes of the report data with zeros."""
    digest = hashlib.sha256(user_data).digest()
    report = installed.platform.report(mrenclave=MRENCLAVE, report_data=digest + bytes(32))
    return installed.platform.platform.quote(replace(report, **fields))


def claims_of(installed: Installation, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
    """Return the claims of the token in an answer; its signature holds under the service's published key."""
    assert answer.status == 200, answer.data
    saved = json.loads(answer.data)  # what the application finds in MAA_TOKEN_PATH/token
    assert set(saved) == {"token"}
    (published,) = parse_json_object(installed.attestation.http().request("GET", "/certs").body)["keys"]
    chain = [from_any_b64(each) for each in published["x5c"]]
    leaf = verify_leaf(chain, identity=installed.attestation.identity, usage=LeafUsage.SIGNING, now=CLOCK.now())
    signed = verify_jws(saved["token"], key=leaf.public_key, typ=RESULT_TYP)
    assert signed.header["kid"] == published["kid"]
    return parse_json_object(signed.payload)


def test_the_request_has_the_bytes_that_occlum_sends() -> None:
    assert maa_json(b"q\xff", b"d") == b'{"quote":"cf8=","runtimeData":{"data":"ZA==","dataType":"Binary"}}'


def test_occlums_init_gets_its_token(installed: Installation) -> None:
    user_data = base64.b64decode(REPORT_DATA)
    quote = occlum_quote(installed, user_data)
    claims = claims_of(installed, maa_attestation(installed, maa_json(quote, user_data)))
    assert claims["iss"] == installed.attestation.url
    assert claims["x-ms-attestation-type"] == "sgx"
    assert claims["x-ms-sgx-mrenclave"] == MRENCLAVE.hex()
    assert claims["x-ms-sgx-is-debuggable"] is False
    for name in ("x-ms-sgx-ehd", "aas-ehd", "maa-ehd"):
        assert from_b64url(claims[name]) == user_data
    assert "x-ms-runtime" not in claims
    assert claims["x-ms-sgx-collateral"]["quotehash"] == hashlib.sha256(quote).hexdigest()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"report_data": bytes(64)}, "does not bind"),
        ({"report_data": hashlib.sha256(b"data").digest() + b"\1" * 32}, "does not bind"),
        ({"mrenclave": bytes(32)}, "does not permit"),
    ],
)
def test_occlums_init_fails_where_the_evidence_does(
    installed: Installation, fields: dict[str, Any], reason: str
) -> None:
    """`maa_attestation` returns an error for every status but 200."""
    answer = maa_attestation(installed, maa_json(occlum_quote(installed, b"data", **fields), b"data"))
    assert answer.status == 400
    assert reason in json.loads(answer.data)["error"]["message"]


def test_a_debug_instance_is_refused_by_default(installed: Installation) -> None:
    report = parse_sgx_quote(occlum_quote(installed, b"data")).report
    attributes = replace(report.attributes, flags=report.attributes.flags | FLAG_DEBUG)
    answer = maa_attestation(installed, maa_json(occlum_quote(installed, b"data", attributes=attributes), b"data"))
    assert answer.status == 400
    error = json.loads(answer.data)["error"]
    assert "x-ms-sgx-is-debuggable" in [each["name"] for each in error["innererror"]["mismatches"]]


# --- the quote that was made in Occlum -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_in_occlum(shared: Path) -> bytes:
    return (shared / "vectors" / "sgx" / "occlum_quote.dat").read_bytes()


def test_the_quote_made_in_occlum_is_read(made_in_occlum: bytes) -> None:
    quote = parse_sgx_quote(made_in_occlum)
    assert quote.to_bytes() == made_in_occlum
    assert (quote.header.version, quote.report.attributes.flags) == (3, 0x7)
    assert quote.report.attributes.debug


def test_the_quote_made_in_occlum_is_refused_because_it_can_be_debugged(
    installed: Installation, made_in_occlum: bytes
) -> None:
    """Even where Intel's root is trusted: no endorsements are needed to refuse it."""
    root = TrustedRoot(certificate_der=pck_chain(parse_sgx_quote(made_in_occlum))[-1], simulated=False)
    endorsements = DcapEndorsements(**dict.fromkeys(DcapEndorsements.model_fields, ""))
    with pytest.raises(VerificationError, match="debug"):
        verify_sgx_quote(
            made_in_occlum, trusted_roots=TrustedRoots(roots=(root,)), endorsements=endorsements, now=CLOCK.now()
        )
    answer = maa_attestation(installed, maa_json(made_in_occlum, b"data"))
    assert 400 <= answer.status < 500
    assert set(json.loads(answer.data)) == {"error"}
