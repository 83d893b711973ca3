import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.trust_files import trust_file

from strongroom.cli.main import strongroom
from strongroom.submit.run import load_trust
from strongroom.wire.trust import Anchors, Trust


@pytest.fixture
def own(tmp_path: Path) -> Trust:
    return trust_file(tmp_path / "state" / "trust.json", port=1000)


@pytest.fixture
def theirs(tmp_path: Path) -> Trust:
    return trust_file(tmp_path / "theirs.json", port=2000)


def run(tmp_path: Path, *arguments: str, answer: str = "y\n") -> Result:
    return CliRunner().invoke(strongroom, ["trust", *arguments, "--state", str(tmp_path / "state")], input=answer)


def kept(tmp_path: Path) -> Trust:
    return load_trust(tmp_path / "state" / "trust.json")


def test_adding_shows_everything_that_will_be_trusted_and_asks(tmp_path: Path, own: Trust, theirs: Trust) -> None:
    shown = run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), answer="n\n")

    assert shown.exit_code == 130
    for service in theirs.services:
        assert service.identity in shown.output
        assert service.url in shown.output
    assert theirs.owners[0] in shown.output
    assert "simulated (protects nothing)" in shown.output
    assert f"{theirs.agent_measurements[0]} (yours too)" in shown.output
    assert kept(tmp_path) == own


def test_a_partner_is_trusted_for_itself_alone(tmp_path: Path, own: Trust, theirs: Trust) -> None:
    assert run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json")).exit_code == 0

    trust = kept(tmp_path)
    assert (trust.roots, trust.services, trust.owners) == (own.roots, own.services, own.owners)
    partner = trust.partner("hospital")
    assert partner is not None
    assert (partner.anchors.services, partner.accept_results) == (theirs.services, False)
    for service in theirs.services:
        assert trust.party_of(service.identity) == partner.anchors
    assert trust.party_of(own.services[0].identity) is trust
    assert trust.party_of("00" * 32) is None


@pytest.mark.usefixtures("own")
def test_the_partners_of_a_partner_are_not_taken_over(tmp_path: Path, theirs: Trust) -> None:
    third = trust_file(tmp_path / "third.json", port=3000)
    anchors = {name: third.model_dump(mode="json")[name] for name in Anchors.model_fields}
    partner = {"name": "bank", "accept_results": True, "anchors": anchors}
    nested = {**theirs.model_dump(mode="json"), "partners": [partner]}
    (tmp_path / "theirs.json").write_bytes(Trust.from_object(nested).to_json())

    shown = run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"))

    assert "not taken over from theirs.json: its partners bank" in shown.output
    assert [partner.name for partner in kept(tmp_path).partners] == ["hospital"]
    assert kept(tmp_path).party_of(third.services[0].identity) is None


@pytest.mark.usefixtures("own", "theirs")
def test_a_partner_is_replaced_and_removed_by_name(tmp_path: Path) -> None:
    path = tmp_path / "theirs.json"
    run(tmp_path, "add", "hospital", str(path), "--accept-results", "--yes")
    again = trust_file(path, port=2000)
    run(tmp_path, "add", "hospital", str(path), "--yes")

    partner = kept(tmp_path).partner("hospital")
    assert partner is not None
    assert partner.anchors.services == again.services
    assert run(tmp_path, "remove", "hospital").exit_code == 0
    assert kept(tmp_path).partners == ()
    assert "no partner hospital" in run(tmp_path, "remove", "hospital").output


@pytest.mark.usefixtures("own")
def test_refuses_a_partner_that_is_oneself_or_of_other_hardware(tmp_path: Path, theirs: Trust) -> None:
    mine = str(tmp_path / "state" / "trust.json")
    assert "a service is two parties' at once" in run(tmp_path, "add", "hospital", mine).output
    real = {**theirs.model_dump(mode="json"), "hardware": "real"}
    real["roots"] = [{**root, "simulated": False} for root in real["roots"]]
    (tmp_path / "real.json").write_bytes(Trust.from_object(real).to_json())
    refused = run(tmp_path, "add", "hospital", str(tmp_path / "real.json"))
    assert refused.exit_code == 1
    assert "the same kind of hardware" in refused.output
    assert kept(tmp_path).partners == ()


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"hardware":"simulated"}'])
def test_refuses_a_file_that_is_no_trust_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    refused = run(tmp_path, "add", "hospital", str(tmp_path / "file"))

    assert refused.exit_code == 1
    assert "Traceback" not in refused.output
    assert kept(tmp_path).partners == ()


@pytest.mark.usefixtures("own", "theirs")
def test_shows_ones_own_trust_file_and_partners(tmp_path: Path) -> None:
    run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), "--accept-results", "--yes")

    assert "partner hospital" in run(tmp_path, "show").output
    assert "are accepted by your key service" in run(tmp_path, "show").output
    assert json.loads(run(tmp_path, "show", "--json").output) == kept(tmp_path).model_dump(mode="json")
    assert "partner" not in run(tmp_path, "show", str(tmp_path / "theirs.json")).output


def test_two_partners_have_two_names(own: Trust, theirs: Trust, tmp_path: Path) -> None:
    run(tmp_path, "add", "hospital", str(tmp_path / "theirs.json"), "--yes")
    third = trust_file(tmp_path / "third.json", port=3000)
    partner = kept(tmp_path).partners[0]
    other = partner.model_copy(update={"anchors": partner.anchors.model_copy(update={"services": third.services})})
    with pytest.raises(ValueError, match="two partners have one name"):
        Trust.model_validate_json(own.model_copy(update={"partners": (partner, other)}).to_json())
    assert theirs.services
