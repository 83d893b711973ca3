"""From verified evidence to claims, under Azure Attestation's names. For the attestation service only.

Source: Azure Attestation, "Claim sets"; azure-rest-api-specs, `AttestSgxEnclave.json`.
"""

import hashlib
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

from strongroom.attestation.endorsements.sgx import SgxEndorsements
from strongroom.attestation.verifier.verified import VerifiedSgx
from strongroom.base.encoding import Json, from_hex, parse_json_object, to_b64url
from strongroom.policy.claims import Claim, ClaimIssuer, claims_from_json

RuntimeDataType: TypeAlias = Literal["JSON", "Binary"]

_ALIASES: Final[Mapping[str, str]] = {
    "$is-debuggable": "x-ms-sgx-is-debuggable",
    "$product-id": "x-ms-sgx-product-id",
    "$sgx-mrenclave": "x-ms-sgx-mrenclave",
    "$sgx-mrsigner": "x-ms-sgx-mrsigner",
    "$svn": "x-ms-sgx-svn",
    "$tee": "x-ms-attestation-type",
}


def sgx_claims(evidence: VerifiedSgx, *, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    """Return what verified SGX evidence says.

    Names that begin with `x-ms-strongroom-` are ours: Azure Attestation has no claim for what they say.

    Args:
        evidence: What the verifier found to be true.
        runtime_data_type: "JSON" gives `x-ms-runtime`, "Binary" the enclave held data as Azure writes it.

    Returns:
        The claims for an attestation result, before a policy has appraised them.

    Raises:
        FormatError: The runtime data should be JSON and is no strict JSON object.
    """
    report = evidence.quote.report
    return {
        "x-ms-ver": "1.0",
        "x-ms-attestation-type": "sgx",
        "x-ms-sgx-is-debuggable": report.attributes.debug,
        "x-ms-sgx-mrenclave": report.mrenclave.hex(),
        "x-ms-sgx-mrsigner": report.mrsigner.hex(),
        "x-ms-sgx-product-id": report.isv_prod_id,
        "x-ms-sgx-svn": report.isv_svn,
        **_key_separation_claims(evidence),
        "x-ms-sgx-collateral": _collateral(evidence),
        **_runtime_claims(evidence.runtime_data, runtime_data_type),
        "x-ms-strongroom-hardware": evidence.hardware,
        "x-ms-strongroom-tcb-status": evidence.tcb_status,
        "x-ms-strongroom-advisory-ids": list(evidence.advisory_ids),
        "x-ms-strongroom-tcb-evaluation-data-number": evidence.tcb_evaluation_data_number,
        "x-ms-strongroom-ppid": evidence.ppid.hex(),
    }


def incoming_claims(claims: Mapping[str, Json]) -> tuple[Claim, ...]:
    """Return what an evidence policy reads: the claims with a scalar form, and their deprecated names.

    Source: Azure Attestation, "Claim sets", deprecated claims of SGX attestation.
    """
    aliases = {alias: claims[name] for alias, name in _ALIASES.items() if name in claims}
    return claims_from_json({**claims, **aliases}, issuer=ClaimIssuer.SERVICE)


def _key_separation_claims(evidence: VerifiedSgx) -> dict[str, Json]:
    """Return the claims that mean something only where key separation and sharing is on."""
    report = evidence.quote.report
    if not report.attributes.kss:
        return {}
    return {
        "x-ms-sgx-config-id": report.config_id.hex(),
        "x-ms-sgx-config-svn": report.config_svn,
        "x-ms-sgx-isv-extended-product-id": report.isv_ext_prod_id.hex(),
        "x-ms-sgx-isv-family-id": report.isv_family_id.hex(),
    }


def _runtime_claims(runtime_data: bytes, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    if runtime_data_type == "JSON":
        return {"x-ms-runtime": parse_json_object(runtime_data)}
    held = to_b64url(runtime_data)
    return {"x-ms-sgx-ehd": held, "aas-ehd": held, "maa-ehd": held}


def _collateral(evidence: VerifiedSgx) -> dict[str, Json]:
    endorsements: SgxEndorsements = evidence.endorsements
    root_ca_crl = from_hex(endorsements.root_ca_crl.lower())
    return {
        "qeidcertshash": _sha256(endorsements.qe_identity_issuer_chain.encode()),
        "qeidcrlhash": _sha256(root_ca_crl),
        "qeidhash": _sha256(endorsements.qe_identity.encode()),
        "quotehash": _sha256(evidence.quote.to_bytes()),
        "tcbinfocertshash": _sha256(endorsements.tcb_info_issuer_chain.encode()),
        "tcbinfocrlhash": _sha256(root_ca_crl),
        "tcbinfohash": _sha256(endorsements.tcb_info.encode()),
    }


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
