"""A guest that sends what Azure's own client sends, and opens the answer as that client does.

The client itself is C++ over tpm2-tss and is not built here: its messages are written down after its source
(`AttestationParameters.cpp`, `TpmInfo.cpp`, `IsolationInfo.cpp`, `Tss2Util.cpp`, `TpmUnseal.cpp`). It has the TPM
attest no nonce, spells the request's member with a capital letter, and indents its JSON with tabs.
"""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from tests.support.azure_guest import Cloud, Guest, attestation_service, guest
from tests.support.service_processes import RunningService

from strongroom.attestation.attester.azure_vtpm import AK_HANDLE
from strongroom.attestation.evidence.azure_vtpm import parse_hcl_report
from strongroom.crypto.jose import unverified_payload

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


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def attestation_parameters(each: Guest, payload: dict[str, str] | None) -> dict[str, Any]:
    values = each.tpm.pcr_values(range(8))
    quote = each.tpm.quote(AK_HANDLE, pcrs=range(8), nonce=b"")
    key = each.vtpm.ephemeral_key(b"", values=values)
    report = parse_hcl_report(each.vtpm.hcl_report())
    proof = {"SnpReport": b64url(report.hardware_report), "VcekCertChain": b64(each.vtpm.snp_certificates().encode())}
    return {
        "AttestationProtocolVersion": "2.0",
        "ClientPayload": None if payload is None else {name: b64(text.encode()) for name, text in payload.items()},
        "IsolationInfo": {
            "Evidence": {
                "Proof": b64(json.dumps(proof, indent="\t").encode()),
                "RunTimeData": b64(report.runtime_data),
            },
            "Type": "SevSnp",
        },
        "OSBuild": b64(b"NotApplication"),
        "OSDistro": b64(b"Ubuntu"),
        "OSType": b64(b"Linux"),
        "OSVersionMajor": 22,
        "OSVersionMinor": 4,
        "TcgLogs": b64(each.event_log),
        "TpmInfo": {
            "AikCert": "",
            "AikPub": b64(each.vtpm.attestation_key()),
            "EncKeyCertifyInfo": b64(key.attested.attest),
            "EncKeyCertifyInfoSignature": b64(key.attested.signature),
            "EncKeyPub": b64(key.public),
            "PCRs": [{"Digest": b64(value), "Index": pcr} for pcr, value in values.items()],
            "PcrQuote": b64(quote.attest),
            "PcrSet": list(values),
            "PcrSignature": b64(quote.signature),
        },
    }


@pytest.mark.parametrize("payload", [{"nonce": "1234"}, None])
def test_azures_client_is_answered_and_opens_the_answer(
    service: RunningService, cloud: Cloud, payload: dict[str, str] | None
) -> None:
    with guest(cloud) as each:
        info = json.dumps(attestation_parameters(each, payload), indent="\t").encode()
        body = json.dumps({"AttestationInfo": b64url(info)}, indent="\t").encode()
        reply = service.http().request("POST", "/attest/AzureGuest?api-version=2020-10-01", body=body)
        token = json.loads(reply.require_success())["token"]

        sealed = json.loads(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
        parameters = sealed["EncryptionParams"]
        assert {name: value for name, value in parameters.items() if name != "Iv"} == {
            "BlockMode": "ChainingModeGCM",
            "BlockPadding": "PKCS7",
            "Cipher": "AES",
            "KeySizeInBits": 256,
        }
        inner = each.vtpm.decrypt(base64.b64decode(sealed["EncryptedInnerKey"]), values=each.tpm.pcr_values(range(8)))
        ciphertext = base64.b64decode(sealed["Jwt"]) + base64.b64decode(sealed["AuthenticationData"])
        jwt = AESGCM(inner.reveal()).decrypt(base64.b64decode(parameters["Iv"]), ciphertext, b"Transport Key")

    claims = json.loads(unverified_payload(jwt.decode()))
    sample = {  # the names in Azure's sampleAttestationToken.json that a Linux guest's evidence can say
        *("exp", "iat", "iss", "jti", "nbf", "secureboot", "x-ms-attestation-type"),
        *("x-ms-azurevm-attestation-protocol-ver", "x-ms-azurevm-attested-pcrs", "x-ms-azurevm-is-windows"),
        *("x-ms-azurevm-osbuild", "x-ms-azurevm-osdistro", "x-ms-azurevm-ostype", "x-ms-azurevm-osversion-major"),
        *("x-ms-azurevm-osversion-minor", "x-ms-azurevm-vmid", "x-ms-isolation-tee", "x-ms-policy-hash"),
        *("x-ms-runtime", "x-ms-ver", "x-ms-policy-signer"),
    }
    assert sample <= set(claims)
    assert all(name.startswith("x-ms-strongroom-") for name in set(claims) - sample)
    assert claims["x-ms-runtime"].get("client-payload") == (None if payload is None else {"nonce": "MTIzNA=="})
    assert claims["x-ms-strongroom-runtime-data-attested"] is False
