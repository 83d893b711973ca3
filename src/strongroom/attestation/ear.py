"""EAT Attestation Results (EAR): the same result in the form that other verifiers and their relying parties use.

An EAR says for each attester how far it is to be trusted, in eight aspects (the trustworthiness vector) and in one word
(the status). What our own relying parties compare claim by claim is folded into these; the claims stay beside them, as
annotated evidence, where Confidential Containers' trustee puts them.

Source: draft-ietf-rats-ear (EAT Attestation Results); draft-ietf-rats-ar4si (Attestation Results for Secure
Interactions), 2.3; RFC 9711 (EAT); confidential-containers/trustee, `attestation-service/src/ear_token`.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError

EAR_PROFILE: Final = "tag:github.com,2023:veraison/ear"
SUBMODULE: Final = "cpu0"
"""The one attester of our results, named as trustee names it."""

_NONCE_CHARACTERS: Final = range(8, 89)
_REGISTERED: Final = ("iss", "iat", "nbf", "exp", "jti")
_TEES: Final[Mapping[str, str]] = {"sgx": "sgx", "tdxvm": "tdx", "sevsnpvm": "snp"}
"""Trustee's names of the kinds of evidence, by `x-ms-attestation-type`."""


class _Claim(IntEnum):
    """The values of trustworthiness claims that we make; their meaning depends on the aspect.

    Source: draft-ietf-rats-ar4si, 2.3.4.
    """

    NONE = 0
    AFFIRMED = 2
    APPROVED_BOOT = 3
    VULNERABLE = 32
    CONTRAINDICATED = 96
    UNRECOGNIZED = 97


_TCB: Final[Mapping[str, _Claim]] = {
    "UpToDate": _Claim.AFFIRMED,
    "SWHardeningNeeded": _Claim.VULNERABLE,
    "ConfigurationNeeded": _Claim.VULNERABLE,
    "ConfigurationAndSWHardeningNeeded": _Claim.VULNERABLE,
    "OutOfDate": _Claim.VULNERABLE,
    "OutOfDateConfigurationNeeded": _Claim.VULNERABLE,
    "TDRelaunchAdvised": _Claim.VULNERABLE,
    "TDRelaunchAdvisedConfigurationNeeded": _Claim.VULNERABLE,
    "Revoked": _Claim.CONTRAINDICATED,
}
_NEEDS_CONFIGURATION: Final = (
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvisedConfigurationNeeded",
)
_DEBUG: Final[Mapping[str, Callable[[Mapping[str, Json]], bool]]] = {
    "sgx": lambda claims: claims.get("x-ms-sgx-is-debuggable") is not False,
    "tdx": lambda claims: claims.get("dbgstat") != "disabled",
    "snp": lambda claims: claims.get("x-ms-sevsnpvm-is-debuggable") is not False,
}
"""Whether the host may look into the TEE; what does not say that it may not, says that it may."""


def ear_claims(result_claims: Mapping[str, Json], *, permitted: bool, developer: str, build: str) -> dict[str, Json]:
    """Return the claims of an EAR that says what an attestation result says.

    `hardware` follows from the vendor's word on the TCB, `configuration` from debugging, migration and what the vendor
    wants configured, `executables` from the evidence policy's decision on what was launched, `runtime-opaque` from
    whether anybody outside can read the memory. About the other aspects nothing is claimed. Simulated hardware is
    never recognized, so the status of its results is always `contraindicated`.

    Args:
        result_claims: The claims of the result, with `iat`, of verified evidence; the caller MUST have verified it.
        permitted: Whether the evidence policy permits these claims. Our service gives no result where it does not.
        developer: Who makes the verifier.
        build: Which build of it.

    Returns:
        The claims, for a JWT. Registered claims (`iss`, `exp`, …) are taken over, `nonce` as `eat_nonce`.

    Raises:
        FormatError: The result lacks `iat` or is of another kind of evidence, or its nonce has not 8 to 88 characters.

    Source: draft-ietf-rats-ear, 3 ("EAR claims-set") and 4 ("EAR appraisal claims").
    """
    tee = _TEES.get(str(result_claims.get("x-ms-attestation-type")))
    if tee is None or not isinstance(result_claims.get("iat"), int):
        raise FormatError("an EAR is made of a result of SGX, TDX or SEV-SNP evidence, with its time")
    vector = _vector(result_claims, tee, permitted=permitted)
    appraisal: dict[str, Json] = {
        "ear.status": _status(vector.values()),
        "ear.trustworthiness-vector": {aspect: int(claim) for aspect, claim in vector.items()},
        "ear.veraison.annotated-evidence": _annotated(result_claims, tee),
    }
    if "x-ms-policy-hash" in result_claims:
        appraisal["ear.appraisal-policy-id"] = result_claims["x-ms-policy-hash"]
    return {
        **{name: result_claims[name] for name in _REGISTERED if name in result_claims},
        **_nonce(result_claims),
        "eat_profile": EAR_PROFILE,
        "ear.verifier-id": {"developer": developer, "build": build},
        "submods": {SUBMODULE: appraisal},
    }


