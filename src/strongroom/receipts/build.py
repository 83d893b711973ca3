"""Building a receipt, inside the driver's TEE, and what its reader needs as well."""

import hashlib
from typing import Any

from strongroom.attestation.evidence.unverified import UnverifiedEvidence, UnverifiedVtpm
from strongroom.base.encoding import canonical_json, from_b64url, to_b64url
from strongroom.crypto.keys import SigningKey
from strongroom.receipts.statement import sign_statement, statement_of
from strongroom.wire.key_service import Evidence
from strongroom.wire.receipt import RECEIPT_CONTEXT, Receipt, ReceiptBody


def evidence_of(evidence: Evidence) -> UnverifiedEvidence:
    """Return a member's evidence as it was before it travelled.

    Raises:
        FormatError: It is not base64url text.
        LimitError: It is larger than allowed.
    """
    vtpm = None
    if evidence.vtpm is not None:
        vtpm = UnverifiedVtpm(
            hcl_report=from_b64url(evidence.vtpm.hcl_report),
            tpm_quote=from_b64url(evidence.vtpm.tpm_quote),
            tpm_signature=from_b64url(evidence.vtpm.tpm_signature),
            pcrs={int(number): bytes.fromhex(value) for number, value in evidence.vtpm.pcrs.items()},
        )
    return UnverifiedEvidence(
        kind=evidence.kind,
        quote=from_b64url(evidence.quote),
        runtime_data=from_b64url(evidence.runtime_data),
        certificate_chain=evidence.certificate_chain,
        initdata=None if evidence.initdata is None else from_b64url(evidence.initdata),
        vtpm=vtpm,
    )


def receipt_digest(body: ReceiptBody) -> str:
    """Return the SHA-256 of a receipt's body, which the key services log when the run closes."""
    return hashlib.sha256(body.to_json()).hexdigest()


def body_bytes(receipt: dict[str, Any]) -> bytes:
    """Return the bytes that a receipt's signature and digest are over.

    Args:
        receipt: The receipt as parsed JSON. The body's own members count, whatever later versions of it have.

    Raises:
        FormatError: It has no body.
    """
    return canonical_json(receipt.get("body"))


def sign_receipt(body: ReceiptBody, *, key: SigningKey, closings: dict[str, str]) -> bytes:
    """Return the receipt file: canonical JSON, so that any edit shows.

    Args:
        body: What the driver's agent vouches for.
        key: The driver's signing key, which its evidence names.
        closings: Each key service's closing statement, by identity.
    """
    signature = to_b64url(key.sign(RECEIPT_CONTEXT + body.to_json()))
    attestation = sign_statement(statement_of(body, digest=receipt_digest(body)), key=key)
    return Receipt(body=body, signature=signature, closings=closings, attestation=attestation).to_json()
