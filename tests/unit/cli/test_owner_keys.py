import stat
from pathlib import Path

import pytest
from click.testing import CliRunner

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import ConfigurationError
from strongroom.cli.main import strongroom
from strongroom.cli.owner_keys import (
    load_recipient_key,
    load_signing_key,
    make_owner_keys,
    public_key_of,
    thumbprint_of,
)
from strongroom.cli.state import State
from strongroom.crypto.jose import open_as_recipient, seal_to_recipients


@pytest.fixture
def state(tmp_path: Path) -> State:
    return State(root=tmp_path / "state")


def test_init_makes_keys_that_only_their_owner_may_read(state: State) -> None:
    result = CliRunner().invoke(strongroom, ["init", "--state", str(state.root)])

    assert result.exit_code == 0
    assert stat.S_IMODE(state.owner.stat().st_mode) == 0o700
    for path in (state.owner_key, state.submitter_key, state.recipient_key):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert public_key_of(str(path.with_suffix(".jwk"))).thumbprint in result.output


def test_init_never_overwrites_a_key(state: State) -> None:
    make_owner_keys(state)
    before = state.owner_key.read_bytes()

    result = CliRunner().invoke(strongroom, ["init", "--state", str(state.root)])

    assert result.exit_code == 1
    assert "there are keys" in result.output
    assert state.owner_key.read_bytes() == before


def test_public_files_hold_nothing_private(state: State) -> None:
    make_owner_keys(state)

    for path in state.owner.glob("*.jwk"):
        assert set(parse_json_object(path.read_bytes().strip())) == {"kty", "crv", "x", "y"}


def test_a_key_file_that_others_may_read_is_refused(state: State) -> None:
    make_owner_keys(state)
    state.owner_key.chmod(0o640)

    with pytest.raises(ConfigurationError, match="may be read by others"):
        load_signing_key(state.owner_key)


def test_a_missing_key_says_how_to_make_one(state: State) -> None:
    with pytest.raises(ConfigurationError) as refusal:
        load_signing_key(state.submitter_key)

    assert "strongroom init" in refusal.value.action


def test_a_file_that_is_no_key_is_refused(state: State) -> None:
    make_owner_keys(state)
    state.recipient_key.write_bytes(b"nonsense")

    with pytest.raises(ConfigurationError, match="does not hold a private key"):
        load_recipient_key(state.recipient_key)
    with pytest.raises(ConfigurationError, match="neither a JWK nor a private key"):
        public_key_of(str(state.recipient_key))


def test_a_key_is_named_by_its_file_or_its_thumbprint(state: State) -> None:
    thumbprint = make_owner_keys(state)["submitter"]

    assert thumbprint_of(thumbprint) == thumbprint
    assert thumbprint_of(str(state.submitter_key)) == thumbprint
    assert thumbprint_of(str(state.submitter_key.with_suffix(".jwk"))) == thumbprint


def test_output_sealed_to_the_public_file_opens_with_the_private_one(state: State) -> None:
    make_owner_keys(state)
    jwk = public_key_of(str(state.recipient_key.with_suffix(".jwk"))).to_jwk()

    sealed = seal_to_recipients(b"text", recipient_jwks=[jwk])

    assert open_as_recipient(sealed, key=load_recipient_key(state.recipient_key)) == b"text"
