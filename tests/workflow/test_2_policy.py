"""Step 2, policy: nothing is asked of a service that is not the one that was pinned."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.support.installation import Installation, Submission
from tests.support.platform import Bench

from strongroom.base.workflow import Step
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import to_pem

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize("service", ["attestation-service", "key-service"])
def test_says_which_service_does_not_run(installation: Installation, count: Submission, service: str) -> None:
    with installation.without(service):
        ended = installation.submit(count)

    name = service.replace("-", " ")
    installation.assert_clear_end(
        ended, step=Step.POLICY, says=[f"the {name} does not answer at https://127.0.0.1", "strongroom up"]
    )


def test_refuses_a_key_service_with_another_configuration(
    installation: Installation, count: Submission, tmp_path: Path
) -> None:
    config = json.loads((installation.state.key_service / "config.json").read_text())
    config["owners"].append(SigningKey.generate("ES256").verifying_key.to_jwk())  # the operator makes himself an owner
    (tmp_path / "config.json").write_text(json.dumps(config))

    with installation.without("key-service"), installation.service("key-service", config=tmp_path / "config.json"):
        ended = installation.submit(count)

    installation.assert_clear_end(
        ended, step=Step.POLICY, says=["the key service is not the one that was pinned", "configuration: expected"]
    )


def test_refuses_an_attestation_service_with_another_configuration(
    installation: Installation, count: Submission, tmp_path: Path
) -> None:
    config = json.loads((installation.state.attestation_service / "config.json").read_text())
    config["roots"].append(json.loads(_root_of_another_platform()))
    (tmp_path / "config.json").write_text(json.dumps(config))
    name = "attestation-service"

    with installation.without(name), installation.service(name, config=tmp_path / "config.json"):
        ended = installation.submit(count)

    installation.assert_clear_end(
        ended, step=Step.POLICY, says=["the attestation service is not the one that was pinned", "configuration:"]
    )


def test_refuses_a_service_with_another_identity(installation: Installation, count: Submission, tmp_path: Path) -> None:
    config = json.loads((installation.state.key_service / "config.json").read_text())
    config["state"] = str(tmp_path / "impostor")
    config["master_key"] = (tmp_path / "impostor" / "master.key").as_uri()
    (tmp_path / "impostor").mkdir(mode=0o700)
    (tmp_path / "config.json").write_text(json.dumps(config))

    with installation.without("key-service"), installation.service("key-service", config=tmp_path / "config.json"):
        ended = installation.submit(count)

    installation.assert_clear_end(ended, step=Step.POLICY, says=["is not the key service that was pinned"])


def test_refuses_services_whose_evidence_is_under_an_untrusted_root(
    installation: Installation, count: Submission
) -> None:
    def trust_another_root(trust: dict[str, Any]) -> None:
        trust["roots"] = [json.loads(_root_of_another_platform())]

    with installation.changed(installation.state.trust, _edited(trust_another_root)):
        ended = installation.submit(count)

    installation.assert_clear_end(ended, step=Step.POLICY, says=["root"])


@pytest.mark.parametrize("index", [0, 1])
def test_refuses_a_service_of_another_code(installation: Installation, count: Submission, index: int) -> None:
    def pin_other_code(trust: dict[str, Any]) -> None:
        trust["services"][index]["measurement"] = "00" * 32

    with installation.changed(installation.state.trust, _edited(pin_other_code)):
        ended = installation.submit(count)

    installation.assert_clear_end(
        ended, step=Step.POLICY, says=["is not the one that was pinned", "code (mrenclave): expected 0000"]
    )


def test_refuses_simulated_services_where_real_hardware_is_demanded(
    installation: Installation, count: Submission
) -> None:
    def demand_real_hardware(trust: dict[str, Any]) -> None:
        trust["hardware"] = "real"
        for root in trust["roots"]:
            root["simulated"] = False

    with installation.changed(installation.state.trust, _edited(demand_real_hardware)):
        ended = installation.submit(count)

    installation.assert_clear_end(ended, step=Step.POLICY, says=["simulated"])


def test_the_owners_commands_refuse_an_impostor_too(installation: Installation, tmp_path: Path) -> None:
    config = json.loads((installation.state.key_service / "config.json").read_text())
    config["state"] = str(tmp_path / "impostor")
    config["master_key"] = (tmp_path / "impostor" / "master.key").as_uri()
    (tmp_path / "impostor").mkdir(mode=0o700)
    (tmp_path / "config.json").write_text(json.dumps(config))

    with installation.without("key-service"), installation.service("key-service", config=tmp_path / "config.json"):
        ended = installation.strongroom("approvals")

    installation.assert_clear_end(ended, step=None, says=["is not the key service that was pinned"])


def _edited(edit: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def change(data: bytes) -> bytes:
        content = json.loads(data)
        edit(content)
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()

    return change


def _root_of_another_platform() -> str:
    return json.dumps({"certificate_pem": to_pem(Bench.new().platform.root_der), "simulated": True})
