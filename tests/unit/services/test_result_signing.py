"""Signing keys are replaced, and what the old ones signed stays good until it expires."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.attestation_service import URL, Installation
from tests.support.platform import NOW, Bench

from strongroom.attestation.result import verify_result
from strongroom.base.encoding import from_any_b64
from strongroom.base.errors import UnavailableError, VerificationError
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.x509 import LeafUsage, verify_leaf
from strongroom.services.attestation_service import COMMON_NAME
from strongroom.services.identity import install_successor, open_identity, prepare_successor
from strongroom.services.result_signing import ResultProperties


@pytest.fixture
def installed(tmp_path: Path) -> Iterator[Installation]:
    made = Installation(tmp_path, Bench.new())
    yield made
    made.store.close()


def kids(installed: Installation) -> list[str]:
    return [str(key["kid"]) for key in published(installed)]


def published(installed: Installation) -> list[dict[str, Any]]:
    return [dict(key) for key in installed.service.signer.published()]  # type: ignore[arg-type, call-overload]


def demand_good(installed: Installation, token: str) -> None:
    """What a relying party does that pinned the service's identity: the certificate from /certs, or from the token."""
    header = unverified_header(token)
    chains = [key["x5c"] for key in published(installed) if key["kid"] == header["kid"]]
    assert chains == [header["x5c"]]
    leaf = verify_leaf(
        [from_any_b64(each) for each in header["x5c"]],
        identity=installed.identity.identity,
        usage=LeafUsage.SIGNING,
        now=installed.clock.now(),
    )
    verify_jws(token, key=leaf.public_key, typ="JWT")


def test_both_keys_are_published_until_the_old_ones_last_token_expired(installed: Installation) -> None:
    signer = installed.service.signer
    old = signer.sign({})
    first = signer.thumbprint
    second = signer.rotate()
    new = signer.sign({})
    assert kids(installed) == [second, first]
    for token in (old, new):
        demand_good(installed, token)
    installed.clock.at += timedelta(hours=8)
    assert kids(installed) == [second, first]
    installed.clock.at += timedelta(hours=1, seconds=1)
    assert kids(installed) == [second]


def test_a_key_that_signed_for_a_year_is_published_for_a_year(installed: Installation) -> None:
    signer = installed.service.signer
    signer.sign({}, ResultProperties(lifetime=timedelta(days=365)))
    signer.rotate()
    installed.clock.at += timedelta(days=364)
    assert len(kids(installed)) == 2


def test_keys_and_their_certificates_survive_a_restart(installed: Installation) -> None:
    old = installed.service.signer.sign({})
    installed.service.signer.rotate()
    new, before = installed.service.signer.sign({}), published(installed)
    installed.clock.at += timedelta(hours=2)
    installed.restart()
    assert published(installed) == before
    for token in (old, new):
        demand_good(installed, token)


def test_a_certificate_is_as_old_as_its_key_and_not_as_the_process(installed: Installation) -> None:
    # Receipts are verified at the time of the run: a certificate of a later start would not be valid then.
    at_first = installed.clock.at
    token = installed.service.signer.sign({})
    installed.clock.at += timedelta(hours=5)
    installed.restart()
    installed.clock.at = at_first
    demand_good(installed, token)


def test_the_private_half_of_an_old_key_is_gone_from_the_disk(installed: Installation) -> None:
    folder = Path(installed.config.state)
    before = (folder / "signing.key").read_bytes()
    installed.service.signer.rotate()
    assert (folder / "signing.key").stat().st_mode & 0o777 == 0o600
    assert before not in [path.read_bytes() for path in folder.iterdir()]


def test_a_rotation_that_a_crash_cut_short_is_finished_at_the_next_start(installed: Installation) -> None:
    token, first = installed.service.signer.sign({}), installed.service.signer.thumbprint
    path = installed.store._place.path
    path.rename(path.with_name("moved"))
    with pytest.raises(UnavailableError):
        installed.service.signer.rotate()  # the new key's file is written, the store's row is not
    assert kids(installed) == [first]
    path.with_name("moved").rename(path)
    installed.restart()
    assert kids(installed)[1:] == [first]
    assert kids(installed)[0] != first
    demand_good(installed, token)
    demand_good(installed, installed.service.signer.sign({}))


def test_a_key_is_replaced_when_it_is_old_enough(installed: Installation) -> None:
    installed.restart(signing_key_max_age_days=30)
    first = installed.service.signer.thumbprint
    installed.clock.at += timedelta(days=30)
    installed.service.signer.sign({})
    assert installed.service.signer.thumbprint == first
    installed.clock.at += timedelta(seconds=1)
    token = installed.service.signer.sign({})
    assert unverified_header(token)["kid"] == installed.service.signer.thumbprint != first


def test_the_store_is_written_before_a_token_outlives_what_is_known_and_not_for_each(installed: Installation) -> None:
    signer = installed.service.signer
    signer.sign({})
    installed.store.close()
    assert signer.sign({})  # nothing new to note
    with pytest.raises(UnavailableError):
        signer.sign({}, ResultProperties(lifetime=timedelta(days=1)))


def test_another_identity_certifies_the_key_anew(installed: Installation) -> None:
    folder = Path(installed.config.state)
    installed.store.close()
    for name in ("identity.key", "identity.pem"):
        (folder / name).unlink()
    open_identity(folder, common_name=COMMON_NAME, sans=["127.0.0.1"], now=NOW)
    installed.restart()
    demand_good(installed, installed.service.signer.sign({}))


def test_keys_that_a_replaced_identity_certified_are_not_published(installed: Installation) -> None:
    signer, folder = installed.service.signer, Path(installed.config.state)
    signer.sign({})
    newest = signer.rotate()
    assert len(kids(installed)) == 2
    installed.store.close()
    prepare_successor(folder, common_name=COMMON_NAME, now=NOW)
    install_successor(folder, old=installed.identity.identity)
    installed.restart()
    assert kids(installed) == [newest]
    demand_good(installed, installed.service.signer.sign({}))


def test_a_draft_verifies_with_no_key(installed: Installation) -> None:
    draft = installed.service.signer.draft({"x-ms-policy-hash": "x", "x-ms-runtime": {}})
    for key in published(installed):
        with pytest.raises(VerificationError):
            verify_result(draft, issuer=URL, verifying_key=VerifyingKey.from_jwk(key), now=NOW)
