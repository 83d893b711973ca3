"""From verified evidence to claims, under Azure Attestation's names. For the attestation service only.

Names that begin with `x-ms-strongroom-` are ours: Azure Attestation has no claim for what they say. What only Azure may
say (`x-ms-compliance-status`) is never claimed.

Source: Azure Attestation, "Claim sets"; azure-rest-api-specs, `AttestSgxEnclave.json`, `AttestTdxVm.json`,
`AttestSevSnpVm.json`; Azure guest attestation sample application, `sampleAttestationToken.json`.
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import Final, Literal, TypeAlias

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.initdata import Initdata
from strongroom.attestation.verifier import VerifiedAzureGuest, VerifiedAzureVm
from strongroom.attestation.verifier.verified import VerifiedSgx, VerifiedSnp, VerifiedTdx
from strongroom.base.encoding import Json, from_hex, parse_json_object, to_b64url
from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step
from strongroom.policy.claims import Claim, ClaimIssuer, ClaimValue, claims_from_json, show, value_type_of
from strongroom.policy.tee_claims import (
    AZURE_VM,
    IMAGE,
    INITDATA,
    INITDATA_APPLICATION,
    ISOLATION,
    POD_CONFIGURATION,
    POD_TEMPLATE,
    QUOTE_HASH,
    RUNTIME_ATTESTED,
)

RuntimeDataType: TypeAlias = Literal["JSON", "Binary"]

EPHEMERAL_KID: Final = "TpmEphemeralEncryptionKey"

SAFE_CLAIMS: Final[Mapping[str, Mapping[str, ClaimValue]]] = {
    "sgx": {
        "x-ms-sgx-is-debuggable": False,
        "x-ms-strongroom-provision-key": False,
        "x-ms-strongroom-quote-version": 3,
    },
    "tdxvm": {
        "dbgstat": "disabled",
        "tdx_td_attributes_septve_disable": True,
        "x-ms-strongroom-migratable": False,
        "x-ms-strongroom-tpa": False,
    },
    "sevsnpvm": {
        "x-ms-sevsnpvm-is-debuggable": False,
        "x-ms-sevsnpvm-migration-allowed": False,
        "x-ms-sevsnpvm-vmpl": 0,
    },
}
"""What claims say of safe evidence, by attestation type. dcap-qvl reads SGX quotes of version 3 only."""

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
        "x-ms-sgx-report-data": report.report_data.hex(),
        **_key_separation_claims(evidence),
        "x-ms-sgx-collateral": _collateral(evidence),
        **_runtime_claims(evidence.runtime_data, runtime_data_type),
        "x-ms-strongroom-hardware": evidence.hardware,
        **_platform_claims(evidence),
        "x-ms-strongroom-provision-key": report.attributes.provision_key,
    }


def tdx_claims(evidence: VerifiedTdx, *, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    """Return what verified TDX evidence says.

    Args:
        evidence: What the verifier found to be true.
        runtime_data_type: "JSON" gives `x-ms-runtime`; "Binary" stands in `tdx_report_data` only.

    Returns:
        The claims for an attestation result, before a policy has appraised them.

    Raises:
        FormatError: The runtime data should be JSON and is no strict JSON object.
    """
    return {
        "x-ms-ver": "1.0",
        **_td_claims(evidence),
        **_json_runtime(evidence.runtime_data, runtime_data_type),
        "x-ms-strongroom-hardware": evidence.hardware,
        **_td_extras(evidence),
    }


def snp_claims(evidence: VerifiedSnp, *, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    """Return what a verified SEV-SNP report says.

    Args:
        evidence: What the verifier found to be true.
        runtime_data_type: "JSON" gives `x-ms-runtime`; "Binary" stands in `x-ms-sevsnpvm-reportdata` only.

    Returns:
        The claims for an attestation result, before a policy has appraised them.

    Raises:
        FormatError: The runtime data should be JSON and is no strict JSON object.
    """
    return {
        "x-ms-ver": "1.0",
        **_snp_claims(evidence),
        **_json_runtime(evidence.runtime_data, runtime_data_type),
        "x-ms-strongroom-hardware": evidence.hardware,
        **_snp_extras(evidence),
    }


def initdata_claims(initdata: Initdata, document: bytes) -> dict[str, Json]:
    """Return what the document says that a TEE was launched with.

    Whoever reads these claims MUST compare the configuration, or template and image, with what is trusted: the host
    wrote the document.

    Args:
        initdata: What `verify_initdata` returned.
        document: The exact bytes.
    """
    return {
        INITDATA: _sha256(document),
        INITDATA_APPLICATION: initdata.application,
        POD_CONFIGURATION: initdata.configuration,
        **({} if initdata.template is None else {POD_TEMPLATE: initdata.template, IMAGE: initdata.image}),
    }


def azure_vm_claims(evidence: VerifiedAzureVm) -> dict[str, Json]:
    """Return what a verified Azure confidential VM says, in our own form: its runtime data are the guest's.

    Args:
        evidence: What the verifier found to be true.

    Returns:
        The claims for an attestation result, before a policy has appraised them.

    Raises:
        FormatError: The runtime data are no strict JSON object.
    """
    return {
        **_vm_claims(evidence),
        "x-ms-runtime": parse_json_object(evidence.runtime_data),
        RUNTIME_ATTESTED: True,
    }


def azure_guest_claims(evidence: VerifiedAzureGuest) -> dict[str, Json]:
    """Return what Azure's guest attestation says of a verified guest.

    The operating system's names (`x-ms-azurevm-os…`) and the client payload are the guest's word, as they are Azure's;
    of the payload the runtime data alone are attested, if `x-ms-strongroom-runtime-data-attested` is true.

    Args:
        evidence: What the verifier found to be true.

    Returns:
        The claims for an attestation result, before a policy has appraised them.

    Source: Azure guest attestation sample application, `sampleAttestationToken.json`.
    """
    system = evidence.system
    ephemeral = {**evidence.ephemeral_key.to_jwk(), "kid": EPHEMERAL_KID, "key_ops": ["encrypt"]}
    payload: dict[str, Json] = {"client-payload": dict(evidence.client_payload)} if evidence.client_payload else {}
    return {
        **_vm_claims(evidence),
        "x-ms-azurevm-attestation-protocol-ver": system.protocol_version,
        "x-ms-azurevm-is-windows": system.kind == "Windows",
        "x-ms-azurevm-osbuild": system.build,
        "x-ms-azurevm-osdistro": system.distribution,
        "x-ms-azurevm-ostype": system.kind,
        "x-ms-azurevm-osversion-major": system.major,
        "x-ms-azurevm-osversion-minor": system.minor,
        "x-ms-runtime": {**payload, "keys": [ephemeral]},
        "x-ms-strongroom-event-log-replayed": evidence.log_replayed,
        RUNTIME_ATTESTED: evidence.runtime_data is not None,
    }


def incoming_claims(claims: Mapping[str, Json]) -> tuple[Claim, ...]:
    """Return what an evidence policy reads: the claims with a scalar form, and their deprecated names.

    What the hardware under a confidential VM says stands inside another claim; policies read it under the path to it,
    as release policies do: `x-ms-isolation-tee.x-ms-sevsnpvm-launchmeasurement`.

    Source: Azure Attestation, "Claim sets", deprecated claims of SGX attestation.
    """
    aliases = {alias: claims[name] for alias, name in _ALIASES.items() if name in claims}
    isolation = dict(_paths(ISOLATION, claims[ISOLATION])) if ISOLATION in claims else {}
    return claims_from_json({**claims, **aliases, **isolation}, issuer=ClaimIssuer.SERVICE)


def _paths(path: str, value: Json) -> Iterator[tuple[str, Json]]:
    if not isinstance(value, Mapping):
        yield path, value
        return
    for name, member in value.items():
        yield from _paths(f"{path}.{name}", member)


def _vm_claims(evidence: VerifiedAzureVm | VerifiedAzureGuest) -> dict[str, Json]:
    """Return what both forms of a confidential VM's evidence say; what only Azure knows of its VMs is not claimed."""
    found = evidence.hardware_evidence
    if isinstance(found, VerifiedSnp):
        tee, extras = _snp_claims(found), _snp_extras(found)
    else:
        tee, extras = _td_claims(found), _td_extras(found)
    vm_id = evidence.hcl.vm_configuration.get("vmUniqueId")
    return {
        "x-ms-ver": "1.0",
        "x-ms-attestation-type": AZURE_VM,
        "x-ms-azurevm-attested-pcrs": list(evidence.pcr_values),
        **({"x-ms-azurevm-vmid": vm_id} if isinstance(vm_id, str) else {}),
        ISOLATION: {**tee, "x-ms-runtime": parse_json_object(evidence.hcl.runtime_data)},
        "x-ms-strongroom-hardware": evidence.hardware,
        **extras,
        **{f"x-ms-strongroom-pcr{number}": value.hex() for number, value in evidence.pcr_values.items()},
    }


