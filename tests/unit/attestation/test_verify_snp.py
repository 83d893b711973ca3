"""Verification of SEV-SNP reports: each refusal is one edit of a good report, its certificates or the vendor's word."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.amd import AmdBench, amd_bench
from tests.support.platform import NOW, RUNTIME_DATA

from strongroom.attestation.evidence.amd_certificate import EndorsementKey, parse_amd_certificate
from strongroom.attestation.evidence.snp_report import GuestPolicy, Product, TcbVersion, tcb_version_bytes
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, VerifiedSnp
from strongroom.attestation.verifier.snp import verify_report
from strongroom.base.errors import ConfigurationError, FormatError, UntrustedRootError, VerificationError
from strongroom.crypto import x509
from strongroom.simulation.amd import CSP_ID, SimulatedAmd

BENCH = amd_bench()
REPORT = BENCH.amd.sign(BENCH.report())
AT = datetime(2024, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("version", [2, 3, 5])
@pytest.mark.parametrize("kind", ["VCEK", "VLEK"])
@pytest.mark.parametrize("product", ["Milan", "Genoa", "Turin"])
def test_verifies_every_product_key_and_version(product: Product, kind: EndorsementKey, version: int) -> None:
    bench = amd_bench(product, kind, version)
    verified = bench.verify()
    assert (verified.product, verified.tcb, verified.hardware) == (product, bench.amd.tcb, "simulated")
    assert verified.csp_id == (CSP_ID if kind == "VLEK" else None)
    assert verified.runtime_data == RUNTIME_DATA
    assert NOW < verified.earliest_expiration < NOW + timedelta(days=366)


@pytest.mark.parametrize("name", ["milan", "aci", "azure-vtpm"])
def test_verifies_real_reports(shared: Path, name: str) -> None:
    """The root's revocation list of that time is not among the vectors: everything else is checked."""
    vectors = shared / "vectors"
    roots = x509.parse_pem_chain((vectors / "snp" / "ask_ark_milan.pem").read_bytes())
    if name == "milan":
        report = (vectors / "snp" / "snp_milan_report.bin").read_bytes()
        chain = ((vectors / "snp" / "snp_milan_vcek.der").read_bytes(), *roots)
    elif name == "aci":
        report = (vectors / "snp" / "aci_report.bin").read_bytes()
        thim = json.loads((vectors / "snp" / "aci_thim.json").read_bytes())
        chain = x509.parse_pem_chain((thim["vcekCert"] + thim["certificateChain"]).encode())
    else:
        report = (vectors / "azure-vtpm" / "az_hcl_snp.bin").read_bytes()[32 : 32 + 1184]
        chain = x509.parse_pem_chain((vectors / "azure-vtpm" / "az_vcek_chain.pem").read_bytes())
    trusted = TrustedRoots(roots=(TrustedRoot(certificate_der=roots[-1], simulated=False),))
    verified = verify_report(report, trusted_roots=trusted, chain_der=chain, revocation=None, now=AT)
    assert verified.root.hardware == "real"
    assert verified.certificate.product == "Milan"
    changed = bytearray(report)
    changed[0x90] ^= 1
    with pytest.raises(VerificationError):
        verify_report(bytes(changed), trusted_roots=trusted, chain_der=chain, revocation=None, now=AT)


@pytest.mark.parametrize("line", ["genoa", "turin"])
def test_an_authority_of_a_real_chain_is_no_endorsement_key(shared: Path, line: str) -> None:
    authority, root = x509.parse_pem_chain((shared / "vectors" / "snp" / f"ask_ark_{line}.pem").read_bytes())
    with pytest.raises(FormatError, match="VCEK or VLEK"):
        parse_amd_certificate(authority)
    with pytest.raises(VerificationError, match="wrong place"):  # its signature held: that is checked before
        x509.verify_chain([authority, root], roots_der=[root], revocation=None, now=AT)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(REPORT) - 1), st.integers(0, 7))
def test_refuses_any_flipped_bit(at: int, bit: int) -> None:
    edited = bytearray(REPORT)
    edited[at] ^= 1 << bit
    with pytest.raises((VerificationError, FormatError)):
        BENCH.verify(bytes(edited))


def test_refuses_everything_without_trusted_roots() -> None:
    with pytest.raises(UntrustedRootError):
        BENCH.verify(trusted_roots=TrustedRoots(roots=()))


def test_refuses_another_vendors_root() -> None:
    other = SimulatedAmd.create("Milan", now=NOW, rsa_bits=2048)
    with pytest.raises(UntrustedRootError):
        BENCH.verify(endorsements=other.endorsements(now=NOW))


def test_refuses_the_simulated_root_as_a_real_one() -> None:
    with pytest.raises(ConfigurationError, match="simulated"):
        TrustedRoot(certificate_der=BENCH.amd.root_der, simulated=False)


def test_refuses_a_report_that_nobody_signed() -> None:
    with pytest.raises(VerificationError, match="nobody signed"):
        BENCH.verify(BENCH.amd.sign(BENCH.report(signing_key="none"), role="VCEK"))


def test_refuses_a_signature_by_another_key() -> None:
    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify(BENCH.amd.sign(BENCH.report(), role="VLEK"))


def test_refuses_a_signature_of_zeros() -> None:
    with pytest.raises(VerificationError, match="signature"):
        BENCH.verify(replace(BENCH.report(), signature=bytes(96)).to_bytes())


