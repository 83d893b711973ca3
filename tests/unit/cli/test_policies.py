from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from strongroom.attestation.claims import incoming_claims
from strongroom.base.encoding import from_any_b64, from_b64url, parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError, RefusedError
from strongroom.cli.main import strongroom
from strongroom.cli.policies import azure_policy, default_policy, sign_policy
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import public_key
from strongroom.policy.claims import ClaimIssuer, ClaimValue, claims_from_json
from strongroom.policy.evidence_policy import EvidencePolicy, parse_evidence_policy
from strongroom.wire.trust import Trust

AGENT, OTHER_AGENT = "ab" * 32, "cd" * 32
GOOD: dict[str, ClaimValue] = {
    "x-ms-sgx-is-debuggable": False,
    "x-ms-sgx-mrenclave": AGENT,
    "x-ms-sgx-product-id": 1,
    "x-ms-strongroom-hardware": "simulated",
    "x-ms-strongroom-tcb-status": "UpToDate",
}


TD, GUEST = "12" * 48, "34" * 48
GOOD_TD: dict[str, ClaimValue] = {
    "dbgstat": "disabled",
    "tdx_mrtd": TD,
    "tdx_td_attributes_septve_disable": True,
    "x-ms-strongroom-migratable": False,
    "x-ms-strongroom-hardware": "simulated",
    "x-ms-strongroom-tcb-status": "UpToDate",
}
GOOD_GUEST: dict[str, ClaimValue] = {
    "x-ms-sevsnpvm-is-debuggable": False,
    "x-ms-sevsnpvm-launchmeasurement": GUEST,
    "x-ms-sevsnpvm-migration-allowed": False,
    "x-ms-sevsnpvm-vmpl": 0,
    "x-ms-strongroom-hardware": "simulated",
    "x-ms-strongroom-firmware-is-provisional": False,
}


def trust(*agents: str) -> Trust:
    return Trust(hardware="simulated", roots=(), services=(), owners=(), agent_measurements=agents)


def appraise(claims: dict[str, ClaimValue], *agents: str) -> None:
    default_policy(trust(*agents)).evaluate(claims_from_json(claims, issuer=ClaimIssuer.SERVICE))


def test_the_default_policy_accepts_this_installations_agent() -> None:
    appraise(GOOD, AGENT)
    appraise({**GOOD, "x-ms-sgx-mrenclave": OTHER_AGENT}, AGENT, OTHER_AGENT)


@pytest.mark.parametrize(
    ("claim", "value"),
    [
        ("x-ms-sgx-is-debuggable", True),
        ("x-ms-sgx-mrenclave", OTHER_AGENT),
        ("x-ms-sgx-product-id", 2),
        ("x-ms-strongroom-hardware", "real"),
        ("x-ms-strongroom-tcb-status", "OutOfDate"),
    ],
)
def test_the_default_policy_refuses_any_other_evidence(claim: str, value: ClaimValue) -> None:
    with pytest.raises(RefusedError):
        appraise({**GOOD, claim: value}, AGENT)
    with pytest.raises(RefusedError):
        appraise({name: kept for name, kept in GOOD.items() if name != claim}, AGENT)


EVERY = Trust(
    hardware="simulated",
    roots=(),
    services=(),
    owners=(),
    agent_measurements=(AGENT,),
    agent_mrtds=(TD,),
    agent_launch_digests=(GUEST,),
)


@pytest.mark.parametrize("good", [GOOD, GOOD_TD, GOOD_GUEST], ids=["sgx", "tdx", "snp"])
def test_the_default_policy_accepts_the_agent_as_each_kind_of_tee_and_nothing_near(good: dict[str, ClaimValue]) -> None:
    policy = default_policy(EVERY)
    policy.evaluate(claims_from_json(good, issuer=ClaimIssuer.SERVICE))
    for claim, value in good.items():
        other: ClaimValue = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "00" * 48
        for claims in ({**good, claim: other}, {name: kept for name, kept in good.items() if name != claim}):
            with pytest.raises(RefusedError):
                policy.evaluate(claims_from_json(claims, issuer=ClaimIssuer.SERVICE))


