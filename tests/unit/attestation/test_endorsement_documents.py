import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench
from tests.support.vendor_server import SettableClock, Vendors, write_folder

from strongroom.attestation.endorsements.bundle import BUNDLE_TYP, BundleEndorsements, sign_bundle, verify_bundle
from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    Document,
    DocumentName,
    Entry,
    PckCrlName,
    PlatformFamily,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
    names_for,
)
from strongroom.attestation.endorsements.folder import FolderDocuments
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.attestation.evidence.pck import authority_kind
from strongroom.attestation.evidence.snp_report import parse_snp_report
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.attestation.verifier.endorsements import verify_document
from strongroom.base.clock import to_rfc3339
from strongroom.base.encoding import canonical_json
from strongroom.base.errors import (
    ConfigurationError,
    FormatError,
    NotFoundError,
    StrongroomError,
    UnavailableError,
    UntrustedRootError,
    VerificationError,
)
from strongroom.crypto import x509
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey

VENDORS = Vendors.new(SettableClock())
FMSPC = VENDORS.fmspc
BENCH = Bench.around(VENDORS.platform)
AMD = amd_bench()
CHIP = VcekName.of(AMD.report(), "Milan")
SIGNER = SigningKey.generate("ES256")
END = NOW + timedelta(days=7)
GOOD_VCEK = {"product": "Milan", "hwid": "0" * 128, "boot_loader": 1, "tee": 0, "snp": 1, "microcode": 1}


@pytest.fixture
def folder(tmp_path: Path) -> FolderDocuments:
    return FolderDocuments(write_folder(VENDORS, tmp_path / "folder"))


def entry(name: DocumentName, document: Document) -> Entry:
    return Entry(name=name, fetched_at=to_rfc3339(NOW), document=document)


def chip_document() -> Document:
    leaf, *authorities = x509.parse_pem_chain(AMD.endorsements().certificate_chain.encode())
    return Document(content=x509.to_pem(leaf), issuer_chain="".join(map(x509.to_pem, authorities)))


def all_entries(folder: FolderDocuments) -> list[Entry]:
    families = [PlatformFamily(fmspc=FMSPC), PlatformFamily(fmspc=FMSPC, tee="TDX")]
    names = [*names_for(families, ()), AmdCrlName(signing_key="VCEK", product="Milan")]
    return [entry(CHIP, chip_document()), *(entry(name, folder.find(name).document) for name in names)]


# --- names -------------------------------------------------------------------------------------------------------


def test_a_familys_documents_are_named_once() -> None:
    families = [PlatformFamily(fmspc=FMSPC), PlatformFamily(fmspc=FMSPC, tee="TDX"), PlatformFamily(fmspc="0" * 12)]
    keys = [name.key for name in names_for(families, ["Milan"], edition=17)]
    assert keys == [
        "pck-crl-platform",
        "root-ca-crl",
        f"tcb-info-sgx-{FMSPC}-17",
        "qe-identity-sgx-17",
        f"tcb-info-tdx-{FMSPC}-17",
        "qe-identity-tdx-17",
        f"tcb-info-sgx-{'0' * 12}-17",
        "amd-chain-vcek-milan",
        "amd-crl-vcek-milan",
        "amd-chain-vlek-milan",
        "amd-crl-vlek-milan",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"hwid": "0" * 16},
        {"hwid": "../" * 42 + "00"},
        {"hwid": "G" * 128},
        {"fmc": 1},
        {"product": "Turin"},
        {"product": "Turin", "fmc": 1},
        {"product": "Rome"},
        {"snp": 256},
        {"snp": -1},
    ],
)
def test_a_chips_name_is_as_its_product_has_it(change: dict[str, Any]) -> None:
    VcekName.from_object(GOOD_VCEK)
    VcekName.from_object({**GOOD_VCEK, "product": "Turin", "hwid": "0" * 16, "fmc": 1})
    with pytest.raises(FormatError):
        VcekName.from_object({**GOOD_VCEK, **change})


@given(st.binary(max_size=64))
def test_any_bytes_are_no_entry(data: bytes) -> None:
    with pytest.raises(FormatError):
        Entry.from_json(data)


# --- verification ------------------------------------------------------------------------------------------------


