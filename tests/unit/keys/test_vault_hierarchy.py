"""The hierarchy below a vault's key: fixed results, and what does not open elsewhere."""

from typing import Any

import pytest
from cryptography.hazmat.primitives import keywrap
from cryptography.hazmat.primitives.asymmetric import rsa
from tests.unit.crypto.test_released_keys import pkcs8

from strongroom.base.encoding import from_b64url
from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.crypto.keys import VerifyingKey
from strongroom.crypto.released_keys import check_value
from strongroom.keys.vault_hierarchy import ReleasedKey, accept_key, wrap_to_public_half, wrapped_by_vault
from strongroom.wire.vault_key import VaultKey

RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
OCT = SecretBytes(bytes(range(32)))
RUN, APPLICATION, DRIVER = "11" * 32, "22" * 32, "33" * 32
WRITE = "44" * 16
SECRET = SecretBytes(b"w" * 32)


def statement(**changed: Any) -> VaultKey:
    fields: dict[str, Any] = {
        "kind": "azure-managed-hsm",
        "url": "https://hsm.managedhsm.azure.net",
        "key": "trips",
        "key_version": "0a" * 16,
        "kty": "oct-HSM",
        "public_jwk": None,
        "check_value": check_value(OCT),
        "roots": ("00" * 32,),
        "owners": ("55" * 32,),
        **changed,
    }
    return VaultKey(**fields)


def rsa_statement(**changed: Any) -> VaultKey:
    jwk = VerifyingKey(RSA.public_key()).to_jwk()
    return statement(**{"kty": "RSA-HSM", "public_jwk": jwk, "check_value": None, **changed})


def symmetric() -> ReleasedKey:
    return accept_key(statement(), OCT)


def asymmetric() -> ReleasedKey:
    return accept_key(rsa_statement(), pkcs8(RSA))


@pytest.fixture(params=[symmetric, asymmetric], ids=["oct", "RSA"])
def released(request: pytest.FixtureRequest) -> ReleasedKey:
    made: ReleasedKey = request.param()
    return made


def test_derives_what_it_always_derived() -> None:
    key = symmetric()
    assert key.kek("trips").reveal().hex() == KEK
    assert key.run_share("trips", run=RUN, application=APPLICATION).reveal().hex() == SHARE
    write_id, secret = key.run_write("trips", run=RUN, application=APPLICATION, driver_key=DRIVER)
    assert (write_id, secret.reveal().hex()) == (WRITE_ID, WRITE_KEY)
    assert key.version_key("trips").verifying_key.thumbprint == VERSION_KEY


KEK = "8cc25c8f2170250b3f5b41b1833a87f78cb7c99c17d7023d895f9199ed11900a"
SHARE = "f02e1506c12f3f993dfee163c8a46e0fca1eaac9eaed53cf9e804477ae454b3b"
WRITE_ID = "2950ff0de89ce442c774ed1fb24ae2e2"
WRITE_KEY = "b4f1f5151e2fcadd67b68b3916986fa1dcdbb73c88589ee8867411c9c7731f87"
VERSION_KEY = "b4ac0a9a6fa5c316a9f8980ec10934dfe194cca90fe08782192bc6fc755bc6a7"


def test_everything_differs_by_dataset_run_application_driver_and_purpose(released: ReleasedKey) -> None:
    derived = [
        released.root,
        released.kek("trips"),
        released.kek("report"),
        released.run_share("trips", run=RUN, application=APPLICATION),
        released.run_share("trips", run=DRIVER, application=APPLICATION),
        released.run_share("trips", run=RUN, application=DRIVER),
        *(
            released.run_write(name, run=run, application=application, driver_key=driver)[1]
            for name, run, application, driver in (
                ("trips", RUN, APPLICATION, DRIVER),
                ("report", RUN, APPLICATION, DRIVER),
                ("trips", DRIVER, APPLICATION, DRIVER),
                ("trips", RUN, DRIVER, DRIVER),
                ("trips", RUN, APPLICATION, RUN),
            )
        ),
    ]
    assert len({each.reveal() for each in derived}) == len(derived)