def test_refuses_a_guest_that_may_be_debugged() -> None:
    with pytest.raises(VerificationError, match="debugged"):
        BENCH.verify(BENCH.report(policy=GuestPolicy(debug=True)))


def test_refuses_other_runtime_data() -> None:
    with pytest.raises(VerificationError, match="does not bind"):
        BENCH.verify(runtime_data=RUNTIME_DATA + b" ")
    with pytest.raises(VerificationError, match="does not bind"):
        BENCH.verify(BENCH.report(report_data=BENCH.report().report_data[:32] + b"\1" * 32))


@pytest.mark.parametrize("role", ["ask", "ark"])
def test_refuses_a_revoked_authority(role: str) -> None:
    with pytest.raises(VerificationError, match="revoked"):
        BENCH.verify(endorsements=BENCH.endorsements(revoked=[role]))


def test_refuses_a_list_that_has_run_out_and_one_of_another_root() -> None:
    with pytest.raises(VerificationError, match="valid"):
        BENCH.verify(now=NOW + timedelta(days=365))
    foreign = SimulatedAmd.create("Milan", now=NOW, rsa_bits=2048).endorsements(now=NOW).crl
    mixed = BENCH.endorsements().model_copy(update={"crl": foreign})
    with pytest.raises(VerificationError, match="revocation list"):
        BENCH.verify(endorsements=mixed)


def test_refuses_certificates_before_and_after_their_time() -> None:
    for now in (NOW - timedelta(days=2), NOW + timedelta(days=3651)):
        with pytest.raises(VerificationError, match="valid"):
            BENCH.verify(now=now)


def test_refuses_a_chain_of_another_length() -> None:
    leaf, _, root = x509.parse_pem_chain(BENCH.endorsements().certificate_chain.encode())
    short = BENCH.endorsements().model_copy(update={"certificate_chain": x509.to_pem(leaf) + x509.to_pem(root)})
    with pytest.raises(VerificationError, match="three certificates"):
        BENCH.verify(endorsements=short)


def refuses_leaf(bench: AmdBench, leaf: bytes, *names: str) -> None:
    with pytest.raises(VerificationError, match="not of the key") as refused:
        bench.verify(endorsements=bench.endorsements(leaf=leaf))
    assert {each.name for each in refused.value.mismatches} == set(names)


def test_refuses_the_certificate_of_another_chip() -> None:
    leaf = BENCH.amd.endorsement_certificate("VCEK", now=NOW, chip_id=b"c" * 64)
    refuses_leaf(BENCH, leaf, "chip id")


def test_refuses_the_certificate_of_another_tcb_version() -> None:
    older = replace(BENCH.amd.tcb, microcode=BENCH.amd.tcb.microcode - 1)
    leaf = BENCH.amd.endorsement_certificate("VCEK", now=NOW, tcb=older)
    refuses_leaf(BENCH, leaf, "reported tcb")


def test_refuses_the_certificate_of_another_product() -> None:
    leaf = BENCH.amd.endorsement_certificate("VCEK", now=NOW, product="Genoa")
    refuses_leaf(BENCH, leaf, "issuer", "root", "product")


def test_refuses_a_providers_key_where_the_report_names_the_chips() -> None:
    bench = amd_bench("Milan", "VLEK")
    with pytest.raises(VerificationError, match="not of the key"):
        bench.verify(bench.amd.sign(bench.report(signing_key="VCEK"), role="VLEK"))


def test_names_every_difference_at_once() -> None:
    older = TcbVersion(boot_loader=1, tee=0, snp=1, microcode=1)
    leaf = BENCH.amd.endorsement_certificate("VCEK", now=NOW, tcb=older, chip_id=b"c" * 64)
    refuses_leaf(BENCH, leaf, "chip id", "reported tcb")


def test_a_masked_chip_id_must_be_masked() -> None:
    masked = BENCH.report(mask_chip_key=True, chip_id=bytes(64))
    assert BENCH.verify(masked).report.mask_chip_key
    with pytest.raises(VerificationError, match="not of the key"):
        BENCH.verify(BENCH.report(mask_chip_key=True))
    with pytest.raises(VerificationError, match="not of the key"):
        BENCH.verify(BENCH.report(chip_id=bytes(64)))


@pytest.mark.parametrize("name", ["committed_tcb", "launch_tcb"])
def test_refuses_a_tcb_version_that_is_newer_than_what_runs(name: str) -> None:
    newer = tcb_version_bytes(replace(BENCH.amd.tcb, snp=BENCH.amd.tcb.snp + 1))
    with pytest.raises(VerificationError, match="newer TCB version"):
        BENCH.verify(BENCH.report(**{name: newer}))


def test_refuses_a_reported_tcb_that_is_newer_than_what_runs() -> None:
    older = tcb_version_bytes(replace(BENCH.amd.tcb, snp=BENCH.amd.tcb.snp - 1))
    with pytest.raises(VerificationError, match="newer TCB version"):
        BENCH.verify(BENCH.report(current_tcb=older, committed_tcb=older, launch_tcb=older))


def test_only_the_verifier_makes_verified_evidence() -> None:
    verified = BENCH.verify()
    fields = {name: getattr(verified, name) for name in VerifiedSnp.__dataclass_fields__ if name != "made_by"}
    with pytest.raises(VerificationError, match="only the verifier"):
        VerifiedSnp(**fields, made_by=None)
