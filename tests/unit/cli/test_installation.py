import platform
import socket
from pathlib import Path

import pytest
from click.testing import CliRunner

from strongroom.base.errors import ConfigurationError
from strongroom.cli import installation
from strongroom.cli.main import strongroom
from strongroom.wire.trust import TrustedService


def service(port: int) -> TrustedService:
    return TrustedService(
        service="key-service",
        url=f"https://127.0.0.1:{port}",
        identity="ab" * 32,
        certificate_pem="",
        mode="owner-operated",
        measurement=None,
        configuration="cd" * 32,
        log_key=None,
    )


def test_a_taken_port_is_named_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]

        with pytest.raises(ConfigurationError, match=f"port {port} of the key-service is taken") as refusal:
            installation._demand_free_port(service(port))

    assert "ss -ltnp" in refusal.value.action


def test_a_port_once_chosen_stays(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"port": 4711}')

    assert installation._port_of(config) == 4711


def test_at_first_a_free_port_is_chosen(tmp_path: Path) -> None:
    installation._demand_free_port(service(installation._port_of(tmp_path / "config.json")))


def test_a_chosen_port_is_none_that_the_kernel_gives_away(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given_away = tmp_path / "range"
    monkeypatch.setattr(installation, "_GIVEN_AWAY", given_away)
    given_away.write_text("20003\t65535\n")
    assert {installation.free_port() for _ in range(100)} <= {20000, 20001, 20002}
    given_away.write_text("1024\t65535\n")
    assert 1024 <= installation.free_port() <= 65535


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"port": "4711"}', "nonsense"])
def test_a_damaged_configuration_is_a_clear_error(tmp_path: Path, content: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(content)

    with pytest.raises(ConfigurationError, match="is not a service's configuration"):
        installation._port_of(config)


def test_an_unsupported_system_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")

    result = CliRunner().invoke(strongroom, ["up", "--state", str(tmp_path)])

    assert result.exit_code == 1
    assert "on riscv64 is not supported" in result.output


def test_down_and_status_without_anything_started_say_so(tmp_path: Path) -> None:
    assert "nothing was running" in CliRunner().invoke(strongroom, ["down", "--state", str(tmp_path)]).output
    assert "strongroom up" in CliRunner().invoke(strongroom, ["status", "--state", str(tmp_path)]).output


def test_owner_commands_without_services_say_how_to_start_them(tmp_path: Path) -> None:
    for command in (["dataset", "create", "trips"], ["approvals"], ["runs", "list"], ["policy", "show"]):
        result = CliRunner().invoke(strongroom, [*command, "--state", str(tmp_path)])

        assert result.exit_code == 1
        assert "strongroom up" in result.output


def test_the_demo_never_works_in_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("keep")

    result = CliRunner().invoke(strongroom, ["demo", "--folder", str(tmp_path)])

    assert result.exit_code == 1
    assert "is not empty" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
