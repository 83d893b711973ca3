"""EAT Attestation Results: what each claim of a result does to the trustworthiness vector, and to the status."""

import functools
from collections.abc import Mapping
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench

from strongroom.attestation.claims import sgx_claims, snp_claims, tdx_claims
from strongroom.attestation.ear import EAR_PROFILE, ear_claims
from strongroom.base.encoding import Json, canonical_json
from strongroom.base.errors import FormatError

Claims = Mapping[str, Json]
IAT = int(NOW.timestamp())
SIGNED: Claims = {"iss": "https://a", "iat": IAT, "nbf": IAT, "exp": IAT + 60, "jti": "j", "x-ms-policy-hash": "p"}


@functools.cache
def simulated() -> dict[str, Claims]:
    bench, chip = Bench.new(), amd_bench()
    return {
        "sgx": sgx_claims(bench.verify(), runtime_data_type="JSON"),
        "tdx": tdx_claims(bench.verify_td(), runtime_data_type="JSON"),
        "snp": snp_claims(chip.verify(), runtime_data_type="JSON"),
    }


def appraisal(tee: str, *, permitted: bool = True, without: str = "", **changed: Json) -> Any:
    """Appraise good claims of real hardware, but for what is changed or left out."""
    names = {name.replace("_", "-") if name.startswith("x_") else name: value for name, value in changed.items()}
    claims = {**simulated()[tee], **SIGNED, "x-ms-strongroom-hardware": "real", **names}
    claims.pop(without, None)
    made: Any = ear_claims(claims, permitted=permitted, developer="d", build="b")
    return made["submods"]["cpu0"]


def aspect(name: str, tee: str, **changed: Any) -> tuple[int, str]:
    found = appraisal(tee, **changed)
    return found["ear.trustworthiness-vector"][name], found["ear.status"]


TEES = ["sgx", "tdx", "snp"]


@pytest.mark.parametrize("tee", TEES)
def test_affirms_real_hardware_that_the_policy_permits(tee: str) -> None:
    found = appraisal(tee)
    assert found["ear.status"] == "affirming"
    assert found["ear.trustworthiness-vector"] == {
        "instance-identity": 0,
        "configuration": 2,
        "executables": 3,
        "file-system": 0,
        "hardware": 2,
        "runtime-opaque": 2,
        "storage-opaque": 0,
        "sourced-data": 0,
    }
    assert found["ear.appraisal-policy-id"] == "p"


@pytest.mark.parametrize("tee", TEES)
@pytest.mark.parametrize("hardware", ["simulated", "Real", None, True])
def test_never_affirms_simulated_hardware(tee: str, hardware: Json) -> None:
    """Who reads an EAR looks at the status, not at a claim of ours that says "simulated"."""
    assert aspect("hardware", tee, x_ms_strongroom_hardware=hardware) == (97, "contraindicated")
    assert aspect("runtime-opaque", tee, x_ms_strongroom_hardware=hardware)[0] == 96
    assert aspect("hardware", tee, without="x-ms-strongroom-hardware") == (97, "contraindicated")


@pytest.mark.parametrize("tee", TEES)
def test_what_the_policy_does_not_permit_is_contraindicated(tee: str) -> None:
    assert aspect("executables", tee, permitted=False) == (96, "contraindicated")


@pytest.mark.parametrize(
    ("status", "hardware", "configuration", "word"),
    [
        ("UpToDate", 2, 2, "affirming"),
        ("SWHardeningNeeded", 32, 2, "warning"),
        ("OutOfDate", 32, 2, "warning"),
        ("ConfigurationNeeded", 32, 32, "warning"),
        ("ConfigurationAndSWHardeningNeeded", 32, 32, "warning"),
        ("OutOfDateConfigurationNeeded", 32, 32, "warning"),
        ("TDRelaunchAdvised", 32, 2, "warning"),
        ("TDRelaunchAdvisedConfigurationNeeded", 32, 32, "warning"),
        ("Revoked", 96, 2, "contraindicated"),
        ("SomethingNew", 97, 2, "contraindicated"),
        (None, 97, 2, "contraindicated"),
        (["UpToDate"], 97, 2, "contraindicated"),
    ],
)
@pytest.mark.parametrize("tee", ["sgx", "tdx"])
def test_the_vendors_word_decides_about_hardware(
    tee: str, status: Json, hardware: int, configuration: int, word: str
) -> None:
    assert aspect("hardware", tee, x_ms_strongroom_tcb_status=status) == (hardware, word)
    assert aspect("configuration", tee, x_ms_strongroom_tcb_status=status) == (configuration, word)