def test_every_document_of_a_good_folder_verifies(folder: FolderDocuments) -> None:
    for each in all_entries(folder):
        standing = verify_document(each.name, each.document, trusted_roots=VENDORS.roots, now=NOW)
        assert standing.next_update > NOW
        assert standing.renewed == (each.name != CHIP)
    tcb = folder.find(TcbInfoName(tee="SGX", fmspc=FMSPC, edition=17)).document
    assert verify_document(TcbInfoName(tee="SGX", fmspc=FMSPC), tcb, trusted_roots=VENDORS.roots, now=NOW).number == 17


@pytest.mark.parametrize("vector", ["sgx/sgx_quote", "tdx/tdx_quote", "tdx/tdx_quote_outdated"])
def test_real_documents_verify_at_their_time(shared: Path, vector: str) -> None:
    real = parse_endorsements((shared / "vectors" / f"{vector}_collateral.json").read_bytes())
    issued = datetime.fromisoformat(json.loads(real.tcb_info)["issueDate"])
    tee, fmspc = ("TDX" if "tdx" in vector else "SGX"), json.loads(real.tcb_info)["fmspc"].lower()
    root = x509.parse_pem_chain(real.tcb_info_issuer_chain.encode())[-1]
    roots = TrustedRoots(roots=(TrustedRoot(certificate_der=root, simulated=False),))
    ca = authority_kind(x509.parse_pem_chain(real.pck_crl_issuer_chain.encode())[0])
    for name, document in (
        (
            TcbInfoName.from_object({"tee": tee, "fmspc": fmspc}),
            Document(content=real.tcb_info, signature=real.tcb_info_signature, issuer_chain=real.tcb_info_issuer_chain),
        ),
        (
            QeIdentityName.from_object({"tee": tee}),
            Document(
                content=real.qe_identity,
                signature=real.qe_identity_signature,
                issuer_chain=real.qe_identity_issuer_chain,
            ),
        ),
        (RootCaCrlName(), Document(content=real.root_ca_crl)),
        (PckCrlName.from_object({"ca": ca}), Document(content=real.pck_crl, issuer_chain=real.pck_crl_issuer_chain)),
    ):
        verify_document(name, document, trusted_roots=roots, now=issued + timedelta(days=1))
        with pytest.raises(VerificationError):
            verify_document(name, document, trusted_roots=roots, now=issued + timedelta(days=3650))


def test_a_real_chips_certificate_verifies(shared: Path) -> None:
    vectors = shared / "vectors" / "snp"
    chain = (vectors / "ask_ark_milan.pem").read_text()
    leaf = x509.to_pem((vectors / "snp_milan_vcek.der").read_bytes())
    name = VcekName.of(parse_snp_report((vectors / "snp_milan_report.bin").read_bytes()), "Milan")
    roots = TrustedRoots(
        roots=(TrustedRoot(certificate_der=x509.parse_pem_chain(chain.encode())[-1], simulated=False),)
    )
    now = datetime(2024, 1, 1, tzinfo=UTC)
    document = Document(content=leaf, issuer_chain=chain)
    assert not verify_document(name, document, trusted_roots=roots, now=now).renewed
    other = name.model_copy(update={"microcode": name.microcode + 1})
    with pytest.raises(VerificationError) as refused:
        verify_document(other, document, trusted_roots=roots, now=now)
    assert [each.name for each in refused.value.mismatches] == ["tcb"]
    authorities = AmdChainName(signing_key="VCEK", product="Milan")
    verify_document(authorities, Document(content=chain), trusted_roots=roots, now=now)
    with pytest.raises(VerificationError):
        verify_document(
            AmdChainName(signing_key="VLEK", product="Milan"), Document(content=chain), trusted_roots=roots, now=now
        )


def test_without_roots_nothing_verifies(folder: FolderDocuments) -> None:
    for each in all_entries(folder):
        with pytest.raises(VerificationError):
            verify_document(each.name, each.document, trusted_roots=TrustedRoots(roots=()), now=NOW)


