import base64
import hashlib
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.support.shapes import APPLICATION, IMAGE, MICROSOFT_POLICY

from strongroom.attestation.evidence.initdata import parse_initdata
from strongroom.base.encoding import from_b64url
from strongroom.cli.main import strongroom
from strongroom.cluster.shapes import ACI_POLICY_ANNOTATION

LAUNCH = ("--application", APPLICATION, "--image", IMAGE)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(strongroom, ["shape", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    return result


def test_shows_what_a_shape_adds() -> None:
    result = run("show", "simulated", *LAUNCH)
    shown = json.loads(result.stdout)

    assert result.exit_code == 0
    assert shown["device"] == {"kind": "simulated-sgx", "socket": "/strongroom/platform/platform.sock"}
    assert shown["pod"]["metadata"]["labels"] == {"strongroom.shape": "simulated"}


def test_shows_driver_and_executor() -> None:
    commands = {
        role: json.loads(run("show", "sgx", "--option", "flavour=gramine", "--role", role, *LAUNCH).stdout)
        for role in ("driver", "executor")
    }

    assert {role: shown["container"]["command"][-1].rpartition("/")[2] for role, shown in commands.items()} == {
        "driver": "driver",
        "executor": "executor",
    }


def test_reads_microsofts_policy_from_a_file(tmp_path: Path) -> None:
    policy = tmp_path / "policy.rego"
    policy.write_text(MICROSOFT_POLICY)
    shown = json.loads(run("show", "pod", "--option", "runtime=aci", "--option", f"policy={policy}", *LAUNCH).stdout)
    annotated = base64.b64decode(shown["pod"]["metadata"]["annotations"][ACI_POLICY_ANNOTATION])

    assert annotated.decode() == MICROSOFT_POLICY
    assert shown["launchedWith"] == hashlib.sha256(annotated).hexdigest()


def test_prints_the_policy_that_the_shape_has() -> None:
    """So `strongroom app initdata` makes the document that the shape launches, and owners can trust it beforehand."""
    options = ("--option", "runtime=kata-qemu-tdx", "--option", "environment=A=1,B=2", "--option", "storage=/data")
    shown = json.loads(run("show", "pod", *options, *LAUNCH).stdout)
    policy = run(
        "policy", "--image", IMAGE, "--environment", "A=1", "--environment", "B=2", "--storage", "/data"
    ).stdout

    assert parse_initdata(from_b64url(shown["device"]["initdata"])).entries["policy.rego"] == policy


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("show", "enclave", *LAUNCH), 2, "Invalid value"),
        (("show", "simulated", "--application", "3f9c", "--image", IMAGE), 1, "application"),
        (("show", "pod", *LAUNCH), 1, "runtime"),
        (("show", "pod", "--option", "runtime", *LAUNCH), 2, "NAME=VALUE"),
        (("show", "pod", "--option", "runtime=aci", "--option", "runtime=aci", *LAUNCH), 2, "twice"),
        (("show", "pod", "--option", "runtime=aci", "--option", "policy=/nowhere", *LAUNCH), 1, "cannot be read"),
        (("policy", "--image", "spark:latest"), 1, "not named by its digest"),
        (("policy", "--image", IMAGE, "--user", "-1"), 2, "Invalid value"),
    ],
)
def test_refuses_with_a_sentence(arguments: tuple[str, ...], status: int, says: str) -> None:
    result = run(*arguments)

    assert result.exit_code == status
    assert says in result.output


def test_refuses_a_policy_that_is_no_text(tmp_path: Path) -> None:
    policy = tmp_path / "policy.rego"
    policy.write_bytes(b"\xff")

    assert (
        "is not text" in run("show", "pod", "--option", "runtime=aci", "--option", f"policy={policy}", *LAUNCH).output
    )
