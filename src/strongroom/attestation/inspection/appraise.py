"""What an evidence policy makes of claims, explained, by the rules of the attestation service."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from strongroom.attestation.claims import SAFE_CLAIMS, demand_named, incoming_claims
from strongroom.base.encoding import Json
from strongroom.base.errors import RefusedError
from strongroom.policy.evidence_policy import EvidencePolicy
from strongroom.policy.explanation import Explanation, explain
from strongroom.policy.tee_claims import ISOLATION

_KIND: Final = "x-ms-attestation-type"


def appraise(policy: EvidencePolicy, claims: Mapping[str, Json], *, is_verified: bool) -> Explanation:
    """Appraise claims as the attestation service does, and say how each rule came out.

    1. Evaluate the policy.
    2. Refuse what is not safe and what the policy did not name (`demand_named`).

    Args:
        policy: The policy.
        claims: What evidence says, or what somebody recorded.
        is_verified: False for recorded claims. These may be few: what they do not say is taken for safe, because they
            prove nothing anyway.

    Returns:
        The outcome and its explanation; a refusal is no error here.
    """
    # 1.
    explanation = explain(policy, incoming_claims(claims))
    judged = claims if is_verified else _completed(claims)
    if explanation.evaluation is None or judged is None:
        return explanation
    # 2.
    try:
        demand_named(judged, named=explanation.evaluation.named)
    except RefusedError as refusal:
        return replace(explanation, evaluation=None, refusal=refusal.message, mismatches=refusal.mismatches)
    return explanation


def _completed(claims: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """Return what recorded claims say of safety, completed; None where they are of no kind that has a word for it."""
    kind, inside = str(claims.get(_KIND)), claims.get(ISOLATION)
    if kind in SAFE_CLAIMS:
        return {_KIND: kind, **_said(claims, kind, is_complete=True)}
    if isinstance(inside, Mapping) and str(inside.get(_KIND)) in SAFE_CLAIMS:
        under = str(inside[_KIND])
        return {
            _KIND: kind,
            **_said(claims, under, is_complete=False),
            ISOLATION: {_KIND: under, **_said(inside, under, is_complete=True)},
        }
    return None


def _said(claims: Mapping[str, Json], kind: str, *, is_complete: bool) -> dict[str, Json]:
    safe = SAFE_CLAIMS[kind]
    said = {name: value for name in safe if isinstance(value := claims.get(name), str | int)}
    return {**(safe if is_complete else {}), **said}