def test_only_the_evaluation_that_was_asked_for_verifies(folder: FolderDocuments) -> None:
    for name in (TcbInfoName(tee="SGX", fmspc=FMSPC), QeIdentityName(tee="SGX")):
        document = folder.find(name).document
        verify_document(name.model_copy(update={"edition": 17}), document, trusted_roots=VENDORS.roots, now=NOW)
        with pytest.raises(VerificationError) as refused:
            verify_document(name.model_copy(update={"edition": 18}), document, trusted_roots=VENDORS.roots, now=NOW)
        assert [each.name for each in refused.value.mismatches] == ["tcbEvaluationDataNumber"]


def test_simulated_roots_never_pass_for_real_ones(folder: FolderDocuments) -> None:
    with pytest.raises(ConfigurationError):
        TrustedRoots(roots=(TrustedRoot(certificate_der=VENDORS.platform.root_der, simulated=False),))


def test_a_list_of_the_other_pck_ca_is_refused(folder: FolderDocuments) -> None:
    document = folder.find(PckCrlName(ca="platform")).document
    with pytest.raises(VerificationError, match="another PCK CA"):
        verify_document(PckCrlName(ca="processor"), document, trusted_roots=VENDORS.roots, now=NOW)


def test_a_list_of_amds_root_is_none_of_intels_root() -> None:
    crl = Document(content=VENDORS.answer("/vcek/v1/Milan/crl").body.hex())
    with pytest.raises(VerificationError):
        verify_document(RootCaCrlName(), crl, trusted_roots=VENDORS.roots, now=NOW)


@given(content=st.text(max_size=40), signature=st.text(max_size=8), issuer_chain=st.text(max_size=8))
def test_any_document_verifies_or_is_an_error_of_ours(content: str, signature: str, issuer_chain: str) -> None:
    document = Document(content=content, signature=signature, issuer_chain=issuer_chain)
    for name in (
        PckCrlName(ca="platform"),
        RootCaCrlName(),
        TcbInfoName(tee="SGX", fmspc=FMSPC),
        QeIdentityName(tee="TDX"),
        AmdChainName(signing_key="VLEK", product="Milan"),
        AmdCrlName(signing_key="VCEK", product="Milan"),
        CHIP,
    ):
        with pytest.raises(StrongroomError):
            verify_document(name, document, trusted_roots=VENDORS.roots, now=NOW)


# --- a folder of whole endorsements, taken apart -----------------------------------------------------------------


def test_a_folder_gives_the_same_endorsements_again(folder: FolderDocuments) -> None:
    assert BENCH.verify(endorsements=folder.get(fmspc=FMSPC, ca="platform")).tcb_status == "UpToDate"
    tdx = folder.get(fmspc=FMSPC, ca="platform", tee="TDX")
    assert BENCH.verify_td(edit=lambda _: tdx).tcb_status == "UpToDate"
    assert x509.crl_issuer(folder.crl(AMD.amd.root_der)) == "ARK-Milan"


def test_a_folder_does_not_have_other_documents(folder: FolderDocuments) -> None:
    for name in (
        PckCrlName(ca="processor"),
        TcbInfoName(tee="SGX", fmspc="0" * 12),
        TcbInfoName(tee="SGX", fmspc=FMSPC, edition="early"),
        QeIdentityName(tee="SGX", edition=16),
        AmdCrlName(signing_key="VCEK", product="Turin"),
        AmdChainName(signing_key="VCEK", product="Milan"),
        CHIP,
    ):
        with pytest.raises(NotFoundError):
            folder.find(name)
    with pytest.raises(NotFoundError):
        FolderDocuments(Path("/nonexistent")).find(RootCaCrlName())


def test_a_folder_has_no_certificates_for_reports_without(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="without its certificates"):
        DirectoryRevocations(tmp_path).for_report(AMD.report())


# --- bundles -----------------------------------------------------------------------------------------------------


def bundle(folder: FolderDocuments, path: Path, clock: SettableClock, **changed: Any) -> BundleEndorsements:
    token = sign_bundle(all_entries(folder), key=SIGNER, now=NOW, expires_at=END)
    path.write_text(token + "\n")
    return BundleEndorsements(path, **{"signer": SIGNER.verifying_key, "clock": clock, **changed})


