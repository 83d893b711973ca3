from pathlib import Path

import pytest
from tests.support.platform import NOW, Bench

from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.sgx_report import FLAG_KSS
from strongroom.base.errors import ConfigurationError
from strongroom.simulation.platform import SimulatedPlatform


def test_a_saved_platform_comes_back_with_the_same_keys_and_roots(tmp_path: Path) -> None:
    platform = SimulatedPlatform.create(now=NOW)
    platform.save(tmp_path / "platform")
    loaded = SimulatedPlatform.load(tmp_path / "platform")
    before, after = Bench.around(platform), Bench.around(loaded)
    before.verify(after.quote(), endorsements=after.endorsements)
    assert (loaded.fmspc, loaded.ppid) == (platform.fmspc, platform.ppid)


def test_keys_are_files_of_their_owner_only(tmp_path: Path) -> None:
    folder = tmp_path / "platform"
    SimulatedPlatform.create(now=NOW).save(folder)
    keys = list((folder / "keys").iterdir())
    assert len(keys) == 5
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (folder, folder / "keys")} == {0o700}


def test_every_installation_has_its_own_roots_family_and_processor() -> None:
    first, second = SimulatedPlatform.create(now=NOW), SimulatedPlatform.create(now=NOW)
    assert first.root_der != second.root_der
    assert first.fmspc != second.fmspc
    assert first.ppid != second.ppid


def test_quotes_have_key_separation_so_that_config_id_counts() -> None:
    assert parse_sgx_quote(Bench.new().quote()).report.attributes.flags & FLAG_KSS


def test_no_key_shows_in_a_platforms_text() -> None:
    platform = SimulatedPlatform.create(now=NOW)
    assert "keys" not in repr(platform)


def test_a_folder_without_a_platform_is_said_to_be_one(tmp_path: Path) -> None:
    (tmp_path / "platform.json").write_text('{"fmspc": "000000000000"}')
    with pytest.raises(ConfigurationError, match="does not hold a simulated platform"):
        SimulatedPlatform.load(tmp_path)
