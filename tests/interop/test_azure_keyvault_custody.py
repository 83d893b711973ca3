"""Azure's own key vault client: deleting, recovering, backing up, rotating; page by page."""

import os
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError
from azure.keyvault.keys import KeyClient, KeyRotationLifetimeAction, KeyRotationPolicy, KeyRotationPolicyAction
from azure.keyvault.keys.crypto import CryptographyClient, KeyWrapAlgorithm
from tests.support.azure_vault import release_policy
from tests.support.service_processes import Installation

AT_ONCE = {"_polling_interval": 0}


def test_deletes_recovers_and_purges(client: KeyClient) -> None:
    first = client.create_oct_key("gone", size=256, tags={"a": "b"})
    newest = client.create_oct_key("gone", size=256)
    poller = client.begin_delete_key("gone", **AT_ONCE)
    poller.wait()
    deleted = poller.result()
    assert deleted.id == newest.id
    assert deleted.recovery_id == client.vault_url.rstrip("/") + "/deletedkeys/gone"
    assert deleted.properties.recovery_level == "Recoverable+Purgeable"
    assert deleted.properties.recoverable_days == 90
    assert deleted.deleted_date is not None
    assert deleted.scheduled_purge_date == deleted.deleted_date + timedelta(days=90)
    with pytest.raises(ResourceNotFoundError):
        client.get_key("gone")
    with pytest.raises(ResourceExistsError) as taken:
        client.create_oct_key("gone", size=256)
    assert taken.value.error is not None
    assert taken.value.error.innererror is not None
    assert taken.value.error.innererror["code"] == "ObjectIsDeletedButRecoverable"
    assert "gone" in {each.name for each in client.list_deleted_keys()}
    assert client.get_deleted_key("gone").recovery_id == deleted.recovery_id
    recovering = client.begin_recover_deleted_key("gone", **AT_ONCE)
    recovering.wait()
    assert recovering.result().id == newest.id
    assert client.get_key("gone", first.properties.version).properties.tags == {"a": "b"}
    client.begin_delete_key("gone", **AT_ONCE).wait()
    client.purge_deleted_key("gone")
    with pytest.raises(ResourceNotFoundError):
        client.get_deleted_key("gone")
    assert client.create_oct_key("gone", size=256).id != newest.id


def test_backs_up_and_restores_every_version(client: KeyClient, options: dict[str, Any]) -> None:
    versions = [client.create_oct_key("kept", size=256).properties.version for _ in range(3)]
    secret = os.urandom(32)
    with CryptographyClient(client.get_key("kept", versions[0]).id, **options) as crypto:
        wrapped = crypto.wrap_key(KeyWrapAlgorithm.ckm_aes_key_wrap, secret).encrypted_key
    backup = client.backup_key("kept")
    assert backup is not None
    with pytest.raises(ResourceExistsError):
        client.restore_key_backup(backup)
    client.begin_delete_key("kept", **AT_ONCE).wait()
    with pytest.raises(ResourceExistsError):
        client.restore_key_backup(backup)
    client.purge_deleted_key("kept")
    assert client.restore_key_backup(backup).properties.version == versions[-1]
    assert [each.version for each in client.list_properties_of_key_versions("kept")] == versions
    with CryptographyClient(client.get_key("kept", versions[0]).id, **options) as crypto:
        assert crypto.unwrap_key(KeyWrapAlgorithm.ckm_aes_key_wrap, wrapped).key == secret


@pytest.mark.parametrize("position", [0, 8, -1])
def test_refuses_a_backup_that_was_changed(client: KeyClient, position: int) -> None:
    if "changed" not in {each.name for each in client.list_properties_of_keys()}:
        client.create_oct_key("changed", size=256)
    backup = bytearray(client.backup_key("changed") or b"")
    backup[position] ^= 1
    with pytest.raises(HttpResponseError) as refused:
        client.restore_key_backup(bytes(backup))
    assert refused.value.status_code == 400


