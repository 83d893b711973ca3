"""A run's statement, verified with other people's code: securesystemslib, which in-toto and TUF use."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError as SslibVerificationError
from securesystemslib.signer import SSlibKey
from tests.support.receipts import verify_by_both
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.base.encoding import canonical_json
from strongroom.base.errors import StrongroomError
from strongroom.cli.main import strongroom
from strongroom.crypto.keys import SigningKey
from strongroom.receipts.statement import PREDICATE_TYPE, sign_statement, verify_statement
from strongroom.wire.receipt import DsseEnvelope


@dataclass(kw_only=True)
class Exported:
    """A run with its files, and what `receipt export` made of it."""

    runner: Runner
    receipt: Path
    trust: Path
    envelope: dict[str, Any]
    key: Path


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("run")
    with installation(folder) as services:
        runner = Runner(services, folder)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        runner.write(driver)
        receipt = folder / "out" / runner.finish(driver, descriptor).receipt
    trust, key = folder / "trust.json", folder / "run.pem"
    trust.write_bytes(runner.trust().to_json())
    printed = CliRunner().invoke(
        strongroom, ["receipt", "export", str(receipt), "--trust", str(trust), "--format", "dsse", "--key", str(key)]
    )
    assert printed.exit_code == 0, printed.output
    return Exported(runner=runner, receipt=receipt, trust=trust, envelope=json.loads(printed.stdout), key=key)


def key_of(exported: Exported) -> SSlibKey:
    (signature,) = exported.envelope["signatures"]
    public = {"public": exported.key.read_text()}
    return SSlibKey(signature["keyid"], "ecdsa", "ecdsa-sha2-nistp256", public)


def test_securesystemslib_verifies_the_envelope(exported: Exported) -> None:
    envelope = Envelope.from_dict(json.loads(json.dumps(exported.envelope)))
    key = key_of(exported)
    assert envelope.verify([key], 1) == {key.keyid: key}
    assert envelope.payload_type == "application/vnd.in-toto+json"


def test_securesystemslib_refuses_an_edited_envelope_and_another_key(exported: Exported) -> None:
    edited = Envelope.from_dict(json.loads(json.dumps(exported.envelope)))
    edited.payload = edited.payload.replace(b"succeeded", b"falsified")
    with pytest.raises(SslibVerificationError):
        edited.verify([key_of(exported)], 1)
    good = Envelope.from_dict(json.loads(json.dumps(exported.envelope)))
    other = SigningKey.generate("ES256").verifying_key.to_pem()
    with pytest.raises(SslibVerificationError):
        good.verify([SSlibKey(key_of(exported).keyid, "ecdsa", "ecdsa-sha2-nistp256", {"public": other})], 1)


def test_the_statement_names_outputs_and_the_receipts_body(exported: Exported) -> None:
    statement = json.loads(Envelope.from_dict(json.loads(json.dumps(exported.envelope))).payload)
    verified = verify_by_both(exported.receipt.read_bytes(), trust=exported.runner.trust())
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == PREDICATE_TYPE
    subjects = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert subjects["strongroom://report"] == verified.outputs["report"].manifest_digest
    assert len(subjects) == 2
    assert statement["predicate"]["application"]["digest"]["sha256"] == verified.application
    assert verified.statement == statement


def test_a_receipt_with_another_statement_is_refused(exported: Exported) -> None:
    receipt = json.loads(exported.receipt.read_bytes())
    verify_by_both(canonical_json(receipt), trust=exported.runner.trust())
    stranger = SigningKey.generate("ES256")
    forged = sign_statement(b'{"_type":"x"}', key=stranger).model_dump(mode="json")
    for envelope in (
        forged,
        {**receipt["attestation"], "payloadType": "text/plain"},
        {**receipt["attestation"], "payload": forged["payload"]},
        None,
    ):
        with pytest.raises(StrongroomError):
            verify_by_both(canonical_json({**receipt, "attestation": envelope}), trust=exported.runner.trust())


def test_the_statement_is_not_believed_because_some_key_signed_it(exported: Exported) -> None:
    envelope, stranger = DsseEnvelope.from_object(exported.envelope), SigningKey.generate("ES256")
    with pytest.raises(StrongroomError):
        verify_statement(envelope, key=stranger.verifying_key)


def test_nothing_is_exported_of_a_receipt_that_does_not_hold(exported: Exported, tmp_path: Path) -> None:
    edited, key = tmp_path / "edited.json", tmp_path / "key.pem"
    edited.write_bytes(exported.receipt.read_bytes().replace(b'"exit_status":0', b'"exit_status":1'))
    printed = CliRunner().invoke(
        strongroom,
        ["receipt", "export", str(edited), "--trust", str(exported.trust), "--format", "dsse", "--key", str(key)],
    )
    assert printed.exit_code != 0
    assert "payload" not in printed.output
    assert not key.exists()