def _td_claims(evidence: VerifiedTdx) -> dict[str, Json]:
    report = evidence.quote.report
    attributes = report.td_attributes
    return {
        "x-ms-attestation-type": "tdxvm",
        "eat_profile": "https://aka.ms/maa-eat-profile-tdxvm",
        "intuse": "generic",
        "dbgstat": "enabled" if attributes.under_debug else "disabled",
        "attester_tcb_status": evidence.tcb_status,
        "tdx_mrtd": report.mrtd.hex(),
        "tdx_mrseam": report.mrseam.hex(),
        "tdx_mrsignerseam": report.mrsignerseam.hex(),
        "tdx_mrconfigid": report.mrconfigid.hex(),
        "tdx_mrowner": report.mrowner.hex(),
        "tdx_mrownerconfig": report.mrownerconfig.hex(),
        **{f"tdx_rtmr{number}": value.hex() for number, value in enumerate(report.rtmr)},
        "tdx_report_data": report.report_data.hex(),
        "tdx_seam_attributes": report.seam_attributes.hex(),
        "tdx_seamsvn": report.tee_tcb_svn[0],
        "tdx_td_attributes": attributes.to_int().to_bytes(8, "little").hex(),
        "tdx_td_attributes_debug": attributes.debug,
        "tdx_td_attributes_key_locker": attributes.kl,
        "tdx_td_attributes_perfmon": attributes.perfmon,
        "tdx_td_attributes_protection_keys": attributes.pks,
        "tdx_td_attributes_septve_disable": attributes.sept_ve_disable,
        "tdx_tee_tcb_svn": report.tee_tcb_svn.hex(),
        "tdx_xfam": report.xfam.to_bytes(8, "little").hex(),
    }


