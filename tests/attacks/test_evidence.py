"""Promises 1 and 8: evidence that is forged, stale, replaced or simulated frees nothing."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import dcap_qvl
import pytest
from tests.support.platform import NOW, RUNTIME_DATA, Bench

from strongroom.attestation.endorsements.dcap import DcapEndorsements
from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, SgxAttributes
from strongroom.attestation.evidence.simulated import SIMULATED_HARDWARE
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, verify_sgx
from strongroom.base.errors import ConfigurationError, StrongroomError, UntrustedRootError, VerificationError
from strongroom.crypto import x509
from strongroom.crypto.ecdsa import point_of_key
from strongroom.crypto.keys import SigningKey

BENCH = Bench.new()
OTHER = Bench.new()


# --- roots -----------------------------------------------------------------------------------------------------------


def test_refuses_evidence_under_another_installations_root() -> None:
    with pytest.raises(UntrustedRootError):
        BENCH.verify(OTHER.quote(), endorsements=OTHER.endorsements)


def test_refuses_everything_without_trusted_roots() -> None:
    with pytest.raises(UntrustedRootError):
        replace(BENCH, trusted_roots=TrustedRoots(roots=())).verify()


def test_refuses_a_simulated_root_that_is_configured_as_a_real_one() -> None:
    with pytest.raises(ConfigurationError, match="simulated hardware"):
        TrustedRoot(certificate_der=BENCH.platform.root_der, simulated=False)


def test_the_chain_is_refused_even_if_the_configuration_let_a_simulated_root_pass_as_real() -> None:
    root = TrustedRoot(certificate_der=BENCH.platform.root_der, simulated=True)
    object.__setattr__(root, "simulated", False)
    with pytest.raises(VerificationError, match="critical extension"):
        replace(BENCH, trusted_roots=TrustedRoots(roots=(root,))).verify()


def test_refuses_a_real_root_that_is_configured_as_simulated() -> None:
    plain = x509.anchor_without_extension(BENCH.platform.root_der, SIMULATED_HARDWARE)
    with pytest.raises(ConfigurationError, match="does not say so"):
        TrustedRoot(certificate_der=plain, simulated=True)


def test_the_simulated_root_without_its_mark_is_another_root() -> None:
    """Its name and key are the same; configured as a real one, it vouches for no quote of the platform."""
    plain = x509.anchor_without_extension(BENCH.platform.root_der, SIMULATED_HARDWARE)
    roots = TrustedRoots(roots=(TrustedRoot(certificate_der=plain, simulated=False),))
    with pytest.raises(UntrustedRootError):
        replace(BENCH, trusted_roots=roots).verify()


def test_the_mark_is_critical_for_verifiers_that_do_not_know_it() -> None:
    mark = x509.extension(BENCH.platform.root_der, SIMULATED_HARDWARE)
    assert mark is not None
    assert mark.critical
    collateral = dcap_qvl.QuoteCollateralV3.from_json(BENCH.endorsements.model_dump_json())
    with pytest.raises(ValueError, match="UnsupportedCriticalExtension"):
        dcap_qvl.verify_with_root_ca(BENCH.quote(), collateral, BENCH.platform.root_der, int(NOW.timestamp()))
    chain = [BENCH.platform.certificates[role] for role in ("pck", "pck-ca", "root")]
    with pytest.raises(VerificationError, match="critical extension"):
        x509.verify_chain(chain, roots_der=[BENCH.platform.root_der], revocation=None, now=NOW)


# --- the quote -------------------------------------------------------------------------------------------------------


def test_refuses_other_runtime_data() -> None:
    for runtime_data in (RUNTIME_DATA + b" ", b"", RUNTIME_DATA[:-1]):
        with pytest.raises(VerificationError, match="does not bind"):
            BENCH.verify(runtime_data=runtime_data)


def test_refuses_report_data_with_something_behind_the_digest() -> None:
    report_data = hashlib.sha256(RUNTIME_DATA).digest() + bytes(31) + b"\x01"
    with pytest.raises(VerificationError, match="does not bind"):
        BENCH.verify(BENCH.quote(report_data=report_data))


def test_refuses_a_debug_enclave() -> None:
    attributes = BENCH.report().attributes
    debug = SgxAttributes(flags=attributes.flags | FLAG_DEBUG, xfrm=attributes.xfrm)
    with pytest.raises(VerificationError, match="debug"):
        BENCH.verify(BENCH.quote(attributes=debug))


@pytest.mark.parametrize(
    "field",
    ["mrenclave", "mrsigner", "config_id", "report_data", "cpusvn", "isv_prod_id"],
)
def test_refuses_an_enclave_report_that_was_edited_after_signing(field: str) -> None:
    quote = parse_sgx_quote(BENCH.quote())
    value = getattr(quote.report, field)
    changed: Any = value + 1 if isinstance(value, int) else bytes([value[0] ^ 1]) + value[1:]
    edited = replace(quote, report=replace(quote.report, **{field: changed}))
    with pytest.raises(VerificationError):
        BENCH.verify(edited.to_bytes())


def test_refuses_a_report_signed_by_a_key_that_the_quoting_enclave_does_not_name() -> None:
    mallory = SigningKey.generate("ES256")
    quote = parse_sgx_quote(BENCH.quote())
    signature = replace(
        quote.signature,
        attestation_key=point_of_key(mallory.verifying_key),
        isv_signature=mallory.sign(quote.signed_bytes()),
    )
    with pytest.raises(VerificationError, match="does not vouch"):
        BENCH.verify(replace(quote, signature=signature).to_bytes())


def test_refuses_a_quoting_enclave_that_the_platform_did_not_sign() -> None:
    mallory = SigningKey.generate("ES256")
    quote = parse_sgx_quote(BENCH.quote())
    qe_report = quote.signature.qe_report
    digest = hashlib.sha256(point_of_key(mallory.verifying_key) + quote.signature.qe_auth_data).digest()
    signature = replace(
        quote.signature,
        attestation_key=point_of_key(mallory.verifying_key),
        isv_signature=mallory.sign(quote.signed_bytes()),
        qe_report=replace(qe_report, report_data=digest + bytes(32)),
    )
    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify(replace(quote, signature=signature).to_bytes())


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"mrsigner": bytes(32)}, "qe mrsigner"),
        ({"isv_prod_id": 2}, "qe isv_prod_id"),
        ({"miscselect": 1}, "qe miscselect"),
        ({"attributes": SgxAttributes(flags=0x5, xfrm=0xE7)}, "qe attributes"),
        ({"attributes": SgxAttributes(flags=0x17, xfrm=0xE7)}, "qe debug"),
    ],
)
def test_refuses_any_other_enclave_in_the_quoting_enclaves_place(fields: dict[str, Any], name: str) -> None:
    """The platform's own key signs this report: an enclave that asks it to certify an attestation key of its own."""
    qe_report = replace(BENCH.platform.qe_report(), **fields)
    quote = BENCH.platform.quote(BENCH.report(), qe_report=qe_report)
    with pytest.raises(VerificationError, match="another quoting enclave") as caught:
        BENCH.verify(quote)
    assert name in [difference.name for difference in caught.value.mismatches]


