"""Evidence policies from the owner's side: the default one, signing one, asking which one is registered."""

import base64
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Final

from strongroom.attestation.evidence.simulated import ENTRIES
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.clients.attestation import AttestationClient
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.services.evidence_policies import DENY_ALL
from strongroom.services.policy_tokens import policy_text, read_policy_token
from strongroom.wire.model import TEE_KINDS, TeeKind
from strongroom.wire.trust import Anchors

_RULES: Final[Mapping[TeeKind, str]] = {
    "sgx": """\
    [type=="x-ms-sgx-is-debuggable", value==false]
    && [type=="x-ms-sgx-mrenclave", value=="{measurement}"]
    && [type=="x-ms-sgx-product-id", value=={product}]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-tcb-status", value=="UpToDate"]
    => permit();
""",
    "tdx": """\
    [type=="dbgstat", value=="disabled"]
    && [type=="tdx_mrtd", value=="{measurement}"]
    && [type=="tdx_td_attributes_septve_disable", value==true]
    && [type=="x-ms-strongroom-migratable", value==false]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-tcb-status", value=="UpToDate"]
    => permit();
""",
    "snp": """\
    [type=="x-ms-sevsnpvm-is-debuggable", value==false]
    && [type=="x-ms-sevsnpvm-launchmeasurement", value=="{measurement}"]
    && [type=="x-ms-sevsnpvm-migration-allowed", value==false]
    && [type=="x-ms-sevsnpvm-vmpl", value==0]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-firmware-is-provisional", value==false]
    => permit();
""",
}
_POLICY: Final = """\
version= 1.0;
authorizationrules
{{
{rules}}};
issuancerules
{{
}};
"""
_CERTIFICATE_LIFETIME: Final = timedelta(days=3650)
_BACKDATED: Final = timedelta(hours=1)


def default_policy(trust: Anchors) -> EvidencePolicy:
    """Return the policy that accepts exactly the agents of a trust file: not debuggable, up to date, on its hardware.

    It is one text for all kinds of TEE, registered for each, so that one hash names it in approvals.

    Raises:
        ConfigurationError: The trust file names no agent.
    """
    rules = [
        rule.format(measurement=measurement, product=ENTRIES["strongroom.agent"], hardware=trust.hardware)
        for tee, rule in _RULES.items()
        for measurement in trust.agents(tee)
    ]
    if not rules:
        raise ConfigurationError("the trust file names no agent", action="write it again with: strongroom up")
    return parse_evidence_policy(_POLICY.format(rules="".join(rules)))


def register_policy(
    client: AttestationClient, policy: EvidencePolicy, *, key: SigningKey, token: str, now: datetime
) -> None:
    """Sign a policy with the owner's key and register it for every kind of TEE.

    Raises:
        StrongroomError: The service refuses, or does not answer.
    """
    signed = sign_policy(policy, key=key, now=now)
    for tee in TEE_KINDS:
        client.set_policy(signed, token=token, tee=tee)


def sign_policy(policy: EvidencePolicy, *, key: SigningKey, now: datetime) -> str:
    """Return a policy as Azure Attestation takes it: a JWS whose header carries the signer's certificate.

    Args:
        policy: The policy.
        key: The owner's key; the attestation service knows it as a policy signer.
        now: The present time.

    Source: Azure Attestation, "Author and sign a policy".
    """
    certificate = new_identity(
        common_name="Strongroom data owner", key=key, not_before=now - _BACKDATED, not_after=now + _CERTIFICATE_LIFETIME
    )
    body = canonical_json({"AttestationPolicy": to_b64url(policy.text.encode())})
    return sign_jws(body, key=key, header={"x5c": [base64.b64encode(certificate).decode("ascii")]})


def registered_policy(client: AttestationClient, *, token: str, tee: TeeKind = "sgx") -> EvidencePolicy | None:
    """Return the policy that a kind of TEE's evidence is appraised with; None where the denying default stands.

    The connection is pinned to the service, so that its answer's own signature adds nothing.

    Raises:
        FormatError: The answer holds no policy.
    """
    match parse_json_object(unverified_payload(client.get_policy(token=token, tee=tee))):
        case {"x-ms-policy": str(stored)}:
            pass
        case _:
            raise FormatError("the attestation service's answer holds no policy")
    text = policy_text(read_policy_token(stored).payload)
    return None if text == DENY_ALL else parse_evidence_policy(text)


def common_policy_hash(client: AttestationClient, tees: tuple[TeeKind, ...], *, token: str) -> str:
    """Return the hash of the one evidence policy that is registered for several kinds of TEE.

    Raises:
        ConfigurationError: A kind has none, or they differ.
    """
    registered = {tee: registered_policy(client, token=token, tee=tee) for tee in tees}
    hashes = {policy.hash for policy in registered.values() if policy is not None}
    missing = [tee for tee, policy in registered.items() if policy is None]
    if missing or len(hashes) != 1:
        what = f"no evidence policy is registered for {', '.join(missing)}" if missing else "each kind has its own"
        raise ConfigurationError(
            f"the approval names one evidence policy for all its kinds of TEE, and {what}",
            action="register one: strongroom policy set --default",
        )
    return hashes.pop()
