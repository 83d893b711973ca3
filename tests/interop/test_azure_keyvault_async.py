"""Azure's own asynchronous clients: the same contract over `azure.keyvault.keys.aio`."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any, Self

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError
from azure.core.pipeline.transport import AsyncioRequestsTransport
from azure.keyvault.keys import KeyRotationLifetimeAction, KeyRotationPolicy, KeyRotationPolicyAction
from azure.keyvault.keys.aio import KeyClient
from azure.keyvault.keys.crypto import EncryptionAlgorithm, KeyWrapAlgorithm, SignatureAlgorithm
from azure.keyvault.keys.crypto.aio import CryptographyClient
from tests.support.azure_vault import (
    ALGORITHMS,
    Credential,
    attested,
    client_options,
    opened,
    release_policy,
)
from tests.support.service_processes import Installation

AT_ONCE = {"_polling_interval": 0}


class AsyncCredential:
    """The same token, asked for as the asynchronous clients do."""

    def __init__(self, credential: Credential) -> None:
        self._credential = credential

    async def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return self._credential.get_token(*scopes, **options)

    async def close(self) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_args: object) -> None:
        pass


def options(installed: Installation) -> dict[str, Any]:
    made = client_options(installed)
    transport = AsyncioRequestsTransport(connection_verify=made["connection_verify"])
    return {"credential": AsyncCredential(made["credential"]), "transport": transport}


def run(installed: Installation, test: Callable[[KeyClient], Awaitable[None]]) -> None:
    async def with_client() -> None:
        async with KeyClient(installed.keys.url, **options(installed)) as client:
            await test(client)

    asyncio.run(with_client())


def test_lives_through_a_keys_life(installed: Installation) -> None:
    async def life(client: KeyClient) -> None:
        first = await client.create_rsa_key("life", size=2048)
        assert (await client.get_key("life")).id == first.id
        await client.update_key_properties("life", tags={"a": "b"})
        actions = [KeyRotationLifetimeAction(KeyRotationPolicyAction.rotate, time_after_create="P30D")]
        await client.update_key_rotation_policy("life", KeyRotationPolicy(), lifetime_actions=actions)
        policy = await client.get_key_rotation_policy("life")
        assert policy.lifetime_actions[0].time_after_create == "P30D"
        second = await client.rotate_key("life")
        versions = [each.version async for each in client.list_properties_of_key_versions("life", max_page_size=1)]
        assert versions == [first.properties.version, second.properties.version]
        assert "life" in [each.name async for each in client.list_properties_of_keys()]
        backup = await client.backup_key("life")
        assert backup is not None
        deleted = await client.delete_key("life", **AT_ONCE)
        assert deleted.id == second.id
        assert "life" in [each.name async for each in client.list_deleted_keys()]
        assert (await client.recover_deleted_key("life", **AT_ONCE)).id == second.id
        await client.delete_key("life", **AT_ONCE)
        await client.purge_deleted_key("life")
        with pytest.raises(ResourceNotFoundError):
            await client.get_key("life")
        assert (await client.restore_key_backup(backup)).id == second.id
        assert len(await client.get_random_bytes(16)) == 16

    run(installed, life)


def test_uses_keys(installed: Installation) -> None:
    async def use(client: KeyClient) -> None:
        rsa = await client.create_rsa_key("rsa", size=2048)
        curve = await client.create_ec_key("curve")
        symmetric = await client.create_oct_key("symmetric", size=256, hardware_protected=True)
        secret, digest = os.urandom(32), os.urandom(32)
        async with CryptographyClient(rsa.id, **options(installed)) as crypto:
            wrapped = await crypto.wrap_key(KeyWrapAlgorithm.rsa_oaep_256, secret)
            assert (await crypto.unwrap_key(KeyWrapAlgorithm.rsa_oaep_256, wrapped.encrypted_key)).key == secret
            sealed = await crypto.encrypt(EncryptionAlgorithm.rsa_oaep_256, secret)
            value = await crypto.decrypt(EncryptionAlgorithm.rsa_oaep_256, sealed.ciphertext)
            assert value.plaintext == secret
        async with CryptographyClient(curve.id, **options(installed)) as crypto:
            signature = (await crypto.sign(SignatureAlgorithm.es256, digest)).signature
            assert (await crypto.verify(SignatureAlgorithm.es256, digest, signature)).is_valid
        async with CryptographyClient(symmetric.id, **options(installed)) as crypto:
            made = await crypto.encrypt(EncryptionAlgorithm.a256_gcm, secret, additional_authenticated_data=b"a")
            got = await crypto.decrypt(
                EncryptionAlgorithm.a256_gcm,
                made.ciphertext,
                iv=made.iv,
                authentication_tag=made.tag,
                additional_authenticated_data=b"a",
            )
            assert got.plaintext == secret

    run(installed, use)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("versioned", [True, False])
def test_releases_a_key(installed: Installation, algorithm: str | None, *, versioned: bool) -> None:
    async def release(client: KeyClient) -> None:
        key = await client.create_oct_key(
            "released", size=256, hardware_protected=True, exportable=True, release_policy=release_policy(installed)
        )
        version = key.properties.version if versioned else None
        answer = await client.release_key(
            "released", attested(installed), version=version, algorithm=algorithm, nonce="abc"
        )
        payload, secret = opened(installed, answer.value)
        assert (payload["request"]["nonce"], payload["request"]["kid"], len(secret)) == ("abc", key.id, 32)

    run(installed, release)


def test_refuses_what_the_synchronous_client_is_refused(installed: Installation) -> None:
    async def attempt(client: KeyClient) -> None:
        await client.create_oct_key("kept", size=256)
        with pytest.raises(HttpResponseError, match="not exportable"):
            await client.release_key("kept", attested(installed))
        stranger = options(installed)
        stranger["credential"].get_token = _strange_token
        async with KeyClient(installed.keys.url, **stranger) as other:
            with pytest.raises(ClientAuthenticationError):
                await other.get_key("kept")

    run(installed, attempt)


async def _strange_token(*_scopes: str, **_options: Any) -> AccessToken:
    return AccessToken("a.b.c", 1 << 33)
