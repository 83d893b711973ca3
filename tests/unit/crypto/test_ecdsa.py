import pytest

from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.ecdsa import key_from_point, point_of_key
from strongroom.crypto.keys import SigningKey


def test_a_key_read_from_its_point_verifies() -> None:
    key = SigningKey.generate("ES256")
    read = key_from_point(point_of_key(key.verifying_key))
    read.verify(b"data", key.sign(b"data"))
    with pytest.raises(VerificationError):
        read.verify(b"other data", key.sign(b"data"))


@pytest.mark.parametrize("point", [b"", bytes(63), bytes(65), bytes(64), b"\xff" * 64])
def test_refuses_what_is_no_point_of_the_curve(point: bytes) -> None:
    with pytest.raises(FormatError):
        key_from_point(point)


def test_other_keys_have_no_point() -> None:
    with pytest.raises(FormatError):
        point_of_key(SigningKey.generate("Ed25519").verifying_key)
