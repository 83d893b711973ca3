import base64
import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from strongroom.application.description import ApplicationDescription, DatasetBinding
from strongroom.application.package import ApplicationSources, pack
from strongroom.attestation.evidence.initdata import parse_initdata, verify_initdata
from strongroom.base.errors import IntegrityError, NotFoundError
from strongroom.cli.applications import (
    changes_since_approved,
    changes_since_packed,
    describe,
    find_application,
    remember_approved,
)
from strongroom.cli.main import strongroom
from strongroom.cli.state import State

KEY_SERVICE = "ab" * 32


@pytest.fixture
def state(tmp_path: Path) -> State:
    state = State(root=tmp_path / "state")
    state.packages.mkdir(parents=True)
    return state


def packed(state: State, *arguments: str, script: str = "print(1)") -> ApplicationDescription:
    """An application that reads trips, packed where the command line puts packages."""
    source = state.root / "count.py"
    source.write_text(script)
    binding = DatasetBinding(key_service=KEY_SERVICE, access="read", version=None)
    fresh = state.packages / ".fresh"
    sources = ApplicationSources(
        script=str(source), arguments=("strongroom://trips", *arguments), datasets={"trips": binding}
    )
    description = pack(sources, output=fresh)
    fresh.rename(state.packages / description.digest)
    return description


def test_an_application_is_found_by_the_beginning_of_its_digest_or_its_folder(state: State) -> None:
    description = packed(state)

    assert find_application(description.digest[:6], state=state) == description
    assert find_application(str(state.packages / description.digest), state=state) == description


def test_says_what_is_packed_when_a_digest_is_unknown(state: State) -> None:
    description = packed(state)

    with pytest.raises(NotFoundError) as refusal:
        find_application("0" * 64, state=state)

    assert description.digest[:12] in refusal.value.action


def test_an_operator_cannot_put_another_application_under_an_approved_digest(state: State) -> None:
    wanted, other = packed(state), packed(state, "--all")
    (state.packages / wanted.digest / "description.json").write_bytes(other.to_json())

    with pytest.raises(IntegrityError) as refusal:
        find_application(wanted.digest, state=state)

    assert refusal.value.mismatches[0].actual == other.digest


def test_an_application_is_shown_in_words(state: State) -> None:
    words = dict(describe(packed(state, "--all")))

    assert words["arguments"] == "strongroom://trips --all"
    assert words["dataset"].startswith("reads the newest version of trips")
    assert "count.py (8 bytes" in words["entry-point"]


def test_an_owner_sees_what_changed_since_the_last_approval(state: State) -> None:
    first, second = packed(state), packed(state, "--all", script="print(2)")
    remember_approved(first, dataset="trips", approval="ab12", state=state)

    changes = changes_since_approved(second, dataset="trips", state=state)

    assert changes is not None
    assert "argument 2 was added: '--all'" in changes
    assert any(change.startswith("file count.py changed") for change in changes)
    assert changes_since_approved(first, dataset="trips", state=state) is None
    assert changes_since_approved(second, dataset="report", state=state) is None


def test_an_analyst_sees_what_changed_since_the_last_package(state: State) -> None:
    first = packed(state)
    os.utime(state.packages / first.digest, (1, 1))
    second = packed(state, "--all")

    assert changes_since_packed(second, state=state) == ["argument 2 was added: '--all'"]


def test_the_first_package_is_compared_with_nothing(state: State) -> None:
    assert changes_since_packed(packed(state), state=state) is None


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--dataset", "report", "--read"), "the application does not use dataset report"),
        (("--dataset", "trips", "--write"), "the application does not write dataset trips"),
    ],
)
def test_refuses_to_approve_what_the_application_does_not_do(
    state: State, arguments: tuple[str, ...], reason: str
) -> None:
    digest = packed(state).digest

    result = CliRunner().invoke(strongroom, ["approve", digest, "--state", str(state.root), *arguments])

    assert result.exit_code == 1
    assert reason in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ("--dataset", "trips"),
        ("--read",),
        ("--dataset", "trips", "--read", "--max-runs", "0"),
        ("--dataset", "trips", "--read", "--until", "tomorrow"),
    ],
)
def test_refuses_to_approve_without_saying_what(state: State, arguments: tuple[str, ...]) -> None:
    digest = packed(state).digest

    assert CliRunner().invoke(strongroom, ["approve", digest, "--state", str(state.root), *arguments]).exit_code == 2


def test_a_folder_is_shown_with_its_digest(state: State) -> None:
    description = packed(state)

    result = CliRunner().invoke(strongroom, ["app", "show", description.digest[:8], "--state", str(state.root)])

    assert result.exit_code == 0
    assert description.digest in result.output


def initdata(state: State, *arguments: str) -> Result:
    return CliRunner().invoke(strongroom, ["app", "initdata", *arguments, "--state", str(state.root)])


@pytest.mark.parametrize("algorithm", ["sha256", "sha384"])
def test_writes_initdata_that_a_pod_of_the_application_is_launched_with(state: State, algorithm: Any) -> None:
    description, image = packed(state), "sha256:" + "c3" * 32
    policy, hub, output = (state.root / name for name in ("policy.rego", "cdh.toml", "initdata.toml"))
    policy.write_text(f'package agent_policy\nstrongroom_image := "registry.example/spark@{image}"\n')
    hub.write_text("socket = 'unix:///run/cdh.sock'\n")
    options = ("--policy", str(policy), "--entry", f"cdh.toml={hub}", "--algorithm", algorithm, "--output", str(output))

    ended = initdata(state, description.digest[:8], *options, "--json")

    assert ended.exit_code == 0, ended.output
    document, said = output.read_bytes(), json.loads(ended.output)
    found = parse_initdata(document)
    assert found.application == said["application"] == description.digest
    assert {name: found.entries[name] for name in ("policy.rego", "cdh.toml")} == {
        "policy.rego": policy.read_text(),
        "cdh.toml": hub.read_text(),
    }
    assert (said["configuration"], said["template"], said["image"]) == (found.configuration, found.template, image)
    for kind, name in (("snp", "host_data"), ("tdx", "mrconfigid")):
        launched_with = bytes.fromhex(said[name])
        assert verify_initdata(document, kind=kind, launched_with=launched_with) == found  # type: ignore[arg-type]
    assert gzip.decompress(base64.b64decode(said["annotation"])) == document
    shown = initdata(state, description.digest[:8], *options)
    assert said["host_data"] in shown.output
    assert said["annotation"] not in shown.output


@pytest.mark.parametrize(
    ("entry", "content", "says"),
    [
        ("cdh.toml", b"x", "is no entry"),
        ("cdh.toml={}", b"\xff", "not UTF-8"),
        ("cdh.toml={}", b"'''", "initdata"),
        ("strongroom.json={}", b"{}", "strongroom.json"),
    ],
)
def test_refuses_entries_that_initdata_cannot_hold(state: State, entry: str, content: bytes, says: str) -> None:
    description = packed(state)
    policy, file, output = (state.root / name for name in ("policy.rego", "file", "initdata.toml"))
    policy.write_text("package agent_policy\n")
    file.write_bytes(content)
    arguments = ("--policy", str(policy), "--entry", entry.format(file), "--output", str(output))
    refused = initdata(state, description.digest[:8], *arguments)
    assert refused.exit_code in {1, 2}
    assert says in refused.output
    assert not output.exists()
