import contextlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.keys.hierarchy import (
    derive_file_key,
    kek_version_of,
    manifest_key,
    parquet_key_context,
    parquet_wrapping_key,
    run_secret,
    unwrap_write_key,
    wrap_write_key,
)

KEK, WRITE_KEY = SecretBytes(b"k" * 32), SecretBytes(b"w" * 32)
WRITE_ID, KEK_VERSION, FILE_ID = "1" * 32, "2" * 32, "3" * 32


def wrapped() -> bytes:
    return wrap_write_key(KEK, WRITE_KEY, dataset="trips", write_id=WRITE_ID, kek_version=KEK_VERSION)


def test_a_wrapped_write_key_opens_for_its_dataset_and_write_and_names_its_kek() -> None:
    assert unwrap_write_key(KEK, wrapped(), dataset="trips", write_id=WRITE_ID) == WRITE_KEY
    assert kek_version_of(wrapped()) == KEK_VERSION


@pytest.mark.parametrize(
    ("kek", "dataset", "write_id"),
    [(SecretBytes(b"x" * 32), "trips", WRITE_ID), (KEK, "other", WRITE_ID), (KEK, "trips", "4" * 32)],
)
def test_a_wrapped_write_key_opens_nowhere_else(kek: SecretBytes, dataset: str, write_id: str) -> None:
    with pytest.raises(IntegrityError):
        unwrap_write_key(kek, wrapped(), dataset=dataset, write_id=write_id)


@pytest.mark.parametrize(("made", "asked"), [(None, "iban"), ("iban", None), ("iban", "ssn")])
def test_a_wrapped_key_opens_for_its_column_only(made: str | None, asked: str | None) -> None:
    place = {"dataset": "trips", "write_id": WRITE_ID}
    sealed = wrap_write_key(KEK, WRITE_KEY, **place, kek_version=KEK_VERSION, column=made)
    assert unwrap_write_key(KEK, sealed, **place, column=made) == WRITE_KEY
    with pytest.raises(IntegrityError):
        unwrap_write_key(KEK, sealed, **place, column=asked)


def test_a_wrapped_key_opens_under_the_version_of_the_kek_that_it_names_only() -> None:
    other = wrap_write_key(KEK, WRITE_KEY, dataset="trips", write_id=WRITE_ID, kek_version="9" * 32)
    mixed = other[:17] + wrapped()[17:]
    with pytest.raises(IntegrityError):
        unwrap_write_key(KEK, mixed, dataset="trips", write_id=WRITE_ID)


@pytest.mark.parametrize("size_bytes", [0, 16, 24, 31, 33])
def test_keys_have_256_bits_throughout(size_bytes: int) -> None:
    short = SecretBytes(bytes(size_bytes))
    place = {"dataset": "trips", "write_id": WRITE_ID}
    for make in (
        lambda: wrap_write_key(short, WRITE_KEY, **place, kek_version=KEK_VERSION),
        lambda: wrap_write_key(KEK, short, **place, kek_version=KEK_VERSION),
        lambda: unwrap_write_key(short, wrapped(), **place),
        lambda: derive_file_key(short, file_id=FILE_ID),
        lambda: manifest_key(short),
        lambda: parquet_wrapping_key(short, file_id=FILE_ID),
    ):
        with pytest.raises(FormatError):
            make()


def test_the_context_of_a_parquet_key_names_everything_that_it_belongs_to() -> None:
    place = {"dataset": "trips", "write_id": WRITE_ID, "file_id": FILE_ID, "column": "iban"}
    changes = {"dataset": "other", "write_id": FILE_ID, "file_id": WRITE_ID, "column": None}
    contexts = [parquet_key_context(**{**place, name: value}) for name, value in changes.items()]
    assert len({parquet_key_context(**place), *contexts}) == len(contexts) + 1


def test_every_byte_of_a_wrapped_write_key_matters() -> None:
    good = wrapped()
    for position in range(len(good)):
        bad = good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :]
        with pytest.raises((FormatError, IntegrityError)):
            unwrap_write_key(KEK, bad, dataset="trips", write_id=WRITE_ID)


@given(st.binary(max_size=120))
def test_any_bytes_unwrap_or_raise_an_error_of_ours(data: bytes) -> None:
    with contextlib.suppress(FormatError, IntegrityError):
        unwrap_write_key(KEK, data, dataset="trips", write_id=WRITE_ID)


def test_derived_keys_are_of_their_purpose_and_file() -> None:
    keys = [
        derive_file_key(WRITE_KEY, file_id=FILE_ID),
        derive_file_key(WRITE_KEY, file_id="5" * 32),
        derive_file_key(KEK, file_id=FILE_ID),
        manifest_key(WRITE_KEY),
        parquet_wrapping_key(WRITE_KEY, file_id=FILE_ID),
        parquet_wrapping_key(WRITE_KEY, file_id="5" * 32),
    ]
    assert len({key.reveal() for key in keys}) == len(keys)
    assert {len(key) for key in keys} == {32}


def test_file_key_is_hkdf_with_the_file_id_as_salt() -> None:
    # Python's own HMAC, so that other implementations (Java's) can be held against a fixed construction.
    extracted = hmac.digest(bytes.fromhex(FILE_ID), WRITE_KEY.reveal(), "sha256")
    expected = hmac.digest(extracted, b"strongroom/1 file key\x01", "sha256")
    assert derive_file_key(WRITE_KEY, file_id=FILE_ID).reveal() == expected


def test_run_secret_needs_every_share_and_binds_run_application_and_driver() -> None:
    shares = {"a" * 64: SecretBytes(b"1" * 32), "b" * 64: SecretBytes(b"2" * 32)}
    base = {"run": "0" * 64, "application": "1" * 64, "driver_key": "2" * 64}
    secret = run_secret(shares, **base)
    assert run_secret(dict(reversed(shares.items())), **base) == secret
    assert run_secret({**shares, "b" * 64: SecretBytes(b"3" * 32)}, **base) != secret
    for name in base:
        assert run_secret(shares, **{**base, name: "f" * 64}) != secret
    with pytest.raises(FormatError):
        run_secret({}, **base)
    with pytest.raises(FormatError):
        run_secret({"a" * 64: SecretBytes(b"short")}, **base)


@pytest.mark.parametrize("file_id", ["", "zz" * 16, "A" * 32, "1" * 31])
def test_refuses_file_ids_of_another_form(file_id: str) -> None:
    with pytest.raises(FormatError):
        derive_file_key(WRITE_KEY, file_id=file_id)
