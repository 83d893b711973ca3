"""Approvals of datasets whose key is in a vault: nobody stores them, so whoever relies on one verifies it.

The agent does before it uses a key, and an auditor does with a receipt. What the vault itself enforces is the release
policy that the owner put on the key: `vault_release_policy` is what an approval amounts to there.
"""

from collections.abc import Sequence
from typing import Final, Literal

from strongroom.base.encoding import Json, canonical_json, parse_json_object
from strongroom.base.errors import FormatError, RefusedError, VerificationError, differences
from strongroom.base.workflow import Step
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import VerifyingKey
from strongroom.policy.approval import Approval, approval_release_policy
from strongroom.policy.claims import Claims
from strongroom.policy.key_back_ends import KeyBackEnd, demand_key_back_end, is_azure_attestation
from strongroom.policy.release_policy import ReleasePolicy, parse_release_policy
from strongroom.policy.tee_claims import HARDWARE
from strongroom.wire.key_service import APPROVAL_TYP
from strongroom.wire.runtime_data import Role
from strongroom.wire.ticket import RunTicket
from strongroom.wire.vault_key import VaultKey

_ROLES: Final[tuple[Role, ...]] = ("driver", "executor")


def vault_release_policy(approvals: Sequence[Approval], *, roles: Sequence[Role] = _ROLES) -> ReleasePolicy:
    """Return the release policy to put on a vault's key: any of the approved applications, driver or executor.

    Args:
        approvals: The approvals of datasets under this key; at least one.
        roles: Whose TEEs may have the key.

    Raises:
        FormatError: No approval, or more conditions than a policy holds.
        RefusedError: An approval states what no vault enforces.
    """
    authorities: list[Json] = []
    for approval in approvals:
        demand_key_back_end(approval, KeyBackEnd(approval.back_end))
        for role in roles:
            policy = parse_json_object(approval_release_policy(approval, role=role).data)
            authorities += [each for each in map(_as_issued, policy["anyOf"]) if each not in authorities]
    return parse_release_policy(canonical_json({"version": "1.0.0", "anyOf": authorities}))


def verify_vault_approval(
    token: str, *, key: VaultKey, dataset: str, access: Literal["read", "write"], ticket: RunTicket
) -> Approval:
    """Verify an owner's approval for a dataset whose key is in a vault.

    1. One of the owners whom the key's statement names signed it; the statement is what the binding pins.
    2. It is for this key, dataset, application and access, and names the submitter.
    3. It states nothing that this back end cannot enforce.
    The caller MUST have verified the ticket's signature, and MUST compare results with it (`appraise_result`).

    Args:
        token: The approval, a JWS that carries its signer's public key.
        key: The statement.
        dataset: The dataset's name in the application's description.
        access: What the description binds it for.
        ticket: The run's ticket.

    Raises:
        FormatError: Not an approval.
        VerificationError: No owner signed it.
        RefusedError: It is for something else, or states what is not enforced.
    """
    jwk = unverified_header(token).get("jwk")
    if not isinstance(jwk, dict):
        raise FormatError("the approval's header carries no public key (jwk)", step=Step.RELEASE)
    signer = VerifyingKey.from_jwk(jwk)
    if signer.thumbprint not in key.owners:
        raise VerificationError(
            f"the approval for dataset {dataset} is not signed by an owner whom the vault key's statement names",
            action="Ask the dataset's owner for the approval.",
            step=Step.RELEASE,
            mismatches=differences({"owner": (" or ".join(key.owners), signer.thumbprint)}),
        )
    approval = Approval.from_json(verify_jws(token, key=signer, typ=APPROVAL_TYP).payload)
    mismatches = differences(
        {
            "dataset": (dataset, approval.dataset),
            "key": (key.identity, approval.key_service),
            "application": (ticket.application, approval.application),
            "access": (access, approval.access),
        }
    )
    if ticket.submitter not in approval.submitters:
        mismatches += differences({"submitter": (" or ".join(approval.submitters), ticket.submitter)})
    if mismatches:
        raise RefusedError(
            f"the approval for dataset {dataset} does not cover this run",
            action="Ask the owner for an approval that names what was asked for.",
            step=Step.RELEASE,
            mismatches=mismatches,
        )
    demand_key_back_end(approval, KeyBackEnd(key.kind))
    return approval


def with_hardware(claims: Claims) -> Claims:
    """Return a result's claims with the kind of hardware, where its issuer does not say it.

    Azure Attestation vouches for real hardware alone.
    """
    issuer = claims.get("iss")
    if isinstance(issuer, str) and is_azure_attestation(issuer):
        return {HARDWARE: "real", **claims}
    return claims


def _as_issued(authority: Json) -> Json:
    """Leave out what Azure Attestation does not say; all hardware that it vouches for is real."""
    match authority:
        case {"authority": str(issuer), "allOf": [*conditions]} if is_azure_attestation(issuer):
            kept = [each for each in conditions if not (isinstance(each, dict) and each.get("claim") == HARDWARE)]
            return {"authority": issuer, "allOf": kept}
        case _:
            return authority
