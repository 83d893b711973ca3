"""Key metadata of files in which columns have keys: any bytes are read, or refused with an error of ours."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, IntegrityError, RefusedError
from strongroom.crypto.random import random_secret
from strongroom.datasets.file_keys import FileKeys, column_of, read_material

KEYS = FileKeys(
    dataset="people",
    write_id="1" * 32,
    file_id="2" * 32,
    write_key=random_secret(),
    column_keys={"iban": random_secret()},
)


@given(st.binary(max_size=300))
def test_any_bytes_are_key_metadata_or_refused(metadata: bytes) -> None:
    with contextlib.suppress(FormatError, IntegrityError):
        read_material(metadata)


@given(st.text(max_size=200), st.sampled_from([None, "iban", "ssn"]))
def test_any_text_unwraps_or_is_refused(wrapped: str, column: str | None) -> None:
    with contextlib.suppress(IntegrityError, RefusedError):
        KEYS.unwrap(wrapped, column)


@given(st.text(max_size=100))
def test_any_name_is_a_columns_or_refused(name: str) -> None:
    with contextlib.suppress(IntegrityError):
        assert column_of(name) is None or name.startswith("column/")
