from datetime import UTC, datetime

import pytest

from strongroom.base.encoding import from_any_b64, from_b64url, parse_json_object
from strongroom.base.errors import ConfigurationError, RefusedError
from strongroom.cli.policies import default_policy, sign_policy
from strongroom.crypto.jose import unverified_header, verify_jws
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import public_key
from strongroom.policy.claims import ClaimIssuer, ClaimValue, claims_from_json
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