def _td_extras(evidence: VerifiedTdx) -> dict[str, Json]:
    report = evidence.quote.report
    return {
        QUOTE_HASH: _sha256(evidence.quote.to_bytes()),
        **_platform_claims(evidence),
        "x-ms-strongroom-migratable": report.td_attributes.migratable,
        "x-ms-strongroom-tpa": report.td_attributes.tpa,
        **({} if report.mrservicetd is None else {"x-ms-strongroom-mrservicetd": report.mrservicetd.hex()}),
    }


def _snp_claims(evidence: VerifiedSnp) -> dict[str, Json]:
    report, tcb = evidence.report, evidence.tcb
    return {
        "x-ms-attestation-type": "sevsnpvm",
        "x-ms-sevsnpvm-authorkeydigest": report.author_key_digest.hex(),
        "x-ms-sevsnpvm-bootloader-svn": tcb.boot_loader,
        "x-ms-sevsnpvm-familyId": report.family_id.hex(),
        "x-ms-sevsnpvm-guestsvn": report.guest_svn,
        "x-ms-sevsnpvm-hostdata": report.host_data.hex(),
        "x-ms-sevsnpvm-idkeydigest": report.id_key_digest.hex(),
        "x-ms-sevsnpvm-imageId": report.image_id.hex(),
        "x-ms-sevsnpvm-is-debuggable": report.policy.debug,
        "x-ms-sevsnpvm-launchmeasurement": report.measurement.hex(),
        "x-ms-sevsnpvm-microcode-svn": tcb.microcode,
        "x-ms-sevsnpvm-migration-allowed": report.policy.migrate_ma,
        "x-ms-sevsnpvm-reportdata": report.report_data.hex(),
        "x-ms-sevsnpvm-reportid": report.report_id.hex(),
        "x-ms-sevsnpvm-smt-allowed": report.policy.smt,
        "x-ms-sevsnpvm-snpfw-svn": tcb.snp,
        "x-ms-sevsnpvm-tee-svn": tcb.tee,
        "x-ms-sevsnpvm-vmpl": report.vmpl,
    }


def _snp_extras(evidence: VerifiedSnp) -> dict[str, Json]:
    report = evidence.report
    return {
        QUOTE_HASH: _sha256(report.to_bytes()),
        "x-ms-strongroom-product": evidence.product,
        "x-ms-strongroom-signing-key": report.signing_key,
        "x-ms-strongroom-machines": [f"chip-id:{report.chip_id.hex()}"] if any(report.chip_id) else [],
        **_crl_numbers(evidence.crl_number, None),
        **({} if evidence.csp_id is None else {"x-ms-strongroom-csp-id": evidence.csp_id}),
        **({} if evidence.tcb.fmc is None else {"x-ms-strongroom-fmc-svn": evidence.tcb.fmc}),
        "x-ms-strongroom-firmware-is-provisional": report.committed_tcb != report.current_tcb
        or report.committed != report.current,
        "x-ms-strongroom-alias-check-complete": report.platform_info.alias_check_complete,
        "x-ms-strongroom-single-socket": report.policy.single_socket,
    }


