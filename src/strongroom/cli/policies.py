"""Evidence policies from the owner's side: the default one, signing one, asking which one is registered."""

import base64
from datetime import datetime, timedelta
from typing import Final

from strongroom.attestation.evidence.simulated import ENTRIES
from strongroom.base.encoding import canonical_json, from_b64url, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.clients.attestation import AttestationClient
from strongroom.crypto.jose import sign_jws, unverified_header, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.wire.trust import Trust

_RULE: Final = """\
    [type=="x-ms-sgx-is-debuggable", value==false]
    && [type=="x-ms-sgx-mrenclave", value=="{measurement}"]
    && [type=="x-ms-sgx-product-id", value=={product}]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-tcb-status", value=="UpToDate"]
    => permit();
"""
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


def default_policy(trust: Trust) -> EvidencePolicy:
    """Return the policy that accepts exactly the agents of a trust file: not debuggable, up to date, on its hardware.

    Raises:
        ConfigurationError: The trust file names no agent.
    """
    if not trust.agent_measurements:
        raise ConfigurationError("the trust file names no agent", action="write it again with: strongroom up")
    product = ENTRIES["strongroom.agent"]
    rules = [
        _RULE.format(measurement=measurement, product=product, hardware=trust.hardware)
        for measurement in trust.agent_measurements
    ]
    return parse_evidence_policy(_POLICY.format(rules="".join(rules)))


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


def registered_policy(client: AttestationClient, *, token: str) -> EvidencePolicy | None:
    """Return the policy that the attestation service appraises evidence with; None where nobody registered one.

    The connection is pinned to the service, so that its answer's own signature adds nothing.

    Raises:
        FormatError: The answer holds no policy.
    """
    match parse_json_object(unverified_payload(client.get_policy(token=token))):
        case {"x-ms-policy": str(stored)}:
            pass
        case _:
            raise FormatError("the attestation service's answer holds no policy")
    if unverified_header(stored).get("alg") == "none":
        return None
    match parse_json_object(unverified_payload(stored)):
        case {"AttestationPolicy": str(text)}:
            return parse_evidence_policy(from_b64url(text).decode("utf-8", errors="replace"))
        case _:
            raise FormatError("the stored policy token holds no policy")
