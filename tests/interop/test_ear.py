"""Our EARs have the form that the specification gives them, as its own examples have.

No library on the Python registry reads EARs. The specification's CDDL is written here as strict models; its published
examples show that these are right. Veraison's own tool (`arc`, Go) read the same claims when this was written.

Source: draft-ietf-rats-ear, figures "EAR (CDDL Definition)" and "EAR Appraisal Claims"; draft-ietf-rats-ar4si, 2.3;
the examples `ear-json-2` and `ext-veraison-json-1` (shortened) of the draft.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench

from strongroom.attestation.claims import sgx_claims, snp_claims, tdx_claims
from strongroom.attestation.ear import ear_claims
from strongroom.base.encoding import canonical_json, parse_json_object
from strongroom.crypto.jose import sign_jws, verify_jws
from strongroom.crypto.keys import SigningKey

Tier = Literal["none", "affirming", "warning", "contraindicated"]
NonEmpty = Annotated[dict[str, Any], Field(min_length=1)]
TrustClaim = Annotated[int, Field(ge=-128, le=127)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class TrustVector(Strict):
    instance_identity: TrustClaim = Field(default=0, alias="instance-identity")
    configuration: TrustClaim = 0
    executables: TrustClaim = 0
    file_system: TrustClaim = Field(default=0, alias="file-system")
    hardware: TrustClaim = 0
    runtime_opaque: TrustClaim = Field(default=0, alias="runtime-opaque")
    storage_opaque: TrustClaim = Field(default=0, alias="storage-opaque")
    sourced_data: TrustClaim = Field(default=0, alias="sourced-data")


class Appraisal(Strict):
    status: Tier = Field(alias="ear.status")
    vector: TrustVector | None = Field(default=None, alias="ear.trustworthiness-vector")
    policy_id: str | None = Field(default=None, alias="ear.appraisal-policy-id")
    annotated_evidence: dict[str, Any] | None = Field(
        default=None, alias="ear.veraison.annotated-evidence", min_length=1
    )
    policy_claims: dict[str, Any] | None = Field(default=None, alias="ear.veraison.policy-claims", min_length=1)


class VerifierId(Strict):
    developer: str
    build: str


class Ear(Strict):
    eat_profile: Literal["tag:github.com,2023:veraison/ear"]
    iat: int
    verifier_id: VerifierId = Field(alias="ear.verifier-id")
    raw_evidence: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")] | None = Field(
        default=None, alias="ear.raw-evidence"
    )
    submods: dict[str, Appraisal] = Field(min_length=1)
    eat_nonce: Annotated[str, StringConstraints(min_length=8, max_length=88)] | None = None
    # Registered claims of a JWT, which the extension point lets in.
    iss: str | None = None
    exp: int | None = None
    nbf: int | None = None
    jti: str | None = None


VERAISON = {"developer": "https://veraison-project.org", "build": "vts 0.0.1"}
PUBLISHED: Mapping[str, dict[str, Any]] = {
    "ear-json-2": {
        "eat_profile": "tag:github.com,2023:veraison/ear",
        "iat": 1666529300,
        "ear.verifier-id": VERAISON,
        "ear.raw-evidence": "NzQ3MjY5NzM2NTYzNzQKNzQ3MjY5NzM2NTYzNzQK",
        "submods": {
            "CCA Platform": {
                "ear.status": "affirming",
                "ear.trustworthiness-vector": {"instance-identity": 2, "executables": 2, "hardware": 2},
                "ear.appraisal-policy-id": "https://veraison.example/policy/1/60a0068d",
            },
            "CCA Realm": {
                "ear.status": "affirming",
                "ear.trustworthiness-vector": {"instance-identity": 2},
                "ear.appraisal-policy-id": "https://veraison.example/policy/1/60a0068d",
            },
        },
    },
    "ext-veraison-json-1": {
        "eat_profile": "tag:github.com,2023:veraison/ear",
        "iat": 1666529184,
        "ear.verifier-id": VERAISON,
        "ear.raw-evidence": "NzQ3MjY5NzM2NTYzNzQK",
        "submods": {
            "PSA_IOT": {
                "ear.status": "contraindicated",
                "ear.trustworthiness-vector": {"instance-identity": 2, "executables": 96, "hardware": 2},
                "ear.appraisal-policy-id": "https://veraison.example/policy/1/60a0068d",
                "ear.veraison.annotated-evidence": {"psa-client-id": 1, "psa-security-lifecycle": 12288},
                "ear.veraison.policy-claims": {"psa-certified": {"test-lab": "Riscure"}},
            }
        },
    },
}


def our_ears() -> dict[str, dict[str, Any]]:
    bench, iat = Bench.new(), int(NOW.timestamp())
    results = {
        "sgx": sgx_claims(bench.verify(), runtime_data_type="JSON"),
        "tdx": tdx_claims(bench.verify_td(), runtime_data_type="JSON"),
        "snp": snp_claims(amd_bench().verify(), runtime_data_type="JSON"),
    }
    signed = {"iss": "https://a", "iat": iat, "nbf": iat, "exp": iat + 60, "jti": "j", "x-ms-policy-hash": "p"}
    return {
        tee: ear_claims(claims | signed | {"nonce": "a nonce of ours"}, permitted=True, developer="d", build="b")
        for tee, claims in results.items()
    }


@pytest.mark.parametrize("example", PUBLISHED.values(), ids=PUBLISHED)
def test_reads_the_published_examples(example: dict[str, Any]) -> None:
    parsed = Ear.model_validate(example)
    for appraisal in parsed.submods.values():
        assert appraisal.vector is not None
        assert appraisal.status == tier_of(appraisal.vector)


@pytest.mark.parametrize(
    "broken",
    [
        {"iat": "now"},
        {"eat_profile": "another"},
        {"submods": {}},
        {"eat_nonce": "short"},
        {"submods": {"a": {"ear.status": "fine"}}},
        {"submods": {"a": {"ear.status": "none", "ear.trustworthiness-vector": {"hardware": 128}}}},
        {"ear.verifier-id": {"developer": "d"}},
    ],
)
def test_the_models_refuse_what_the_specification_does(broken: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Ear.model_validate(PUBLISHED["ear-json-2"] | broken)


@pytest.mark.parametrize("tee", ["sgx", "tdx", "snp"])
def test_our_results_are_ears(tee: str) -> None:
    """Also after signing, as what a relying party reads."""
    key = SigningKey.generate("ES256")
    token = sign_jws(canonical_json(our_ears()[tee]), key=key, header={"typ": "JWT"})
    parsed = Ear.model_validate(parse_json_object(verify_jws(token, key=key.verifying_key).payload))
    appraisal = parsed.submods["cpu0"]
    assert appraisal.vector is not None
    assert appraisal.status == tier_of(appraisal.vector) == "contraindicated"  # simulated hardware
    assert appraisal.annotated_evidence is not None
    assert set(appraisal.annotated_evidence) == {tee, "runtime_data_claims", "init_data_claims"}


def tier_of(vector: TrustVector) -> Tier:
    """Return the tier of the worst claim, by the specification's ranges.

    Source: draft-ietf-rats-ar4si, 2.3.2 (trustworthiness tiers).
    """
    ranks: list[Tier] = ["none", "affirming", "warning", "contraindicated"]

    def rank(claim: int) -> int:
        if -1 <= claim <= 1:
            return 0
        if -32 <= claim <= 31:
            return 1
        return 2 if -96 <= claim <= 95 else 3

    return ranks[max(rank(claim) for claim in vector.model_dump().values())]