def _vector(claims: Mapping[str, Json], tee: str, *, permitted: bool) -> dict[str, _Claim]:
    is_opaque = claims.get("x-ms-strongroom-hardware") == "real" and not _DEBUG[tee](claims)
    return {
        "instance-identity": _Claim.NONE,
        "configuration": _configuration(claims, tee),
        "executables": _Claim.APPROVED_BOOT if permitted else _Claim.CONTRAINDICATED,
        "file-system": _Claim.NONE,
        "hardware": _hardware(claims, tee),
        "runtime-opaque": _Claim.AFFIRMED if is_opaque else _Claim.CONTRAINDICATED,
        "storage-opaque": _Claim.NONE,
        "sourced-data": _Claim.NONE,
    }


def _hardware(claims: Mapping[str, Json], tee: str) -> _Claim:
    if claims.get("x-ms-strongroom-hardware") != "real":
        return _Claim.UNRECOGNIZED
    if tee == "snp":
        # AMD gives no word on a TCB; firmware that is not committed can still be rolled back.
        settled = claims.get("x-ms-strongroom-firmware-is-provisional") is False
        return _Claim.AFFIRMED if settled else _Claim.VULNERABLE
    return _TCB.get(str(claims.get("x-ms-strongroom-tcb-status")), _Claim.UNRECOGNIZED)


def _configuration(claims: Mapping[str, Json], tee: str) -> _Claim:
    if _DEBUG[tee](claims):
        return _Claim.CONTRAINDICATED
    is_weak = {
        "sgx": False,
        "tdx": claims.get("tdx_td_attributes_septve_disable") is not True
        or claims.get("x-ms-strongroom-migratable") is not False,
        "snp": claims.get("x-ms-sevsnpvm-migration-allowed") is not False,
    }[tee]
    needs_configuration = claims.get("x-ms-strongroom-tcb-status") in _NEEDS_CONFIGURATION
    return _Claim.VULNERABLE if is_weak or needs_configuration else _Claim.AFFIRMED


def _status(claims: Iterable[_Claim]) -> str:
    worst = max(claims)
    if worst >= _Claim.CONTRAINDICATED:
        return "contraindicated"
    if worst >= _Claim.VULNERABLE:
        return "warning"
    return "affirming" if worst >= _Claim.AFFIRMED else "none"


def _annotated(claims: Mapping[str, Json], tee: str) -> dict[str, Json]:
    """Return the claims, by trustee's names where its policies and its key broker look for them."""
    own = {name: value for name, value in claims.items() if name not in {*_REGISTERED, "nonce", "x-ms-runtime"}}
    return {
        tee: own,
        "runtime_data_claims": claims.get("x-ms-runtime"),
        "init_data_claims": claims.get("x-ms-inittime"),
    }


def _nonce(claims: Mapping[str, Json]) -> dict[str, Json]:
    nonce = claims.get("nonce")
    if nonce is None:
        return {}
    if not isinstance(nonce, str) or len(nonce) not in _NONCE_CHARACTERS:
        raise FormatError(
            "an EAR's nonce has 8 to 88 characters", action="Ask with another nonce, or for the result in Azure's form."
        )
    return {"eat_nonce": nonce}
