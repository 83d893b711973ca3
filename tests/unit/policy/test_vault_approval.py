"""Approvals for vaults: who signed them, what they cover, and the release policy they amount to."""

from typing import Any

import pytest
from tests.unit.keys.test_vault_hierarchy import statement
from tests.unit.policy.test_approval import APPLICATION, CLAIMS, SUBMITTER, TICKET
from tests.unit.policy.test_key_back_ends import ANY_MACHINE, AZURE, approval

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import FormatError, RefusedError, StrongroomError, VerificationError
from strongroom.base.workflow import Step
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey
from strongroom.policy.approval import Approval, appraise_result
from strongroom.policy.key_back_ends import KeyBackEnd, KeyDemand
from strongroom.policy.vault_approval import vault_release_policy, verify_vault_approval, with_hardware
from strongroom.wire.key_service import APPROVAL_TYP
from strongroom.wire.vault_key import VaultKey

OWNER, OTHER = SigningKey.generate("ES256"), SigningKey.generate("ES256")
KEY = statement(owners=(OWNER.verifying_key.thumbprint,))
HARDWARE = "x-ms-strongroom-hardware"
OURS = {"attestation_issuer": "https://attest.example", "hardware": "simulated", "platform": None}


def made(**changed: Any) -> Approval:
    fields = {"key_service": KEY.identity, **OURS, **changed}
    return Approval.from_object({**parse_json_object(approval(KeyBackEnd.AZURE_MANAGED_HSM).to_json()), **fields})


def signed(given: Approval, *, key: SigningKey = OWNER, **header: Any) -> str:
    fields = {"typ": APPROVAL_TYP, "jwk": key.verifying_key.to_jwk(), **header}
    return sign_jws(given.to_json(), key=key, header={name: each for name, each in fields.items() if each is not None})


def verify(token: str, *, key: VaultKey = KEY, **changed: Any) -> Approval:
    return verify_vault_approval(
        token, **{"key": key, "dataset": "trips", "access": "read", "ticket": TICKET, **changed}
    )


def test_takes_an_owners_approval_of_this_run() -> None:
    assert verify(signed(made())) == made()


def test_refuses_what_no_pinned_owner_signed() -> None:
    with pytest.raises(VerificationError, match="owner"):
        verify(signed(made(), key=OTHER))
    with pytest.raises(StrongroomError):
        verify(signed(made(), key=OTHER, jwk=OWNER.verifying_key.to_jwk()))
    with pytest.raises(FormatError, match="jwk"):
        verify(signed(made(), jwk=None))
    with pytest.raises(StrongroomError):
        verify(signed(made(), typ="strongroom-version+jws"))


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ({"dataset": "others"}, "dataset"),
        ({"key_service": "ab" * 32}, "key"),
        ({"application": "ab" * 32}, "application"),
        ({"access": "write"}, "access"),
        ({"submitters": ["ab" * 32]}, "submitter"),
    ],
)
def test_refuses_an_approval_of_something_else(stated: dict[str, Any], name: str) -> None:
    with pytest.raises(RefusedError) as error:
        verify(signed(made(**stated)))
    assert [mismatch.name for mismatch in error.value.mismatches] == [name]
    assert error.value.step == Step.RELEASE


@pytest.mark.parametrize(
    ("stated", "demand"),
    [
        ({"max_runs": 3}, KeyDemand.MAX_RUNS),
        ({"not_after": "2027-01-01T00:00:00Z"}, KeyDemand.NOT_AFTER),
        ({"columns": ["tip"]}, KeyDemand.COLUMNS),
        ({"roster": "ab" * 32}, KeyDemand.SEVERAL),
        ({"back_end": "strongroom"}, "back end"),
        ({"back_end": "azure-key-vault"}, "back end"),
    ],
)
def test_refuses_an_approval_that_states_what_nobody_enforces_here(stated: dict[str, Any], demand: str) -> None:
    with pytest.raises(RefusedError) as error:
        verify(signed(made(**stated)))
    assert demand in [mismatch.name for mismatch in error.value.mismatches]


def test_the_policy_to_put_on_the_key_accepts_what_approvals_accept_and_nothing_else() -> None:
    policy = vault_release_policy([made(), made(access="write", dataset="report")])
    assert len(policy.authorities) == 2  # a driver and an executor; both approvals demand the same of them
    for role in ("driver", "executor"):
        claims = {**CLAIMS, "x-ms-runtime": {**CLAIMS["x-ms-runtime"], "role": role}}
        policy.evaluate(claims)
        for claim in ("x-ms-policy-hash", "x-ms-sgx-config-id", HARDWARE, "x-ms-attestation-type", "iss"):
            with pytest.raises(RefusedError):
                policy.evaluate({**claims, claim: "another"})
        with pytest.raises(RefusedError):
            policy.evaluate({**claims, "x-ms-runtime": {**claims["x-ms-runtime"], "application": "ab" * 32}})
    with pytest.raises(RefusedError):
        policy.evaluate({**CLAIMS, "x-ms-runtime": {**CLAIMS["x-ms-runtime"], "role": "auditor"}})


def test_two_applications_are_two_of_any() -> None:
    policy = vault_release_policy([made(), made(application="ab" * 32)], roles=("driver",))
    assert len(policy.authorities) == 2
    assert APPLICATION.encode() in policy.data


def test_no_approval_is_no_policy() -> None:
    with pytest.raises(FormatError):
        vault_release_policy([])
    with pytest.raises(FormatError):
        vault_release_policy([made()], roles=())
    with pytest.raises(RefusedError):
        vault_release_policy([made(max_runs=1)])


def test_azure_attestation_says_nothing_of_hardware_and_means_real_one() -> None:
    azures = {"attestation_issuer": AZURE, **ANY_MACHINE}
    given = made(**azures)
    policy = parse_json_object(vault_release_policy([given]).data)
    claims = {each["claim"] for authority in policy["anyOf"] for each in authority["allOf"]}
    assert HARDWARE not in claims
    result = {name: value for name, value in {**CLAIMS, "iss": AZURE}.items() if name != HARDWARE}
    vault_release_policy([given]).evaluate(result)
    assert appraise_result(given, with_hardware(result), role="driver") == ()
    assert appraise_result(given, result, role="driver")
    assert with_hardware(CLAIMS) == CLAIMS
    assert HARDWARE not in with_hardware({"iss": "https://attest.azure.net.evil.example"})
    assert SUBMITTER in given.submitters