def test_refuses_every_single_flipped_bit_of_a_sample() -> None:
    quote = BENCH.quote()
    for position in range(0, len(quote), 37):
        edited = bytearray(quote)
        edited[position] ^= 1 << position % 8
        if edited[position] in b"\n\r \t" or quote[position] in b"\n\r \t\x00":
            continue  # white space of the PEM text is not covered by any signature
        with pytest.raises(StrongroomError):
            BENCH.verify(bytes(edited))


def test_refuses_a_platform_certificate_of_another_platform() -> None:
    """A chain under the right root, but for another key: mix and match of two platforms of one vendor."""
    quote, other = parse_sgx_quote(BENCH.quote()), parse_sgx_quote(OTHER.quote())
    mixed = replace(quote, signature=replace(quote.signature, certification_data=other.signature.certification_data))
    both = replace(BENCH, trusted_roots=TrustedRoots(roots=BENCH.trusted_roots.roots + OTHER.trusted_roots.roots))
    for endorsements in (BENCH.endorsements, OTHER.endorsements):
        with pytest.raises(VerificationError):
            both.verify(mixed.to_bytes(), endorsements=endorsements)


# --- the vendor's word -----------------------------------------------------------------------------------------------


def test_refuses_a_revoked_platform() -> None:
    with pytest.raises(VerificationError, match="is revoked"):
        BENCH.with_condition(pck_revoked=True).verify()


def test_refuses_a_revoked_tcb_level() -> None:
    with pytest.raises(VerificationError, match="revoked"):
        BENCH.with_condition(tcb_status="Revoked").verify()
    with pytest.raises(VerificationError, match="revoked"):
        BENCH.with_condition(qe_status="Revoked").verify()