@pytest.mark.parametrize(
    ("tee", "claim", "bad"),
    [
        ("sgx", "x-ms-sgx-is-debuggable", True),
        ("tdx", "dbgstat", "enabled"),
        ("snp", "x-ms-sevsnpvm-is-debuggable", True),
    ],
)
def test_debug_is_contraindicated_and_its_absence_must_be_said(tee: str, claim: str, bad: Json) -> None:
    name = claim.replace("-", "_") if claim.startswith("x-") else claim
    for changed in ({name: bad}, {name: "no"}, {"without": claim}):
        assert aspect("configuration", tee, **changed) == (96, "contraindicated")
        assert aspect("runtime-opaque", tee, **changed) == (96, "contraindicated")


@pytest.mark.parametrize(
    ("tee", "claim", "bad"),
    [
        ("tdx", "tdx_td_attributes_septve_disable", False),
        ("tdx", "x-ms-strongroom-migratable", True),
        ("snp", "x-ms-sevsnpvm-migration-allowed", True),
    ],
)
def test_weak_settings_are_a_warning(tee: str, claim: str, bad: Json) -> None:
    name = claim.replace("-", "_") if claim.startswith("x-") else claim
    for changed in ({name: bad}, {"without": claim}):
        assert aspect("configuration", tee, **changed) == (32, "warning")


def test_firmware_that_can_be_rolled_back_is_a_warning() -> None:
    for changed in (
        {"x_ms_strongroom_firmware_is_provisional": True},
        {"without": "x-ms-strongroom-firmware-is-provisional"},
    ):
        assert aspect("hardware", "snp", **changed) == (32, "warning")


def test_the_claims_stand_where_trustee_puts_them() -> None:
    evidence = appraisal("sgx", x_ms_runtime={"key": "k"})["ear.veraison.annotated-evidence"]
    assert evidence["runtime_data_claims"] == {"key": "k"}
    assert evidence["init_data_claims"] is None
    assert evidence["sgx"]["x-ms-sgx-mrenclave"] == simulated()["sgx"]["x-ms-sgx-mrenclave"]
    assert not {"iss", "exp", "nonce", "x-ms-runtime"} & evidence["sgx"].keys()


def test_says_who_made_it_when_and_for_whom() -> None:
    claims = {**simulated()["sgx"], **SIGNED, "nonce": "0123456789ab"}
    made = ear_claims(claims, permitted=True, developer="a developer", build="a build")
    assert made["ear.verifier-id"] == {"developer": "a developer", "build": "a build"}
    assert made["eat_profile"] == EAR_PROFILE
    assert made["eat_nonce"] == "0123456789ab"
    assert {name: made[name] for name in ("iss", "iat", "nbf", "exp", "jti")} == {
        name: SIGNED[name] for name in ("iss", "iat", "nbf", "exp", "jti")
    }
    canonical_json(made)


@pytest.mark.parametrize("nonce", ["1234567", "1" * 89, 12345678, ["12345678"]])
def test_refuses_a_nonce_that_an_ear_cannot_carry(nonce: Json) -> None:
    with pytest.raises(FormatError, match="8 to 88"):
        ear_claims({**simulated()["sgx"], **SIGNED, "nonce": nonce}, permitted=True, developer="d", build="b")


@pytest.mark.parametrize("changed", [{"x-ms-attestation-type": "tpm"}, {"x-ms-attestation-type": None}, {"iat": "now"}])
def test_refuses_results_it_does_not_know(changed: Claims) -> None:
    with pytest.raises(FormatError):
        ear_claims({**simulated()["sgx"], **SIGNED, **changed}, permitted=True, developer="d", build="b")