def demand_named(claims: Mapping[str, Json], *, named: Collection[Claim]) -> None:
    """Refuse what is not safe, unless the policy that permits it named that very claim with that value.

    Debug, and what only one verifier could read, must be meant: no policy lets them pass by saying nothing of them.

    Args:
        claims: What verified evidence says (`sgx_claims`, `tdx_claims`, `snp_claims`).
        named: The claims that the policy's permit() rules asked for (`Evaluation.named`).

    Raises:
        RefusedError: A claim is not safe and was not named; the mismatches are all of them.
    """
    asked = {(_ALIASES.get(claim.type, claim.type), claim.value_type, claim.value) for claim in named}
    found = {claim.type: claim.value for claim in incoming_claims(claims)}
    unsafe = tuple(
        Mismatch(name=name, expected=show(safe), actual=show(found[name]))
        for name, safe in _safe_values(found).items()
        if found[name] != safe and (name, value_type_of(found[name]), found[name]) not in asked
    )
    if unsafe:
        raise RefusedError(
            "the evidence is not safe, and the evidence policy does not ask for it as it is",
            action="Launch it safely, or name each of these claims with its value in a permit() rule.",
            step=Step.ATTEST,
            mismatches=unsafe,
        )


def _safe_values(found: Mapping[str, ClaimValue]) -> dict[str, ClaimValue]:
    """Return what safe evidence would say; what lies under a confidential VM is named by its path."""
    kind = str(found["x-ms-attestation-type"])
    if kind in SAFE_CLAIMS:
        return dict(SAFE_CLAIMS[kind])
    under = SAFE_CLAIMS[str(found[f"{ISOLATION}.x-ms-attestation-type"])]
    return {name if name in found else f"{ISOLATION}.{name}": safe for name, safe in under.items()}


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


def _runtime_claims(runtime_data: bytes | None, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    if runtime_data is None:
        return {}
    if runtime_data_type == "JSON":
        return _json_runtime(runtime_data, runtime_data_type)
    held = to_b64url(runtime_data)
    return {"x-ms-sgx-ehd": held, "aas-ehd": held, "maa-ehd": held}


def _json_runtime(runtime_data: bytes | None, runtime_data_type: RuntimeDataType) -> dict[str, Json]:
    if runtime_data is None or runtime_data_type != "JSON":
        return {}
    return {"x-ms-runtime": parse_json_object(runtime_data)}


def _platform_claims(evidence: VerifiedSgx | VerifiedTdx) -> dict[str, Json]:
    pck = evidence.pck
    machines = [f"ppid:{pck.ppid.hex()}"]
    if pck.platform_instance_id is not None:
        machines.append(f"platform-instance:{pck.platform_instance_id.hex()}")
    configuration = {
        "x-ms-strongroom-dynamic-platform": pck.dynamic_platform,
        "x-ms-strongroom-cached-keys": pck.cached_keys,
        "x-ms-strongroom-smt-enabled": pck.smt_enabled,
    }
    return {
        "x-ms-strongroom-tcb-status": evidence.tcb_status,
        "x-ms-strongroom-advisory-ids": list(evidence.advisory_ids),
        "x-ms-strongroom-tcb-evaluation-data-number": evidence.tcb_evaluation_data_number,
        **_crl_numbers(evidence.crl_number, evidence.root_crl_number),
        "x-ms-strongroom-fmspc": pck.fmspc,
        "x-ms-strongroom-machines": list(machines),
        "x-ms-strongroom-quote-version": evidence.quote.header.version,
        "x-ms-strongroom-sgx-type": pck.sgx_type,
        "x-ms-strongroom-verifiers": list(evidence.verifiers),
        **{name: value for name, value in configuration.items() if value is not None},
    }


def _crl_numbers(crl_number: int | None, root_crl_number: int | None) -> dict[str, Json]:
    numbers = {"x-ms-strongroom-crl-number": crl_number, "x-ms-strongroom-root-crl-number": root_crl_number}
    return {name: number for name, number in numbers.items() if number is not None}


def _collateral(evidence: VerifiedSgx) -> dict[str, Json]:
    endorsements: DcapEndorsements = evidence.endorsements
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
