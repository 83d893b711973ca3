"""Initdata with our policy, as pods are launched with it: read by the attestation service, by Kata, by TOML."""

import json
import tomllib

import pytest
from tests.support.kata import IMAGE, IMAGE_DIGEST, agent_container
from tests.support.rego import Policy

from strongroom.attestation.evidence.initdata import POLICY_ENTRY, parse_initdata, render_initdata
from strongroom.base.errors import FormatError
from strongroom.cluster.agent_policy import agent_policy

APPLICATION = "a1" * 32
OTHER_IMAGE = f"registry.example/strongroom/spark@sha256:{'2e' * 32}"


def initdata(policy: str, *, application: str = APPLICATION) -> bytes:
    return render_initdata({POLICY_ENTRY: policy}, application=application)


def test_kata_reads_our_policy_in_it() -> None:
    policy = agent_policy(IMAGE)
    document = tomllib.loads(initdata(policy).decode())

    assert (document["version"], document["algorithm"]) == ("0.1.0", "sha256")
    assert document["data"]["policy.rego"] == policy
    assert json.loads(document["data"]["strongroom.json"]) == {"version": 1, "application": APPLICATION}


def test_its_image_is_a_reference_value_of_its_own() -> None:
    first, newer = (parse_initdata(initdata(agent_policy(image))) for image in (IMAGE, OTHER_IMAGE))

    assert (first.image, newer.image) == (IMAGE_DIGEST, OTHER_IMAGE.rpartition("@")[2])
    assert first.template == newer.template is not None
    assert first.configuration != newer.configuration


@pytest.mark.parametrize(
    "other",
    [
        agent_policy(IMAGE, environment=["LD_PRELOAD=/data/x.so"]),
        agent_policy(IMAGE, storage=["/opt"]),
        agent_policy(IMAGE, user=0),
        agent_policy(IMAGE, with_tsm=False),
        agent_policy(IMAGE).replace("default ExecProcessRequest := false", "default ExecProcessRequest := true"),
    ],
)
def test_whatever_else_the_policy_lets_in_is_another_template(other: str) -> None:
    assert parse_initdata(initdata(other)).template != parse_initdata(initdata(agent_policy(IMAGE))).template


def test_with_the_image_left_open_no_container_starts() -> None:
    """The document behind `template` is hashed only; should somebody launch it, it starts nothing."""
    policy = agent_policy(IMAGE, environment=["PATH=/usr/local/bin:/usr/bin:/bin"], storage=["/data"], user=0)
    closed = policy.replace(f'strongroom_image := "{IMAGE}"', 'strongroom_image := ""')

    assert Policy(policy, package="agent_policy").allows("CreateContainerRequest", agent_container())
    assert not Policy(closed, package="agent_policy").allows("CreateContainerRequest", agent_container())


def test_the_policy_says_what_it_allows_after_its_rules() -> None:
    text = agent_policy(IMAGE, environment=["B=2", "A=1"], storage=["/data"], user=7)
    rules, _, data = text.partition("\npolicy_data := ")
    said = json.loads(data)

    assert rules.endswith(f'\nstrongroom_image := "{IMAGE}"\n')
    assert said["environment"] == ["A=1", "B=2"]
    assert "/data" in said["host_files"]
    assert said["users"] == [7]


def test_without_the_guests_folder_for_quotes_nothing_of_it_is_mounted() -> None:
    _, _, data = agent_policy(IMAGE, with_tsm=False).partition("\npolicy_data := ")

    assert json.loads(data)["guest_folders"] == []


@pytest.mark.parametrize(
    "image",
    [
        "",
        "spark",
        "spark:latest",
        IMAGE_DIGEST,
        f"@{IMAGE_DIGEST}",
        "spark@sha256:1f",
        f"spark@sha512:{'1f' * 32}",
        f"spark@sha256:{'1F' * 32}",
        f"spark@{IMAGE_DIGEST}@{IMAGE_DIGEST}",
        f'spark" @{IMAGE_DIGEST}',
        f"spark@{IMAGE_DIGEST}\n",
    ],
)
def test_takes_an_image_by_its_digest_only(image: str) -> None:
    with pytest.raises(FormatError, match="not named by its digest"):
        agent_policy(image)


@pytest.mark.parametrize("image", [f"localhost:5000/a/spark:1.0@{IMAGE_DIGEST}", f"spark@{IMAGE_DIGEST}"])
def test_whatever_image_it_names_is_read_back(image: str) -> None:
    assert parse_initdata(initdata(agent_policy(image))).image == IMAGE_DIGEST
