"""A run as an in-toto statement in a DSSE envelope, for other people's tools. The driver's agent signs it.

It says what the receipt's body says, in fewer words, and names the body by its digest: the key services logged that
digest when the run closed. Its key lives in the driver's TEE for this one run, and only the receipt proves that.

Source: in-toto Attestation Framework, Statement v1; DSSE v1, "Protocol".
"""

import base64
import binascii
from typing import Any, Final

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import FormatError, VerificationError
from strongroom.crypto.derive import sha256_hex
from strongroom.crypto.ecdsa import signature_of_any_form, signature_to_der
from strongroom.crypto.jose import unverified_payload
from strongroom.crypto.keys import SigningKey, VerifyingKey
from strongroom.policy.shapes import shape_of
from strongroom.wire.key_service import DatasetVersion, RunMember
from strongroom.wire.receipt import DsseEnvelope, DsseSignature, ReceiptBody
from strongroom.wire.ticket import RunTicket

PAYLOAD_TYPE: Final = "application/vnd.in-toto+json"
STATEMENT_TYPE: Final = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE: Final = "urn:uuid:ba64806d-d586-4777-a438-592f016ef7cd:strongroom:run:v1"
"""Ours, under the UUID that also names our object identifiers (`crypto.x509.STRONGROOM_ARC`)."""


def statement_of(body: ReceiptBody, *, digest: str) -> bytes:
    """Return the in-toto statement of a run, canonical JSON.

    Args:
        body: The receipt's body.
        digest: SHA-256 of the body, hexadecimal.

    Raises:
        FormatError: Ticket or input versions in it are malformed.
    """
    ticket = RunTicket.from_json(unverified_payload(body.ticket))
    inputs = {name: DatasetVersion.from_json(unverified_payload(token)) for name, token in body.inputs.items()}
    subjects: list[Json] = [
        {"name": f"strongroom://{name}", "digest": {"sha256": output.manifest_digest}}
        for name, output in sorted(body.outputs.items())
    ]
    predicate: dict[str, Json] = {
        "run": body.run,
        "runId": body.run_id,
        "application": {"digest": {"sha256": ticket.application}},
        "submitter": ticket.submitter,
        "outcome": body.outcome,
        "hardware": body.hardware,
        "startedAt": body.started_at,
        "finishedAt": body.finished_at,
        "inputs": [
            {
                "name": f"strongroom://{name}",
                "version": version.number,
                "digest": {"sha256": version.manifest_digest},
            }
            for name, version in sorted(inputs.items())
        ],
        "keyServices": sorted(body.records),
        "members": {
            identity: [_member(member) for member in record.members] for identity, record in body.records.items()
        },
    }
    if body.vaults:
        predicate["vaults"] = sorted(body.vaults)
    return canonical_json(
        {
            "_type": STATEMENT_TYPE,
            "subject": [*subjects, {"name": f"{body.run_id}.receipt", "digest": {"sha256": digest}}],
            "predicateType": PREDICATE_TYPE,
            "predicate": predicate,
        }
    )


def shape_said(result: str) -> str | None:
    """Return the shape of the TEE that a result is about, unverified; None where it says none.

    Raises:
        FormatError: Not a result.
    """
    return shape_of(parse_json_object(unverified_payload(result)))


def _member(member: RunMember) -> Json:
    """Return what a statement says of a member; a TEE for each process is not spelled out, as it never was."""
    shape = shape_said(member.result)
    return {
        "number": member.number,
        "role": member.role,
        "tee": member.evidence.kind,
        **({} if shape in (None, "process") else {"shape": shape}),
        "result": {"sha256": sha256_hex(member.result.encode())},
    }


def sign_statement(statement: bytes, *, key: SigningKey) -> DsseEnvelope:
    """Return a statement in a DSSE envelope.

    Args:
        statement: The statement's bytes.
        key: A P-256 key.
    """
    signature = signature_to_der(key.sign(pre_authentication_encoding(statement)))
    return DsseEnvelope(
        payload=base64.b64encode(statement).decode("ascii"),
        payloadType=PAYLOAD_TYPE,
        signatures=(
            DsseSignature(keyid=key.verifying_key.thumbprint, sig=base64.b64encode(signature).decode("ascii")),
        ),
    )


def verify_statement(envelope: DsseEnvelope, *, key: VerifyingKey) -> dict[str, Any]:
    """Check an envelope's signature and return the statement.

    The caller MUST compare the statement with what it is to be about.

    Args:
        envelope: The envelope.
        key: The only key that is accepted.

    Raises:
        FormatError: Not base64 text, or not JSON.
        VerificationError: Another type, another key, or a signature that does not hold.

    Source: DSSE v1, "Protocol", verification.
    """
    (signature,) = envelope.signatures
    if envelope.payloadType != PAYLOAD_TYPE or signature.keyid != key.thumbprint:
        raise VerificationError("the statement is of another type, or signed by another key than the driver's")
    payload = _decoded(envelope.payload)
    key.verify(pre_authentication_encoding(payload), signature_of_any_form(_decoded(signature.sig), key=key))
    return parse_json_object(payload)


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Return what a DSSE signature is over.

    Source: DSSE v1, "Protocol", PAE.
    """
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def _decoded(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (ValueError, binascii.Error) as error:
        raise FormatError("a part of the envelope is not base64 text") from error
    if base64.b64encode(data).decode("ascii") != text:
        raise FormatError("a part of the envelope is not base64 text in its canonical spelling")
    return data
