"""Evidence policies from the owner's side: the default one, signing one, asking which one is registered."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from strongroom.attestation.evidence.simulated import ENTRIES
from strongroom.base.clock import Clock
from strongroom.base.encoding import canonical_json, parse_json_object, to_b64url
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.clients.attestation import POLICY_KINDS, AttestationClient, PolicyKind
from strongroom.clients.owner import person_token
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.policy.tee_claims import TEE_CLAIMS
from strongroom.services.evidence_policies import DENY_ALL
from strongroom.services.policy_tokens import policy_text, read_policy_token
from strongroom.submit.services import connect, trusted_service
from strongroom.wire.model import TEE_KINDS, TeeKind, VirtualTeeKind
from strongroom.wire.trust import Anchors, NodeReference, PodReference, Trust

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
_POD: Final = """\
    [type=="x-ms-strongroom-pod-configuration", value=="{configuration}"]
    && {rule}"""
_POD_WITH_IMAGE: Final = """\
    [type=="x-ms-strongroom-pod-template", value=="{template}"]
    && [type=="x-ms-strongroom-image", value=="{image}"]
    && {rule}"""
_NODE: Final = """\
    [type=="{launched_with}", value=="{nothing}"]
    && {rule}"""
_AZURE_NODE: Final[Mapping[VirtualTeeKind, str]] = {
    "tdx": """\
    [type=="x-ms-isolation-tee.dbgstat", value=="disabled"]
    && [type=="x-ms-isolation-tee.tdx_mrtd", value=="{measurement}"]
    && [type=="x-ms-isolation-tee.tdx_td_attributes_septve_disable", value==true]
    && [type=="x-ms-strongroom-migratable", value==false]
    && [type=="x-ms-strongroom-runtime-data-attested", value==true]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-tcb-status", value=="UpToDate"]
    => permit();
""",
    "snp": """\
    [type=="x-ms-isolation-tee.x-ms-sevsnpvm-is-debuggable", value==false]
    && [type=="x-ms-isolation-tee.x-ms-sevsnpvm-launchmeasurement", value=="{measurement}"]
    && [type=="x-ms-isolation-tee.x-ms-sevsnpvm-migration-allowed", value==false]
    && [type=="x-ms-isolation-tee.x-ms-sevsnpvm-vmpl", value==0]
    && [type=="x-ms-strongroom-runtime-data-attested", value==true]
    && [type=="x-ms-strongroom-hardware", value=="{hardware}"]
    && [type=="x-ms-strongroom-firmware-is-provisional", value==false]
    => permit();
""",
}
_AZURE_RULES: Final[Mapping[TeeKind, str]] = {
    "sgx": """\
    [type=="x-ms-sgx-is-debuggable", value==false]
    && [type=="x-ms-sgx-mrenclave", value=="{measurement}"]
    && [type=="x-ms-sgx-product-id", value=={product}]
    => permit();
""",
    "snp": """\
    [type=="x-ms-sevsnpvm-is-debuggable", value==false]
    && [type=="x-ms-sevsnpvm-launchmeasurement", value=="{measurement}"]
    && [type=="x-ms-sevsnpvm-migration-allowed", value==false]
    && [type=="x-ms-sevsnpvm-vmpl", value==0]
    => permit();
