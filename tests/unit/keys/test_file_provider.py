import stat
from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError, IntegrityError
from strongroom.base.secret import SecretBytes
from strongroom.keys.providers import open_master_key

KEY = SecretBytes(b"a key")


def test_makes_an_owner_only_file_once_and_opens_it_again(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/new/mek"
    wrapped = open_master_key(uri, create=True).wrap(KEY, context=b"c")
    path = tmp_path / "new" / "mek"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_bytes()) == 32
    assert open_master_key(uri, create=True).unwrap(wrapped, context=b"c") == KEY
    with pytest.raises(IntegrityError):
        open_master_key(uri, create=False).unwrap(wrapped, context=b"another")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_refuses_a_file_that_others_may_use(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "mek"
    path.write_bytes(bytes(32))
    path.chmod(mode)
    with pytest.raises(ConfigurationError, match="alone"):
        open_master_key(f"file://{path}", create=False)


def test_refuses_a_link_in_place_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "real"
    path.write_bytes(bytes(32))
    path.chmod(0o600)
    (tmp_path / "mek").symlink_to(path)
    with pytest.raises(ConfigurationError):
        open_master_key(f"file://{tmp_path}/mek", create=False)


@pytest.mark.parametrize("content", [b"", bytes(31), bytes(33)])
def test_refuses_a_file_that_holds_no_key(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mek"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(ConfigurationError):
        open_master_key(f"file://{path}", create=False)


@pytest.mark.parametrize("uri", ["", "mek", "file:relative", "file://host/mek", "file:///mek?x", "vault:///mek"])
def test_refuses_addresses_of_another_form(uri: str) -> None:
    with pytest.raises(ConfigurationError):
        open_master_key(uri, create=False)


def test_a_missing_key_is_not_replaced_by_a_new_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        open_master_key(f"file://{tmp_path}/mek", create=False)
    assert not (tmp_path / "mek").exists()
