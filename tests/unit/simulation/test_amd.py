from pathlib import Path

import pytest
from tests.support.amd import AmdBench, amd_bench

from strongroom.base.errors import ConfigurationError
from strongroom.simulation.amd import SimulatedAmd


def test_a_saved_chip_comes_back_with_the_same_keys_and_roots(tmp_path: Path) -> None:
    bench = amd_bench()
    bench.amd.save(tmp_path / "chip")
    loaded = AmdBench(amd=SimulatedAmd.load(tmp_path / "chip"))
    bench.verify(loaded.report(), endorsements=loaded.endorsements())
    assert (loaded.amd.chip_id, loaded.amd.product, loaded.amd.tcb) == (
        bench.amd.chip_id,
        bench.amd.product,
        bench.amd.tcb,
    )


def test_keys_are_files_of_their_owner_only(tmp_path: Path) -> None:
    amd_bench().amd.save(tmp_path / "chip")
    keys = list((tmp_path / "chip" / "keys").iterdir())
    assert len(keys) == 5
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}
    assert (tmp_path / "chip").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("content", ["{}", f'{{"product": "Rome", "chip_id": "{"00" * 64}"}}', '{"product": "Milan"}'])
def test_a_folder_without_a_chip_is_said_to_be_one(tmp_path: Path, content: str) -> None:
    (tmp_path / "chip.json").write_text(content)
    with pytest.raises(ConfigurationError, match="does not hold a simulated chip"):
        SimulatedAmd.load(tmp_path)