def test_a_bundle_verifies_all_kinds_of_evidence_offline(folder: FolderDocuments, tmp_path: Path) -> None:
    held = bundle(folder, tmp_path / "bundle", SettableClock())
    assert BENCH.verify(endorsements=held.get(fmspc=FMSPC, ca="platform")).tcb_status == "UpToDate"
    tdx = held.get(fmspc=FMSPC, ca="platform", tee="TDX")
    assert BENCH.verify_td(edit=lambda _: tdx).tcb_status == "UpToDate"
    assert AMD.verify(endorsements=held.for_report(AMD.report())).product == "Milan"
    assert held.find(RootCaCrlName()).fetched_at == NOW
    assert held.body().collected_at == to_rfc3339(NOW)
    with pytest.raises(NotFoundError, match="does not hold"):
        held.get(fmspc="0" * 12, ca="platform")


def test_the_time_of_an_audit_is_stated_and_decides(folder: FolderDocuments, tmp_path: Path) -> None:
    stated = SettableClock(END)
    held = bundle(folder, tmp_path / "bundle", stated)
    assert held.names()
    stated.advance(seconds=1)
    with pytest.raises(UnavailableError, match="expired"):
        held.find(RootCaCrlName())
    with pytest.raises(ConfigurationError, match="expired"):
        bundle(folder, tmp_path / "bundle", stated)


def test_a_bundle_that_is_replaced_is_read_anew(folder: FolderDocuments, tmp_path: Path) -> None:
    path = tmp_path / "bundle"
    held = bundle(folder, path, SettableClock())
    (tmp_path / "new").write_text(sign_bundle([entry(CHIP, chip_document())], key=SIGNER, now=NOW, expires_at=END))
    (tmp_path / "new").replace(path)
    assert held.names() == (CHIP,)
    path.write_text(sign_bundle(all_entries(folder), key=SigningKey.generate("ES256"), now=NOW, expires_at=END))
    with pytest.raises(VerificationError):
        held.find(CHIP)
    path.unlink()
    with pytest.raises(UnavailableError):
        held.find(CHIP)


@pytest.mark.parametrize("content", [b"", b"x", b"a.b.c", b"\xff", b"e30.e30.AA"])
def test_what_is_no_bundle_is_not_opened(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bundle").write_bytes(content)
    for path in (tmp_path / "bundle", tmp_path / "nothing"):
        with pytest.raises(ConfigurationError):
            BundleEndorsements(path, signer=SIGNER.verifying_key, clock=SettableClock())


def test_a_bundle_holds_each_document_once_and_ends_later_than_now(folder: FolderDocuments) -> None:
    one = entry(CHIP, chip_document())
    for entries in ([], [one, one]):
        with pytest.raises(FormatError, match="once"):
            sign_bundle(entries, key=SIGNER, now=NOW, expires_at=END)
    with pytest.raises(ConfigurationError, match="expired"):
        sign_bundle([one], key=SIGNER, now=NOW, expires_at=NOW)
    body = {"version": 1, "collected_at": to_rfc3339(NOW), "expires_at": to_rfc3339(END)}
    twice = {**body, "entries": [json.loads(one.to_json())] * 2}
    spaced = json.dumps({**body, "entries": [json.loads(one.to_json())]}, indent=1).encode()
    for payload in (canonical_json(twice), spaced, canonical_json({**body, "entries": []}), b"{}"):
        token = sign_jws(payload, key=SIGNER, header={"typ": BUNDLE_TYP})
        with pytest.raises(FormatError):
            verify_bundle(token, signer=SIGNER.verifying_key, now=NOW)


def test_a_large_bundle_is_a_bundle(folder: FolderDocuments) -> None:
    chips = [entry(CHIP.model_copy(update={"microcode": number}), chip_document()) for number in range(200)]
    token = sign_bundle(chips, key=SIGNER, now=NOW, expires_at=END)
    assert len(token) > 1 << 20
    assert len(verify_bundle(token, signer=SIGNER.verifying_key, now=NOW).entries) == 200


def test_the_roots_of_another_installation_are_not_trusted(folder: FolderDocuments) -> None:
    others = Vendors.new(SettableClock()).roots
    for each in all_entries(folder)[1:3]:
        with pytest.raises((UntrustedRootError, VerificationError)):
            verify_document(each.name, each.document, trusted_roots=replace(others, roots=others.roots[:1]), now=NOW)
