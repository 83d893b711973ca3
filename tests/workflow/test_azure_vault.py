"""Whole runs, Spark included, over datasets under a key in an Azure vault; our key service takes the vault's place, and
our attestation service that of Azure Attestation.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pyarrow import parquet as pq
from tests.support.azure_attestation import AzureProvider
from tests.support.installation import Installation, Submission
from tests.support.receipts import verify_by_both
from tests.support.vault_releases import Said, TlsServer
from tests.workflow.conftest import ROWS
from tests.workflow.test_8_write import WRITE_ALL

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json, to_b64url
from strongroom.base.workflow import Step
from strongroom.cli.installation import free_port
from strongroom.cli.owner_keys import load_signing_key
from strongroom.clients.owner import person_token
from strongroom.simulation.server import endorsements_of
from strongroom.submit.run import load_trust
from strongroom.submit.services import connect, trusted_service

pytestmark = pytest.mark.timeout(1800)

KEY = "spark-vault"


@dataclass(frozen=True, kw_only=True)
class OwnersVault:
    """An owner's key: in the vault, and a copy of the owner's own.

    Attributes:
        file: What `strongroom vault describe` wrote.
        private_key: The owner's copy.
        path: The key's version at the vault.
    """

    file: Path
    private_key: Path
    path: str


def policy_body(policy: bytes) -> dict[str, Any]:
    return {"release_policy": {"contentType": "application/json; charset=utf-8", "data": to_b64url(policy)}}


def private_jwk(key: rsa.RSAPrivateKey) -> dict[str, Any]:
    numbers = key.private_numbers()
    parts = {
        "n": numbers.public_numbers.n,
        "e": numbers.public_numbers.e,
        "d": numbers.d,
        "p": numbers.p,
        "q": numbers.q,
        "dp": numbers.dmp1,
        "dq": numbers.dmq1,
        "qi": numbers.iqmp,
    }
    octets = {name: to_b64url(number.to_bytes((number.bit_length() + 7) // 8, "big")) for name, number in parts.items()}
    return {"kty": "RSA-HSM", "key_ops": ["wrapKey", "unwrapKey"], **octets}


@pytest.fixture
def vault(installation: Installation, tmp_path: Path) -> Iterator[OwnersVault]:
    """A key that the owner made, imported and described; its release policy is one that nobody meets."""
    trust = load_trust(installation.state.trust)
    service, issuer = (trusted_service(trust, kind) for kind in ("key-service", "attestation-service"))

    def entra(*_: object) -> Said:
        owner = load_signing_key(installation.state.owner_key)
        token = person_token(owner, audience=service.identity, clock=SystemClock())
        return Said(200, {}, json.dumps({"token_type": "Bearer", "access_token": token}).encode())

    server = TlsServer(entra, names=("127.0.0.1",))
    try:
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        files = {name: tmp_path / name for name in ("own.pem", "shown.json", "root.pem", "authorities.pem", "token")}
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        files["own.pem"].touch(mode=0o600)
        files["own.pem"].write_bytes(key.private_bytes(*form))
        closed = {"authority": issuer.url, "allOf": [{"claim": "x-ms-strongroom-closed", "equals": True}]}
        policy = canonical_json({"version": "1.0.0", "anyOf": [closed]})  # type: ignore[dict-item]
        body = {"key": private_jwk(key), "attributes": {"exportable": True}, **policy_body(policy)}
        shown = installation.vault("PUT", f"/keys/{KEY}", body)
        files["shown.json"].write_text(json.dumps(shown))
        files["root.pem"].write_text(service.certificate_pem)
        files["authorities.pem"].write_text(service.certificate_pem + server.authority_pem)
        files["token"].write_text("projected")
        file = tmp_path / "spark.vault"
        described = installation.done(
            *("vault", "describe", str(file), str(files["shown.json"]), "--kind", "azure-managed-hsm"),
            *("--root", str(files["root.pem"]), "--authorities", str(files["authorities.pem"])),
            *("--token-url", f"{server.url}/t/oauth2/v2.0/token", "--client-id", "a-client"),
            *("--token-file", str(files["token"])),
        )
        assert "number of runs" in described
        path = shown["key"]["kid"].partition(service.url)[2]
        yield OwnersVault(file=file, private_key=files["own.pem"], path=path)
    finally:
        server.stop()


def test_a_run_over_a_key_in_a_vault(
    installation: Installation, plain_trips: Path, vault: OwnersVault, tmp_path: Path
) -> None:
    script = tmp_path / "write_all.py"
    script.write_text(WRITE_ALL)
    submission = Submission(
        script=script,
        arguments=("strongroom://vtrips", "strongroom://vreport/all"),
        reads=("vtrips",),
        writes=("vreport",),
        options=(f"--vault=vtrips={vault.file}", f"--vault=vreport={vault.file}"),
    )
    installation.done("vault", "encrypt", str(vault.file), "vtrips", str(plain_trips))
    digest = installation.pack(submission)
    recipient = str(installation.state.recipient_key.with_suffix(".jwk"))
    for dataset, access in (("vtrips", "--read"), ("vreport", "--write")):
        said = installation.done(
            "vault", "approve", str(vault.file), digest, "--dataset", dataset, access, "--recipient", recipient
        )
        assert "does not enforce" in said

    refused = installation.submit(submission)
    installation.assert_clear_end(refused, step=Step.RELEASE, says=["the vault does not release"])

    policy = installation.done("vault", "policy", str(vault.file)).strip().encode()
    installation.vault("PATCH", vault.path, policy_body(policy))
    ended = installation.submit_well(submission, options=("--num-executors", "2"))

    verified = installation.done("receipt", "verify", str(installation.receipt(ended)))
    assert "azure-managed-hsm" in verified
    assert "number of runs" in verified
    out = tmp_path / "plain"
    installation.done(
        *("vault", "decrypt", str(vault.file), "vreport", "--private-key", str(vault.private_key), "--to", str(out))
    )
    assert pq.read_table(out).num_rows == ROWS
    installation.assert_nothing_left()


def collateral_service(installation: Installation, folder: Path) -> tuple[Path, str, Path]:
    """Return configuration, address and certificate of a cache of what the platform's vendor publishes."""
    port, state = free_port(), folder / "collateral"
    url = f"https://127.0.0.1:{port}"
    trust = load_trust(installation.state.trust)
    config = {
        "version": 1,
        "url": url,
        "host": "127.0.0.1",
        "port": port,
        "state": str(state),
        "roots": [root.model_dump(mode="json") for root in trust.roots],
        "endorsements": {"kind": "folder", "path": str(endorsements_of(installation.state.platform))},
    }
    path = folder / "collateral.json"
    path.write_text(json.dumps(config))
    return path, url, state / "identity.pem"


