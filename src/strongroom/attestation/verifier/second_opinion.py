"""The same evidence, verified by dcap-qvl: another program, another language, other authors.

Only its synchronous functions are used; its network part is not.
"""

import hashlib
import json
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import dcap_qvl

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.base.errors import DisagreementError, Mismatch

_SGX: Final = {
    "mrenclave": "mr_enclave",
    "mrsigner": "mr_signer",
    "isv_prod_id": "isv_prod_id",
    "isv_svn": "isv_svn",
    "attributes": "attributes",
    "report_data": "report_data",
}
"""Our names of a report's fields, and dcap-qvl's."""
_TDX: Final = {
    "tee_tcb_svn": "tee_tcb_svn",
    "mrseam": "mr_seam",
    "td_attributes": "td_attributes",
    "xfam": "xfam",
    "mrtd": "mr_td",
    "mrconfigid": "mr_config_id",
    "mrowner": "mr_owner",
    "mrownerconfig": "mr_owner_config",
    "rtmr0": "rt_mr0",
    "rtmr1": "rt_mr1",
    "rtmr2": "rt_mr2",
    "rtmr3": "rt_mr3",
    "report_data": "report_data",
}
_log = logging.getLogger(__name__)
_ACTION: Final = "Do not use this platform. Keep the evidence and report it: one of the two verifiers is wrong."


def require_agreement(
    ours: Mapping[str, str], *, quote: bytes, endorsements: DcapEndorsements, anchor_der: bytes, now: datetime
) -> None:
    """Verify the evidence with dcap-qvl and compare what it found with what our verifier found.

    Args:
        ours: What our verifier found, by the names of `_claims`.
        quote: The quote's bytes.
        endorsements: What it is verified with.
        anchor_der: The root that the quote's chain ends at, in a form dcap-qvl reads.
        now: The time of the check.

    Raises:
        DisagreementError: dcap-qvl refuses what ours accepted, or found something else; all differences are named.
            The same is logged as an error, with the quote's digest: the alert for whoever runs this verifier. What
            ours refuses never comes here: anybody can make evidence that only ours refuses (it reads more of it), and
            such a refusal needs no second opinion.
    """
    seconds = int(now.timestamp())
    try:
        collateral = dcap_qvl.QuoteCollateralV3.from_json(endorsements.model_dump_json())
        policy = dcap_qvl.QuotePolicy.claims_only(seconds)
        verified = dcap_qvl.QuoteVerifier(anchor_der).verify_with_policy(quote, collateral, seconds, policy)
    except ValueError as error:
        raise _disagreement(
            f"the two verifiers disagree: dcap-qvl refuses this evidence ({_last_cause(error)})", quote
        ) from error
    theirs = _claims(json.loads(verified.to_json()))
    mismatches = tuple(
        Mismatch(name=name, expected=ours.get(name, "nothing"), actual=theirs.get(name, "nothing"))
        for name in sorted({*ours, *theirs})
        if ours.get(name) != theirs.get(name)
    )
    if mismatches:
        raise _disagreement("the two verifiers disagree", quote, *mismatches)


def _disagreement(message: str, quote: bytes, *mismatches: Mismatch) -> DisagreementError:
    """Return the error, and raise the alert: the error alone would be seen only by whoever sent the evidence."""
    error = DisagreementError(message, action=_ACTION, mismatches=mismatches)
    differences = "; ".join(map(str, mismatches))
    _log.error("%s: %s %s; quote %s", error.code, message, differences, hashlib.sha256(quote).hexdigest())
    return error


def _claims(document: Mapping[str, Any]) -> dict[str, str]:
    pck = document["platform"]["pck"]
    return {
        "tcb status": document["tcb"]["status"],
        "advisories": " ".join(sorted(set(document["tcb"]["advisory_ids"]))),
        "tcb evaluation data number": str(document["tcb"]["eval_data_number"]),
        "tcb date": document["platform"]["tcb_level"]["tcbDate"],
        "fmspc": bytes(pck["fmspc"]).hex(),
        "ppid": bytes(pck["ppid"]).hex(),
        "earliest expiration": str(document["earliest_expiration_date"]),
        **_report(document["report"]),
    }


def _report(found: Mapping[str, Any]) -> dict[str, str]:
    ((kind, report),) = found.items()
    if kind == "SgxEnclave":
        return {name: str(report[theirs]) for name, theirs in _SGX.items()}
    report = report.get("base", report)
    return {name: report[theirs] for name, theirs in _TDX.items()}


def _last_cause(error: ValueError) -> str:
    return str(error).splitlines()[-1].strip()
