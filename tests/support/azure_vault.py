"""The key service as Azure's own clients reach it: a host below "localhost", an owner's token, enclaves' results."""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.keyvault.keys import KeyReleasePolicy
from tests.support.platform import MRENCLAVE
from tests.support.service_processes import CLOCK, Installation, installation

from strongroom.base.encoding import canonical_json, from_any_b64, from_b64url, parse_json_object
from strongroom.base.secret import SecretBytes
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.key_wrap import unwrap_with_rsa
from strongroom.crypto.keys import ReceivingKey
from strongroom.crypto.x509 import LeafUsage, verify_leaf

HOST = "vault.localhost"
ALGORITHMS = [None, "CKM_RSA_AES_KEY_WRAP", "RSA_AES_KEY_WRAP_256", "RSA_AES_KEY_WRAP_384"]
TEE_KEY = ReceivingKey.generate_rsa()
RUNTIME = canonical_json({"keys": [TEE_KEY.public_jwk], "job": "taxi"})  # type: ignore[dict-item]


class Credential:
    """Gives the owner's own token where Azure's would come from its directory."""

    def __init__(self, installed: Installation) -> None:
        self._installed = installed

    def get_token(self, *_scopes: str, **_options: Any) -> AccessToken:
        return AccessToken(self._installed.person_token(), int(CLOCK.now().timestamp()) + 60)


@contextmanager
def azure_installation(folder: Path) -> Iterator[Installation]:
    """Both services, the key service under a name whose parent domain is the challenge's resource."""
    known = socket.getaddrinfo
    with pytest.MonkeyPatch.context() as patch:
        # The C library resolves no names below "localhost".
        patch.setattr(
            socket,
            "getaddrinfo",
            lambda host, *rest, **more: known("127.0.0.1" if host == HOST else host, *rest, **more),
        )
        with installation(folder, host=HOST) as made:
            yield made


def client_options(installed: Installation) -> dict[str, Any]:
    """What every client is made with; its check of the challenge's resource stays on."""
    path = installed.folder / "ca.pem"
    path.write_text(installed.keys.certificate_pem)
    return {"credential": Credential(installed), "connection_verify": str(path)}


def release_policy(installed: Installation, **changed: Any) -> KeyReleasePolicy:
    claims = {"x-ms-sgx-mrenclave": MRENCLAVE.hex(), "x-ms-sgx-is-debuggable": False, "x-ms-runtime.job": "taxi"}
    conditions = [{"claim": name, "equals": value} for name, value in {**claims, **changed}.items()]
    authority = {"authority": installed.attestation.url, "allOf": conditions}
    return KeyReleasePolicy(json.dumps({"version": "1.0.0", "anyOf": [authority]}).encode())


def attested(installed: Installation, runtime: bytes = RUNTIME) -> str:
    return installed.attest(installed.evidence(runtime))


def opened(installed: Installation, token: str, *, key: ReceivingKey = TEE_KEY) -> tuple[dict[str, Any], SecretBytes]:
    """Verify a release as a TEE does, and open it."""
    chain = [from_any_b64(each) for each in unverified_header(token)["x5c"]]
    leaf = verify_leaf(chain, identity=installed.keys.identity, usage=LeafUsage.SIGNING, now=CLOCK.now())
    assert HOST in leaf.sans
    payload = parse_json_object(verify_jws(token, key=leaf.public_key).payload)
    hsm = parse_json_object(from_b64url(payload["response"]["key"]["key"]["key_hsm"]))
    assert hsm["header"]["alg"] == "dir"
    secret = unwrap_with_rsa(from_b64url(hsm["ciphertext"]), key=key, algorithm=payload["request"]["enc"])
    return payload, secret
