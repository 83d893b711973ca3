"""Endorsements come over networks and from caches that nobody trusts: lies must change nothing, silence must end."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import NOW, Bench
from tests.support.vendor_server import (
    Answer,
    SettableClock,
    Vendors,
    VendorServer,
    pcs_document,
    serving,
    with_body,
)

from strongroom.attestation.endorsements.bundle import BUNDLE_TYP, sign_bundle, verify_bundle
from strongroom.attestation.endorsements.documents import (
    AmdChainName,
    AmdCrlName,
    DocumentName,
    Entry,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
    VcekName,
)
from strongroom.attestation.verifier import TrustedRoots
from strongroom.base.errors import StrongroomError, UnavailableError, VerificationError
from strongroom.clients.amd_kds import KdsClient
from strongroom.clients.intel_pcs import PcsClient
from strongroom.crypto.jose import sign_jws, unverified_payload
from strongroom.crypto.keys import SigningKey
from strongroom.services.endorsement_cache import DocumentCache, StalenessLimits, read_entries
from strongroom.services.endorsement_sources import VendorDocuments

VENDORS = Vendors.new(SettableClock())
OTHERS = Vendors.new(SettableClock())
CHIP = VcekName.of(amd_bench().report(), "Milan")
TCB = TcbInfoName(tee="SGX", fmspc=VENDORS.fmspc)
NAMES: tuple[DocumentName, ...] = (
    PckCrlName(ca="platform"),
    RootCaCrlName(),
    TCB,
    TcbInfoName(tee="TDX", fmspc=VENDORS.fmspc),
    QeIdentityName(tee="SGX"),
    AmdChainName(signing_key="VCEK", product="Milan"),
    AmdCrlName(signing_key="VCEK", product="Milan"),
    CHIP,
)
RENEWED = [name for name in NAMES if name.kind not in {"vcek", "amd-chain"}]
SIGNED = (TCB, QeIdentityName(tee="SGX"))
LISTS = (PckCrlName(ca="platform"), RootCaCrlName(), AmdCrlName(signing_key="VCEK", product="Milan"))


def title(name: DocumentName) -> str:
    """An id that is the same in every process: families and chips are made anew in each."""
    return f"{name.kind}-{getattr(name, 'tee', getattr(name, 'ca', ''))}".rstrip("-")


class Setting:
    """A cache that holds good documents, two hours old: its source is asked again."""

    def __init__(self, folder: Path, server: VendorServer) -> None:
        self.folder, self.server, self.vendors = folder, server, server.vendors
        self.clock = server.vendors.clock
        self.roots = VENDORS.roots
        self.cache = self.start()
        self.good = {name: self.cache.find(name).document for name in NAMES}
        self.clock.advance(hours=2)

    def start(self) -> DocumentCache:
        https = self.server.https()
        return DocumentCache(
            self.folder,
            source=VendorDocuments(intel=PcsClient(https, clock=self.clock), amd=KdsClient(https, clock=self.clock)),
            trusted_roots=self.roots,
            limits=StalenessLimits(fresh_for_s=3600, usable_for_s=24 * 3600, patience_s=20),
            clock=self.clock,
        )

    def demand_unchanged(self, name: DocumentName) -> None:
        """Neither the running cache nor a restarted one takes the lie; alone it is no answer either."""
        for cache in (self.cache, self.start()):
            found = cache.find(name)
            assert found.document == self.good[name]
            assert found.stale is not None
            with pytest.raises(StrongroomError):
                cache.renew(name)
        (self.folder / f"{name.key}.json").unlink()


@pytest.fixture
def setting(tmp_path: Path) -> Iterator[Setting]:
    with serving(replace(VENDORS, clock=SettableClock(), edit={}, signed={})) as server:
        yield Setting(tmp_path / "cache", server)


def lie(document: Callable[[Answer], Answer]) -> dict[str, Callable[[Answer], Answer]]:
    return {"/": document}


def test_without_a_lie_each_document_is_renewed(setting: Setting) -> None:
    for name in RENEWED:
        found = setting.cache.find(name)
        assert found.stale is None
        assert found.fetched_at == setting.clock.now()


@pytest.mark.parametrize("name", RENEWED, ids=title)
def test_a_flipped_byte_changes_nothing(setting: Setting, name: DocumentName) -> None:
    def flip(answer: Answer) -> Answer:
        body = answer.body
        if b"UpToDate" in body:
            return replace(answer, body=body.replace(b'"UpToDate"', b'"OutOfDate"'))
        hexadecimal = body[:2] == b"30"
        place = len(body) - 20
        changed = (b"1" if body[place : place + 1] == b"0" else b"0") if hexadecimal else bytes([body[place] ^ 1])
        return replace(answer, body=body[:place] + changed + body[place + 1 :])

    setting.vendors.edit.update(lie(flip))
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", [*SIGNED, *LISTS[:2]], ids=title)
def test_another_root_changes_nothing(setting: Setting, name: DocumentName) -> None:
    others = replace(OTHERS, clock=setting.clock, platform=replace(OTHERS.platform, fmspc=VENDORS.platform.fmspc))
    setting.vendors.platform = others.platform
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", [*SIGNED, *LISTS[:2]], ids=title)
def test_another_root_that_is_trusted_too_changes_nothing(setting: Setting, name: DocumentName) -> None:
    """Whoever holds the keys of one trusted root must not speak for the hardware of another."""
    others = OTHERS.roots.roots[:1]
    setting.roots = TrustedRoots(roots=(*VENDORS.roots.roots, *others))
    setting.cache = setting.start()
    setting.vendors.platform = replace(OTHERS.platform, fmspc=VENDORS.platform.fmspc)
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", SIGNED, ids=title)
def test_an_older_evaluation_changes_nothing(setting: Setting, name: DocumentName) -> None:
    setting.vendors.signed.update(
        dict.fromkeys(("tcb", "qe"), lambda document: {**document, "tcbEvaluationDataNumber": 16})
    )
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", SIGNED, ids=title)
def test_an_earlier_issue_changes_nothing(setting: Setting, name: DocumentName) -> None:
    def earlier(document: dict[str, Any]) -> dict[str, Any]:
        return {**document, "issueDate": (NOW - timedelta(days=3)).strftime("%Y-%m-%dT%H:%M:%SZ")}

    setting.vendors.signed.update({"tcb": earlier, "qe": earlier})
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", LISTS, ids=title)
@pytest.mark.parametrize("fault", ["number", "issue"])
def test_an_older_revocation_list_changes_nothing(setting: Setting, name: DocumentName, fault: str) -> None:
    if fault == "number":
        setting.vendors.crl_number -= 1
    else:
        setting.vendors.crl_age += timedelta(days=1)
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", RENEWED, ids=title)
def test_a_document_out_of_date_changes_nothing(setting: Setting, name: DocumentName) -> None:
    """Issued after the one that is kept, and yet not valid any more."""
    a_minute_ago = (setting.clock.now() - timedelta(minutes=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    expired = {"nextUpdate": a_minute_ago}
    setting.vendors.signed.update(dict.fromkeys(("tcb", "qe"), lambda document: {**document, **expired}))
    setting.vendors.crl_lifetime = setting.vendors.crl_age - timedelta(minutes=1)
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", [TCB, QeIdentityName(tee="SGX"), *LISTS, CHIP], ids=title)
def test_a_document_about_something_else_changes_nothing(setting: Setting, name: DocumentName, tmp_path: Path) -> None:
    def other_one(answer: Answer) -> Answer:
        del answer
        match name.kind:
            case "tcb-info":
                return setting.vendors._answer("/tdx/certification/v4/tcb", f"fmspc={VENDORS.fmspc.upper()}")
            case "qe-identity":
                return setting.vendors._answer("/tdx/certification/v4/qe/identity", "")
            case "pck-crl" | "amd-crl":
                crl = setting.vendors._answer("/sgx/certification/v4/rootcacrl", "")
                return replace(crl, body=bytes.fromhex(crl.body.decode()), headers={})
            case "root-ca-crl":
                return setting.vendors._answer("/vcek/v1/Milan/crl", "")
            case _:
                other = setting.vendors.amd.endorsement_certificate("VCEK", now=NOW, chip_id=bytes(64))
                return Answer(other)

    if name == CHIP:
        (setting.folder / f"{CHIP.key}.json").unlink()
        setting.vendors.edit[f"/vcek/v1/Milan/{CHIP.hwid}"] = other_one
        with pytest.raises(UnavailableError, match="another chip"):
            setting.start().find(CHIP)
        return
    setting.vendors.edit.update(lie(other_one))
    setting.demand_unchanged(name)


def test_levels_of_another_family_change_nothing(setting: Setting) -> None:
    setting.vendors.signed["tcb"] = lambda document: {**document, "fmspc": "00A067110000"}
    setting.demand_unchanged(TCB)


def test_levels_that_a_platforms_key_signed_change_nothing(setting: Setting) -> None:
    """A platform's own certificate ends at the vendor's root too, and must not vouch for TCB levels."""
    platform = setting.vendors.platform
    forged = json.dumps(json.loads(setting.good[TCB].content) | {"tcbEvaluationDataNumber": 99})
    signature = platform.keys["pck"].sign(forged.encode()).hex()
    chain = setting.vendors._chain("pck", "pck-ca", "root")
    setting.vendors.edit.update(
        lie(
            lambda answer: replace(
                answer,
                body=pcs_document("tcbInfo", forged, signature),
                headers={"TCB-Info-Issuer-Chain": chain.replace("\n", "%0A")},
            )
        )
    )
    setting.demand_unchanged(TCB)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"0" * (2 << 20)], ids=["empty", "html", "json", "too large"])
@pytest.mark.parametrize("name", RENEWED, ids=title)
def test_wrong_content_changes_nothing(setting: Setting, name: DocumentName, body: bytes) -> None:
    setting.vendors.edit.update(lie(with_body(body)))
    setting.demand_unchanged(name)


@pytest.mark.parametrize("name", RENEWED, ids=title)
def test_a_source_that_keeps_silent_cannot_hide_news_for_ever(setting: Setting, name: DocumentName) -> None:
    setting.server.stop()
    assert setting.cache.find(name).stale is not None
    setting.clock.advance(hours=23)
    for cache in (setting.cache, setting.start()):
        with pytest.raises(UnavailableError):
            cache.find(name)


def test_evidence_is_refused_when_its_endorsements_are_too_old(setting: Setting) -> None:
    bench = Bench.around(VENDORS.platform)
    bench.verify(endorsements=setting.cache.get(fmspc=VENDORS.fmspc, ca="platform"), now=setting.clock.now())
    setting.server.stop()
    setting.clock.advance(hours=25)
    with pytest.raises(UnavailableError):
        setting.cache.get(fmspc=VENDORS.fmspc, ca="platform")


# --- bundles -----------------------------------------------------------------------------------------------------

AUDITOR = SigningKey.generate("ES256")
END = NOW + timedelta(days=7)


def entries(setting: Setting) -> tuple[Entry, ...]:
    return read_entries(setting.folder)


def test_a_bundle_of_another_signer_is_refused(setting: Setting) -> None:
    token = sign_bundle(entries(setting), key=SigningKey.generate("ES256"), now=NOW, expires_at=END)
    with pytest.raises(VerificationError):
        verify_bundle(token, signer=AUDITOR.verifying_key, now=NOW)


def test_a_bundle_that_was_changed_is_refused(setting: Setting) -> None:
    token = sign_bundle(entries(setting), key=AUDITOR, now=NOW, expires_at=END)
    other = sign_bundle(entries(setting)[1:], key=AUDITOR, now=NOW, expires_at=END)
    header, payload, _ = token.split(".")
    for broken in (
        f"{header}.{other.split('.')[1]}.{token.split('.')[2]}",
        f"{header}.{payload}.{other.split('.')[2]}",
    ):
        with pytest.raises(VerificationError):
            verify_bundle(broken, signer=AUDITOR.verifying_key, now=NOW)


def test_another_statement_of_the_signer_is_no_bundle(setting: Setting) -> None:
    token = sign_bundle(entries(setting), key=AUDITOR, now=NOW, expires_at=END)
    payload = unverified_payload(token)
    for typ in ("JWT", "strongroom-receipt+jws"):
        with pytest.raises(VerificationError, match="another type"):
            verify_bundle(sign_jws(payload, key=AUDITOR, header={"typ": typ}), signer=AUDITOR.verifying_key, now=NOW)
    verify_bundle(sign_jws(payload, key=AUDITOR, header={"typ": BUNDLE_TYP}), signer=AUDITOR.verifying_key, now=NOW)


def test_a_bundle_ends_when_it_says(setting: Setting) -> None:
    token = sign_bundle(entries(setting), key=AUDITOR, now=NOW, expires_at=END)
    verify_bundle(token, signer=AUDITOR.verifying_key, now=END)
    with pytest.raises(VerificationError, match="expired"):
        verify_bundle(token, signer=AUDITOR.verifying_key, now=END + timedelta(seconds=1))
