"""The custodians' commands, against a real attested key service."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.custody import AttestedInstallation, attested_installation

from strongroom.cli.main import strongroom
from strongroom.crypto.jose import open_as_recipient
from strongroom.crypto.keys import ReceivingKey
from strongroom.wire.custody import CustodyRoster, CustodyShare
from strongroom.wire.trust import Trust


def run(*arguments: object) -> Result:
    return CliRunner().invoke(strongroom, ["custody", *(str(argument) for argument in arguments)])


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, ReceivingKey]:
    """Three custodians' keys; the public ones lie in the folder."""
    made = {name: ReceivingKey.generate_p256() for name in ("ann", "bob", "eve")}
    for name, key in made.items():
        jwk = {part: key.public_jwk[part] for part in ("kty", "crv", "x", "y")}
        (tmp_path / f"{name}.jwk").write_text(json.dumps(jwk))
    return made


def split(folder: Path, *custodians: str, threshold: int = 2) -> Result:
    options = [word for name in custodians for word in ("--custodian", name)]
    return run("split", "--threshold", threshold, *options, "--out", folder / "custody")


def named(folder: Path, *names: str) -> list[str]:
    return [f"{name}={folder / name}.jwk" for name in names]


def test_split_writes_a_public_roster_and_shares_that_only_their_custodians_open(
    tmp_path: Path, keys: dict[str, ReceivingKey]
) -> None:
    result = split(tmp_path, *named(tmp_path, *keys))
    assert result.exit_code == 0, result.output
    roster = CustodyRoster.from_json((tmp_path / "custody" / "roster.json").read_bytes())
    assert [each.name for each in roster.custodians] == ["ann", "bob", "eve"]
    assert roster.threshold == 2
    assert f"custody://{tmp_path}/custody/roster.json" in result.output
    for number, (name, key) in enumerate(keys.items(), start=1):
        sealed = (tmp_path / "custody" / f"{name}.share.jwe").read_bytes()
        assert CustodyShare.from_json(open_as_recipient(sealed, key=key)).number == number
    everything = b"".join(path.read_bytes() for path in (tmp_path / "custody").iterdir())
    share = CustodyShare.from_json(
        open_as_recipient((tmp_path / "custody" / "ann.share.jwe").read_bytes(), key=keys["ann"])
    )
    assert share.share.encode() not in everything + result.output.encode()


def test_split_writes_over_nothing_and_refuses_what_makes_no_custody(
    tmp_path: Path, keys: dict[str, ReceivingKey]
) -> None:
    all_three = named(tmp_path, *keys)
    for custodians, threshold in (
        (all_three, 4),
        (all_three[:1], 2),
        ([*all_three, all_three[0]], 2),
        ([all_three[0], f"other={tmp_path / 'ann.jwk'}"], 2),
        (["ann", "bob"], 2),
        (["Ann Smith=" + all_three[0].partition("=")[2], all_three[1]], 2),
        ([f"ann={tmp_path / 'missing.jwk'}", all_three[1]], 2),
    ):
        refused = split(tmp_path, *custodians, threshold=threshold)
        assert refused.exit_code == 1, refused.output
        assert not (tmp_path / "custody").exists()
    assert split(tmp_path, *all_three).exit_code == 0
    before = (tmp_path / "custody" / "roster.json").read_bytes()
    assert split(tmp_path, *all_three).exit_code == 1
    assert (tmp_path / "custody" / "roster.json").read_bytes() == before


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AttestedInstallation]:
    with attested_installation(tmp_path_factory.mktemp("attested")) as made:
        yield made


def test_custodians_unlock_a_service_and_its_owner_pins_it(installed: AttestedInstallation) -> None:
    common = ("--config", installed.key_config, "--trust", installed.trust_file)
    roster = installed.folder / "roster-of-a-custodian.json"
    roster.write_bytes((installed.custody / "roster.json").read_bytes())
    known = (*common, "--measurement", installed.measurement, "--roster", roster)

    def unlock(name: str, *, key: str | None = None) -> Result:
        share = installed.custody / f"{name}.share.jwe"
        return run("unlock", "--share", share, "--key", installed.folder / f"{key or name}.key", *known)

    def status() -> dict[str, object]:
        shown = run("status", "--json", *known)
        assert shown.exit_code == 0, shown.output
        content: dict[str, object] = json.loads(shown.output)
        return content

    unreachable = run("status", *known)
    assert unreachable.exit_code == 1
    assert "does not answer" in unreachable.output
    process = installed.start_locked()
    assert (status()["locked"], status()["given"], status()["needed"]) == (True, [], 2)
    unknown = run("status", *common)
    assert unknown.exit_code == 1
    assert "--measurement" in unknown.output
    others = run("status", *common, "--measurement", "0" * 64)
    assert others.exit_code == 1
    assert "Give no share to it" in others.output
    assert unlock("ann", key="bob").exit_code == 1
    assert "not sealed to this key" in unlock("ann", key="bob").output

    first = unlock("ann")
    assert (first.exit_code, first.output) == (0, "your share was given: 1 of 2\n")
    table = run("status", *known).output
    assert "1 of 2 shares" in table
    assert any(line.split() == ["ann", "gave"] for line in table.splitlines())
    assert unlock("ann").exit_code == 1
    second = unlock("eve")
    assert (second.exit_code, second.output) == (0, "the key service is unlocked\n")
    service = installed.unlocked(process)

    assert status() == {"locked": False}
    pinned = run("pin", *known)
    assert pinned.exit_code == 0, pinned.output
    trust = Trust.from_json(installed.trust_file.read_bytes())
    (found,) = [each for each in trust.services if each.service == "key-service"]
    assert (found.identity, found.mode, found.master_key) == (service.identity, "attested", "custody")
    assert found.log_key == service.ready["log_key"]
    assert found.measurement == installed.measurement
    assert run("status", *common).exit_code == 0, "the measurement is the trust file's from now on"

    settings = json.loads(installed.key_config.read_text())
    in_cluster = installed.folder / "in-cluster.json"
    in_cluster.write_text(json.dumps(settings | {"url": "https://key-service.strongroom.svc:8443"}))
    elsewhere = run("pin", *known[2:], "--config", in_cluster, "--address", settings["url"])
    assert elsewhere.exit_code == 0, elsewhere.output
    trust = Trust.from_json(installed.trust_file.read_bytes())
    (found,) = [each for each in trust.services if each.service == "key-service"]
    assert (found.url, found.cluster_url) == (settings["url"], "https://key-service.strongroom.svc:8443")


def test_an_owner_operated_configuration_has_no_custodians(installed: AttestedInstallation, tmp_path: Path) -> None:
    config = tmp_path / "keys.json"
    config.write_text(json.dumps(json.loads(installed.key_config.read_text()) | {"mode": "owner-operated"}))
    refused = run("status", "--config", config, "--trust", installed.trust_file, "--measurement", "0" * 64)
    assert refused.exit_code == 1
    assert "not the configuration of an attested key service" in refused.output


def test_a_roster_is_for_custody_alone(installed: AttestedInstallation, tmp_path: Path) -> None:
    config = tmp_path / "keys.json"
    address = "pkcs11:token=t;object=k?module-path=/m.so&pin-source=/p"
    config.write_text(json.dumps(json.loads(installed.key_config.read_text()) | {"master_key": address}))
    known = ("--config", config, "--trust", installed.trust_file, "--measurement", "0" * 64)
    refused = run("status", *known, "--roster", installed.custody / "roster.json")
    assert refused.exit_code == 1
    assert "nobody's custody" in refused.output