def test_the_default_policy_knows_no_kind_of_tee_that_the_trust_file_names_no_agent_of() -> None:
    for good in (GOOD_TD, GOOD_GUEST):
        with pytest.raises(RefusedError):
            appraise(good, AGENT)


def test_there_is_no_default_policy_without_an_agent() -> None:
    with pytest.raises(ConfigurationError, match="names no agent"):
        default_policy(trust())


def test_a_signed_policy_carries_its_text_and_its_signers_certificate() -> None:
    key, policy = SigningKey.generate("ES256"), default_policy(trust(AGENT))

    token = sign_policy(policy, key=key, now=datetime(2026, 1, 1, tzinfo=UTC))

    body = parse_json_object(verify_jws(token, key=key.verifying_key).payload)
    assert from_b64url(body["AttestationPolicy"]).decode() == policy.text
    certificate = from_any_b64(unverified_header(token)["x5c"][0])
    assert public_key(certificate).thumbprint == key.verifying_key.thumbprint


@pytest.mark.parametrize("good", [GOOD, GOOD_GUEST], ids=["sgx", "snp"])
def test_azures_policy_accepts_the_agent_by_azures_own_claims_and_nothing_near(good: dict[str, ClaimValue]) -> None:
    policy = azure_policy(EVERY)
    assert "x-ms-strongroom-" not in policy.text
    azures = {name: value for name, value in good.items() if not name.startswith("x-ms-strongroom-")}
    policy.evaluate(claims_from_json(azures, issuer=ClaimIssuer.SERVICE))
    for claim, value in azures.items():
        other: ClaimValue = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else "00" * 48
        for claims in ({**azures, claim: other}, {name: kept for name, kept in azures.items() if name != claim}):
            with pytest.raises(RefusedError):
                policy.evaluate(claims_from_json(claims, issuer=ClaimIssuer.SERVICE))


def test_azures_policy_knows_no_trust_domains() -> None:
    with pytest.raises(RefusedError):
        azure_policy(EVERY).evaluate(claims_from_json(GOOD_TD, issuer=ClaimIssuer.SERVICE))
    with pytest.raises(ConfigurationError, match="names no agent"):
        azure_policy(EVERY.model_copy(update={"agent_measurements": (), "agent_launch_digests": ()}))


def test_azures_policy_is_printed_byte_for_byte_as_its_hash_is_over_it(tmp_path: Path) -> None:
    (tmp_path / "trust.json").write_bytes(EVERY.to_json())
    printed = CliRunner().invoke(strongroom, ["policy", "azure", "--state", str(tmp_path)])
    assert printed.exit_code == 0
    assert printed.stdout == azure_policy(EVERY).text
    assert printed.stderr == f"hash {azure_policy(EVERY).hash}\n"
    assert parse_evidence_policy(printed.stdout).hash == azure_policy(EVERY).hash


# --- pods and confidential nodes -------------------------------------------------------------------------------------

CONFIGURATION, TEMPLATE, IMAGE = "56" * 32, "78" * 32, "sha256:" + "9a" * 32
BY_IMAGE = {"template": TEMPLATE, "image": IMAGE}
POD: dict[str, ClaimValue] = {"x-ms-strongroom-pod-configuration": CONFIGURATION}
POD_WITH_IMAGE: dict[str, ClaimValue] = {"x-ms-strongroom-pod-template": TEMPLATE, "x-ms-strongroom-image": IMAGE}
LAUNCHED: dict[str, ClaimValue] = {"tdx_mrconfigid": "00" * 48, "x-ms-sevsnpvm-hostdata": "00" * 32}


def node(good: dict[str, ClaimValue]) -> dict[str, ClaimValue]:
    claim = "tdx_mrconfigid" if "tdx_mrtd" in good else "x-ms-sevsnpvm-hostdata"
    return {**good, claim: LAUNCHED[claim]}


def azure(good: dict[str, ClaimValue]) -> dict[str, Any]:
    """What a result says of such a machine below a paravisor."""
    below = {name: value for name, value in good.items() if not name.startswith("x-ms-strongroom")}
    outside = {name: value for name, value in good.items() if name not in below}
    return {**outside, "x-ms-strongroom-runtime-data-attested": True, "x-ms-isolation-tee": below}