def test_what_identifies_a_key_is_its_value_and_not_where_it_is_kept() -> None:
    moved = accept_key(rsa_statement(url="https://other.vault.azure.net", key="b", roots=("77" * 32,)), pkcs8(RSA))
    assert moved.kek("trips") == asymmetric().kek("trips")
    assert moved.key.identity != asymmetric().key.identity


def test_opens_write_keys_of_runs_and_of_imports(released: ReleasedKey) -> None:
    wrapped = from_b64url(released.wrap(SECRET, dataset="trips", write_id=WRITE))
    assert released.unwrap(wrapped, dataset="trips", write_id=WRITE) == SECRET
    imported = imports(released, SECRET.reveal())
    assert released.unwrap(imported, dataset="trips", write_id=WRITE) == SECRET


def imports(released: ReleasedKey, secret: bytes) -> bytes:
    if released.key.is_rsa:
        return wrap_to_public_half(released.key, SecretBytes(secret), dataset="trips", write_id=WRITE)
    return wrapped_by_vault(released.key, keywrap.aes_key_wrap(OCT.reveal(), secret))


def test_refuses_wrapped_keys_of_another_place_version_or_key(released: ReleasedKey) -> None:
    wrapped = from_b64url(released.wrap(SECRET, dataset="trips", write_id=WRITE))
    for dataset, write_id in (("report", WRITE), ("trips", "55" * 16)):
        with pytest.raises(IntegrityError):
            released.unwrap(wrapped, dataset=dataset, write_id=write_id)
    for good in (wrapped, imports(released, SECRET.reveal())):
        other_version = good[:1] + b"\xff" * 16 + good[17:]
        flipped = good[:-1] + bytes([good[-1] ^ 1])
        for bad in (other_version, flipped):
            with pytest.raises(IntegrityError):
                released.unwrap(bad, dataset="trips", write_id=WRITE)
    for bad in (b"", b"\x7f", b"\x7f" + bytes.fromhex("0a" * 16) + b"x" * 61):
        with pytest.raises((IntegrityError, FormatError)):
            released.unwrap(bad, dataset="trips", write_id=WRITE)


def test_an_imports_key_is_bound_to_its_dataset_where_the_owner_wraps_it() -> None:
    wrapped = wrap_to_public_half(rsa_statement(), SECRET, dataset="trips", write_id=WRITE)
    with pytest.raises(IntegrityError):
        asymmetric().unwrap(wrapped, dataset="report", write_id=WRITE)


def test_each_kind_of_import_is_for_its_kind_of_key() -> None:
    with pytest.raises(FormatError):
        wrap_to_public_half(statement(), SECRET, dataset="trips", write_id=WRITE)
    with pytest.raises(FormatError):
        wrapped_by_vault(rsa_statement(), b"x" * 40)
    with pytest.raises(FormatError):
        wrap_to_public_half(rsa_statement(), SecretBytes(b"short"), dataset="trips", write_id=WRITE)


def test_refuses_another_key_than_the_pinned_one() -> None:
    with pytest.raises(IntegrityError):
        accept_key(statement(), SecretBytes(bytes(32)))
    with pytest.raises(IntegrityError):
        accept_key(rsa_statement(), pkcs8(rsa.generate_private_key(public_exponent=65537, key_size=2048)))
    with pytest.raises(FormatError):
        accept_key(statement(), SecretBytes(bytes(16)))


def test_refuses_digests_that_are_none(released: ReleasedKey) -> None:
    with pytest.raises(FormatError):
        released.run_share("trips", run="zz", application=APPLICATION)
    with pytest.raises(FormatError):
        released.run_share("trips", run=RUN, application="22")
    with pytest.raises(FormatError):
        released.run_write("trips", run=RUN, application=APPLICATION, driver_key="33")
