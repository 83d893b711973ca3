from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError
from strongroom.cli.state import find_state, location_of, read_file


def test_a_folder_on_the_command_line_wins() -> None:
    environment = {"STRONGROOM_STATE": "/from/environment", "HOME": "/home/x"}

    assert find_state(Path("/given"), environment=environment).root == Path("/given")
    assert find_state(None, environment=environment).root == Path("/from/environment")


def test_otherwise_it_is_in_the_home_folder() -> None:
    assert find_state(None, environment={"HOME": "/home/x"}).root == Path("/home/x/.local/share/strongroom")
    assert find_state(None, environment={"HOME": "/h", "XDG_DATA_HOME": "/d"}).root == Path("/d/strongroom")


def test_refuses_to_guess_without_a_home_folder() -> None:
    with pytest.raises(ConfigurationError, match="no home folder") as refusal:
        find_state(None, environment={})

    assert "--state" in refusal.value.action


def test_what_an_operator_sees_and_what_is_the_owners_lie_apart() -> None:
    state = find_state(Path("/s"))
    owners = [state.owner_key, state.submitter_key, state.recipient_key, state.attestation_service, state.key_service]
    operators = [state.platform, state.packages, state.runs, state.logs, state.processes]

    assert all(path.is_relative_to(state.owner) for path in [*owners, state.approvals])
    assert all(path.is_relative_to(state.operator) for path in operators)
    assert state.storage("trips") == "file:///s/operator/storage/trips"


def test_a_location_is_a_path_or_an_address(tmp_path: Path) -> None:
    assert location_of(str(tmp_path / "a b")) == (tmp_path / "a b").as_uri()
    assert location_of("file:///data/x") == "file:///data/x"


@pytest.mark.parametrize("text", ["s3://bucket/x", "https://host/x", "file://host/x", "file:///a/../b"])
def test_refuses_storage_that_cannot_be_used(text: str) -> None:
    with pytest.raises(ConfigurationError):
        location_of(text)


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"the receipt .*x cannot be read: No such file"):
        read_file(tmp_path / "x", what="the receipt")