def permits(policy: EvidencePolicy, claims: Mapping[str, Any]) -> bool:
    try:
        policy.evaluate(incoming_claims(claims))
    except RefusedError:
        return False
    return True


def anchors(**trusted: object) -> Trust:
    said = {"hardware": "simulated", "roots": [], "services": [], "owners": [], "agent_measurements": []}
    return Trust.from_object(said | trusted)


@pytest.mark.parametrize(
    ("reference", "claims"),
    [({"configuration": CONFIGURATION}, POD), (BY_IMAGE, POD_WITH_IMAGE)],
    ids=["configuration", "image"],
)
@pytest.mark.parametrize(("tee", "good"), [("tdx", GOOD_TD), ("snp", GOOD_GUEST)])
def test_a_pod_is_permitted_for_its_guest_and_for_what_runs_in_it(
    tee: str, good: dict[str, ClaimValue], reference: dict[str, str], claims: dict[str, ClaimValue]
) -> None:
    measurement = TD if tee == "tdx" else GUEST
    policy = default_policy(anchors(pods=[{"tee": tee, "measurement": measurement, **reference}]))
    pod = {**good, **claims}
    assert permits(policy, pod)
    assert not permits(policy, good), "a pod's guest that was launched as a process"
    assert not permits(policy, node(good))
    for name in pod:
        assert not permits(policy, {each: value for each, value in pod.items() if each != name})
    for name in claims:
        assert not permits(policy, {**pod, name: "00" * 32})


@pytest.mark.parametrize(("tee", "good"), [("tdx", GOOD_TD), ("snp", GOOD_GUEST)])
def test_a_node_is_permitted_as_a_node_alone(tee: str, good: dict[str, ClaimValue]) -> None:
    measurement = TD if tee == "tdx" else GUEST
    policy = default_policy(anchors(nodes=[{"tee": tee, "measurement": measurement}]))
    for claims in (node(good), azure(good)):
        assert permits(policy, claims)
        for name in claims:
            assert not permits(policy, {each: value for each, value in claims.items() if each != name})
    assert not permits(policy, good), "a node's image that was launched as a process"
    assert not permits(policy, {**good, **POD})
    claim = "tdx_mrconfigid" if tee == "tdx" else "x-ms-sevsnpvm-hostdata"
    assert not permits(policy, {**good, claim: "00" * 31 + "01"})
    assert not permits(policy, {**azure(good), "x-ms-strongroom-runtime-data-attested": False})
    inside = azure(good)["x-ms-isolation-tee"]
    for name in inside:
        less = {each: value for each, value in inside.items() if each != name}
        assert not permits(policy, {**azure(good), "x-ms-isolation-tee": less})


def test_agents_are_permitted_as_they_were_beside_pods_and_nodes() -> None:
    more = anchors(
        agent_mrtds=[TD],
        pods=[{"tee": "snp", "measurement": GUEST, "configuration": CONFIGURATION}],
        nodes=[{"tee": "snp", "measurement": "ef" * 48}],
    )
    policy = default_policy(more)
    assert permits(policy, GOOD_TD)
    assert permits(policy, {**GOOD_GUEST, **POD})
    assert not permits(policy, azure(GOOD_GUEST))
    assert default_policy(anchors(agent_mrtds=[TD])).hash != policy.hash


@pytest.mark.parametrize(
    "reference",
    [
        {},
        {"configuration": CONFIGURATION, "template": TEMPLATE, "image": IMAGE},
        {"template": TEMPLATE},
        {"image": IMAGE},
        {"configuration": CONFIGURATION, "image": IMAGE},
        {"template": TEMPLATE, "image": "latest"},
        {"template": TEMPLATE, "image": "9a" * 32},
        {"configuration": CONFIGURATION, "tee": "sgx"},
        {"configuration": CONFIGURATION, "measurement": "34" * 32},
    ],
)
def test_a_pod_is_named_by_everything_that_runs_in_it(reference: dict[str, str]) -> None:
    with pytest.raises(FormatError):
        anchors(pods=[{"tee": "snp", "measurement": GUEST, **reference}])


def test_a_trust_file_without_pods_and_nodes_reads_as_it_always_did() -> None:
    assert b"pods" not in EVERY.to_json()
    assert b"nodes" not in EVERY.to_json()