""",
}
"""In Azure's own claims; how current a platform is, Azure decides. Whether a trust domain can move it does not say."""
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

    It is one text for all kinds of evidence, registered for each, so that one hash names it in approvals. What is
    trusted as a pod alone, or as a confidential node alone, is permitted as nothing else: launched as if it were a
    measured agent, it would run whatever its host, or its administrator, has put into it.

    Raises:
        ConfigurationError: The trust file names no agent.
    """
    hardware = trust.hardware
    rules = _agent_rules(trust, _RULES)
    rules += [_pod_rule(pod, hardware) for pod in trust.pods]
    rules += [rule for node in trust.nodes for rule in _node_rules(node, hardware)]
    return _policy_of(rules)


def azure_policy(trust: Anchors) -> EvidencePolicy:
    """Return the policy that makes a provider of Azure Attestation accept exactly the agents of a trust file.

    It is one text for SGX and SEV-SNP, to be set for the kinds that are used, so that one hash names it. Pods and
    confidential nodes are not in it: Azure has no claim for what is launched in them.

    Raises:
        ConfigurationError: The trust file names no agent of these kinds.
    """
    return _policy_of(_agent_rules(trust, _AZURE_RULES))


def _agent_rules(trust: Anchors, rules: Mapping[TeeKind, str]) -> list[str]:
    return [
        rule.format(measurement=measurement, product=ENTRIES["strongroom.agent"], hardware=trust.hardware)
        for tee, rule in rules.items()
        for measurement in trust.agents(tee)
    ]


def _policy_of(rules: Sequence[str]) -> EvidencePolicy:
    if not rules:
        raise ConfigurationError("the trust file names no agent", action="write it again with: strongroom up")
    return parse_evidence_policy(_POLICY.format(rules="".join(rules)))


def _pod_rule(pod: PodReference, hardware: str) -> str:
    """Return the rule that permits exactly such a pod: its guest, and what runs in it."""
    rule = _RULES[pod.tee].format(measurement=pod.measurement, hardware=hardware).lstrip()
    if pod.template is None:
        return _POD.format(configuration=pod.configuration, rule=rule)
    return _POD_WITH_IMAGE.format(template=pod.template, image=pod.image, rule=rule)


def _node_rules(node: NodeReference, hardware: str) -> Iterator[str]:
    """Yield the rules that permit exactly such a node: launched for nothing in particular, or above a paravisor."""
    claims = TEE_CLAIMS[node.tee]
    rule = _RULES[node.tee].format(measurement=node.measurement, hardware=hardware).lstrip()
    yield _NODE.format(launched_with=claims.launched_with, nothing=claims.launch_value(""), rule=rule)
    yield _AZURE_NODE[node.tee].format(measurement=node.measurement, hardware=hardware)


def register_policy(
    client: AttestationClient, policy: EvidencePolicy, *, key: SigningKey, token: str, now: datetime
) -> None:
    """Sign a policy with the owner's key and register it for every kind of evidence.

    Raises:
        StrongroomError: The service refuses, or does not answer.
    """
    signed = sign_policy(policy, key=key, now=now)
    for kind in POLICY_KINDS:
        client.set_policy(signed, token=token, tee=kind)


def register_default_policy(trust: Trust, *, before: Trust | None, key: SigningKey, clock: Clock) -> tuple[str, ...]:
    """Register the policy that accepts exactly the trust file's agents, if none is registered.

    Args:
        trust: The trust file; its attestation service is asked.
        before: What the trust file said before; None where there was none.
        key: The owner's key. Its word counts, also where the owner signed in: this needs no issuer.
        clock: The time.

    Returns:
        What the owner should know of it.

    Raises:
        StrongroomError: The service refuses, or does not answer.
    """
    service = trusted_service(trust, "attestation-service")
    client = AttestationClient(connect(service))
    token = person_token(key, audience=service.identity, clock=clock)
    policy = default_policy(trust)
    if registered_policy(client, token=token) is None:
        register_policy(client, policy, key=key, token=token, now=clock.now())
        return (f"evidence policy {policy.hash} registered: exactly this installation's agent is accepted",)
    if before is not None and any(before.agents(tee) != trust.agents(tee) for tee in TEE_KINDS):
        return (
            "the installed software changed and measures otherwise; the trust file names the new reference value",
            "if that change is yours, let the evidence policy name it too: strongroom policy set --default",
        )
    return ()


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


def registered_policy(client: AttestationClient, *, token: str, tee: PolicyKind = "sgx") -> EvidencePolicy | None:
    """Return the policy that a kind of evidence is appraised with; None where the denying default stands.

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


def common_policy_hash(client: AttestationClient, kinds: Sequence[PolicyKind], *, token: str) -> str:
    """Return the hash of the one evidence policy that is registered for several kinds of evidence.

    Raises:
        ConfigurationError: A kind has none, or they differ.
    """
    registered = {kind: registered_policy(client, token=token, tee=kind) for kind in kinds}
    hashes = {policy.hash for policy in registered.values() if policy is not None}
    missing = [kind for kind, policy in registered.items() if policy is None]
    if missing or len(hashes) != 1:
        what = f"no evidence policy is registered for {', '.join(missing)}" if missing else "each kind has its own"
        raise ConfigurationError(
            f"the approval names one evidence policy for all its kinds of TEE, and {what}",
            action="register one: strongroom policy set --default",
        )
    return hashes.pop()