def test_refuses_a_quoting_enclave_below_every_level() -> None:
    with pytest.raises(VerificationError, match="none of the vendor's TCB levels"):
        BENCH.with_condition(least_qe_svn=9).verify()


@pytest.mark.parametrize(
    "document", ["tcb_info_lifetime", "qe_identity_lifetime", "root_ca_crl_lifetime", "pck_crl_lifetime"]
)
def test_refuses_each_document_that_has_run_out(document: str) -> None:
    bench = BENCH.with_condition(**{document: timedelta(days=2)})
    bench.verify()
    with pytest.raises(VerificationError, match=r"not valid|not hold"):
        bench.verify(now=NOW + timedelta(days=3))


def test_refuses_documents_from_the_future() -> None:
    with pytest.raises(VerificationError):
        BENCH.verify(endorsements=BENCH.platform.endorsements(now=NOW + timedelta(days=3)))


@pytest.mark.parametrize("document", ["tcb_info", "qe_identity"])
def test_refuses_an_edited_document(document: str) -> None:
    text = getattr(BENCH.endorsements, document).replace("UpToDate", "OutOfDate")
    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify(edit=lambda good: good.model_copy(update={document: text}))


def test_refuses_tcb_levels_signed_by_the_platform_itself() -> None:
    """The platform's key has a chain to the right root too; it must not speak for the vendor."""
    condemned = BENCH.with_condition(tcb_status="Revoked").endorsements
    better = json.dumps({**json.loads(condemned.tcb_info), "tcbLevels": _levels("UpToDate")})
    chain = "".join(x509.to_pem(BENCH.platform.certificates[role]) for role in ("pck", "pck-ca", "root"))
    forged = {
        "tcb_info": better,
        "tcb_info_signature": BENCH.platform.keys["pck"].sign(better.encode()).hex(),
        "tcb_info_issuer_chain": chain,
    }
    with pytest.raises(VerificationError, match="the vendor's root certifies"):
        BENCH.verify(endorsements=condemned.model_copy(update=forged))


def _levels(status: str) -> list[dict[str, Any]]:
    levels: list[dict[str, Any]] = json.loads(BENCH.endorsements.tcb_info)["tcbLevels"]
    return [{**level, "tcbStatus": status} for level in levels]


@pytest.mark.parametrize(
    "swap",
    [
        lambda good: {"pck_crl": good.root_ca_crl},
        lambda good: {"root_ca_crl": good.pck_crl},
        lambda _: {"pck_crl": OTHER.endorsements.pck_crl},
        lambda _: {"root_ca_crl": OTHER.endorsements.root_ca_crl},
        lambda _: {"pck_crl_issuer_chain": OTHER.endorsements.pck_crl_issuer_chain},
        lambda _: {"tcb_info_issuer_chain": OTHER.endorsements.tcb_info_issuer_chain},
        lambda good: {"tcb_info": good.qe_identity, "tcb_info_signature": good.qe_identity_signature},
        lambda good: {"qe_identity": good.tcb_info, "qe_identity_signature": good.tcb_info_signature},
        lambda _: {"pck_crl": ""},
        lambda _: {"tcb_info_issuer_chain": ""},
        lambda _: {"qe_identity_signature": "00"},
    ],
    ids=[
        "root list for PCK list",
        "PCK list for root list",
        "foreign PCK list",
        "foreign root list",
        "foreign PCK issuer",
        "foreign TCB signer",
        "QE identity for TCB info",
        "TCB info for QE identity",
        "no PCK list",
        "no TCB signer",
        "short signature",
    ],
)
def test_refuses_exchanged_documents(swap: Callable[[DcapEndorsements], dict[str, str]]) -> None:
    with pytest.raises(StrongroomError):
        BENCH.verify(edit=lambda good: good.model_copy(update=swap(good)))


def test_refuses_endorsements_of_another_platform_family() -> None:
    family = bytes(6)
    others = replace(BENCH.platform, fmspc=family).endorsements(now=NOW)
    with pytest.raises(VerificationError, match="another platform family"):
        BENCH.verify(endorsements=others)


def test_a_replayed_quote_binds_only_its_own_runtime_data() -> None:
    evidence = UnverifiedEvidence(kind="sgx", quote=BENCH.quote(), runtime_data=b'{"nonce":"fresh"}')
    with pytest.raises(VerificationError, match="does not bind"):
        verify_sgx(evidence, trusted_roots=BENCH.trusted_roots, endorsements=BENCH.endorsements, now=NOW)