@pytest.fixture
def provider(installation: Installation, tmp_path: Path) -> Iterator[AzureProvider]:
    """A provider of Azure Attestation: the trust file, and the key service in the vault's place, believe it."""
    trust = load_trust(installation.state.trust)
    made = AzureProvider(connect(trusted_service(trust, "attestation-service")))
    cache, url, identity = collateral_service(installation, tmp_path)
    settings = json.loads((installation.state.key_service / "config.json").read_text())
    believed = {"kind": "azure-attestation", "url": made.url, "authorities_pem": made.authority_pem}
    config = tmp_path / "key-service.json"
    config.write_text(json.dumps({**settings, "attestation_services": [believed]}))
    authority, policy = tmp_path / "provider.pem", tmp_path / "evidence-policy.txt"
    authority.write_text(made.authority_pem)
    policy.write_text(installation.done("policy", "azure"))
    installation.done("policy", "set", str(policy))
    try:
        with (
            installation.without("key-service"),
            installation.service("key-service", config=config),
            installation.service("collateral-service", config=cache),
        ):
            installation.done(
                *("trust", "azure", made.url, "--authorities", str(authority), "--yes"),
                *("--pcs", url, "--kds", url, "--endorsement-authorities", str(identity)),
            )
            yield made
        installation.done("trust", "remove", made.url)
    finally:
        installation.done("policy", "set", "--default")
        made.stop()


def test_a_run_over_a_key_in_a_vault_that_azure_attestation_appraises(
    installation: Installation, plain_trips: Path, vault: OwnersVault, provider: AzureProvider, tmp_path: Path
) -> None:
    """No service of Strongroom's is asked, but as Azure: the vault believes the provider, and so does who audits."""
    script = tmp_path / "write_all.py"
    script.write_text(WRITE_ALL)
    submission = Submission(
        script=script,
        arguments=("strongroom://atrips", "strongroom://areport/all"),
        reads=("atrips",),
        writes=("areport",),
        options=(f"--vault=atrips={vault.file}", f"--vault=areport={vault.file}", f"--attested-by={provider.url}"),
    )
    installation.done("vault", "encrypt", str(vault.file), "atrips", str(plain_trips))
    digest = installation.pack(submission)
    for dataset, access in (("atrips", "--read"), ("areport", "--write")):
        said = installation.done(
            "vault", "approve", str(vault.file), digest, "--dataset", dataset, access, "--issuer", provider.url
        )
        assert f"at {provider.url}" in said
    policy = installation.done("vault", "policy", str(vault.file)).strip().encode()
    assert {each["authority"] for each in json.loads(policy)["anyOf"]} == {provider.url}
    installation.vault("PATCH", vault.path, policy_body(policy))

    provider.rotate()
    unknown = installation.submit(submission)
    installation.assert_clear_end(unknown, step=Step.POLICY, says=["does not name", f"trust azure {provider.url}"])
    installation.done("trust", "azure", provider.url, "--yes")
    ended = installation.submit_well(submission, options=("--num-executors", "2"))

    receipt = installation.receipt(ended)
    verified = installation.done("receipt", "verify", str(receipt))
    assert f"{provider.url} (Azure Attestation)" in verified
    assert verify_by_both(receipt.read_bytes(), trust=load_trust(installation.state.trust)).vaults
    asked = {line.partition("?")[0] for line in provider.server.requests}
    assert asked == {"GET /certs", "POST /attest/SgxEnclave"}
    assert len(provider.bodies) >= 3
    out = tmp_path / "plain"
    installation.done(
        *("vault", "decrypt", str(vault.file), "areport", "--private-key", str(vault.private_key), "--to", str(out))
    )
    assert pq.read_table(out).num_rows == ROWS
    installation.assert_nothing_left()