def test_lists_page_by_page(client: KeyClient) -> None:
    names = {f"page-{number:02}" for number in range(7)}
    for name in names:
        client.create_oct_key(name, size=128)
    client.create_oct_key("page-00", size=128)
    pages = [[each.name for each in page] for page in client.list_properties_of_keys(max_page_size=3).by_page()]
    assert max(map(len, pages)) == 3
    listed = [name for page in pages for name in page]
    assert len(set(listed)) == len(listed)
    assert names <= set(listed)
    for _ in range(4):
        client.create_oct_key("page-01", size=128)
    versions = client.list_properties_of_key_versions("page-01", max_page_size=2).by_page()
    assert [len(list(page)) for page in versions] == [2, 2, 1]
    for name in names:
        client.begin_delete_key(name, **AT_ONCE).wait()
    deleted = [[each.name for each in page] for page in client.list_deleted_keys(max_page_size=2).by_page()]
    assert names <= {name for page in deleted for name in page}
    assert max(map(len, deleted)) == 2


def test_rotates_like_the_newest_version(installed: Installation, client: KeyClient) -> None:
    policy = release_policy(installed)
    expiry = datetime.now(tz=UTC) + timedelta(days=1)
    first = client.create_ec_key(
        "rotated", curve="P-384", hardware_protected=True, exportable=True, release_policy=policy, expires_on=expiry
    )
    client.update_key_rotation_policy("rotated", KeyRotationPolicy(), expires_in="P1Y")
    second = client.rotate_key("rotated")
    assert (second.key_type, second.key.crv) == ("EC-HSM", "P-384")
    assert second.id != first.id
    assert second.key.x != first.key.x
    assert second.properties.exportable
    assert second.properties.release_policy is not None
    assert second.properties.release_policy.encoded_policy == policy.encoded_policy
    assert second.properties.created_on is not None
    assert second.properties.expires_on is not None
    assert second.properties.expires_on - second.properties.created_on >= timedelta(days=365)
    assert client.get_key("rotated").id == second.id


def test_keeps_rotation_policies(client: KeyClient) -> None:
    client.create_rsa_key("policy", size=2048)
    default = client.get_key_rotation_policy("policy")
    assert [(each.action, each.time_before_expiry) for each in default.lifetime_actions] == [
        (KeyRotationPolicyAction.notify, "P30D")
    ]
    actions = [
        KeyRotationLifetimeAction(KeyRotationPolicyAction.rotate, time_after_create="P2M"),
        KeyRotationLifetimeAction(KeyRotationPolicyAction.notify, time_before_expiry="P10D"),
    ]
    set_policy = client.update_key_rotation_policy(
        "policy", KeyRotationPolicy(), lifetime_actions=actions, expires_in="P90D"
    )
    got = client.get_key_rotation_policy("policy")
    for policy in (set_policy, got):
        assert policy.id == f"{client.vault_url.rstrip('/')}/keys/policy/rotationpolicy"
        assert policy.expires_in == "P90D"
        assert [(each.action, each.time_after_create, each.time_before_expiry) for each in policy.lifetime_actions] == [
            (KeyRotationPolicyAction.rotate, "P2M", None),
            (KeyRotationPolicyAction.notify, None, "P10D"),
        ]
    with pytest.raises(HttpResponseError) as refused:
        client.update_key_rotation_policy("policy", KeyRotationPolicy(), expires_in="P27D")
    assert refused.value.status_code == 400


def test_has_no_attestation_of_keys(client: KeyClient) -> None:
    key = client.create_oct_key("unattested", size=256)
    with pytest.raises(HttpResponseError, match="no HSM") as refused:
        client.get_key_attestation("unattested", key.properties.version)
    assert refused.value.status_code == 403


@pytest.mark.parametrize("count", [1, 32, 128])
def test_gives_random_bytes(client: KeyClient, count: int) -> None:
    assert len(client.get_random_bytes(count)) == count


def test_refuses_more_random_bytes_than_the_contract_has(client: KeyClient) -> None:
    with pytest.raises(HttpResponseError) as refused:
        client.get_random_bytes(129)
    assert refused.value.status_code == 400
