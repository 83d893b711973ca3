from pathlib import Path
from typing import Any

import pytest
from tests.support.platform import NOW
from tests.support.vendor_server import SettableClock, Vendors, serving

from strongroom.attestation.endorsements.dcap import DirectoryEndorsements, parse_endorsements
from strongroom.attestation.endorsements.documents import AmdCrlName, RootCaCrlName
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots
from strongroom.base.errors import ConfigurationError, FormatError, NotFoundError, UnavailableError
from strongroom.crypto import x509
from strongroom.services.endorsement_sources import (
    CacheSettings,
    FolderSettings,
    PcsSettings,
    VendorDocuments,
    open_cache,
    open_endorsements,
)

CLOCK = SettableClock()
VENDORS = Vendors.new(CLOCK)


def test_a_folder_is_read_as_ever(tmp_path: Path) -> None:
    sources = open_endorsements(FolderSettings(path=str(tmp_path)), trusted_roots=VENDORS.roots, clock=CLOCK)
    assert isinstance(sources.dcap, DirectoryEndorsements)
    assert isinstance(sources.snp, DirectoryRevocations)


def test_a_vendor_without_a_server_has_no_documents() -> None:
    nothing = VendorDocuments(intel=None, amd=None)
    with pytest.raises(NotFoundError, match="root-ca-crl has no source"):
        nothing.find(RootCaCrlName())
    with pytest.raises(NotFoundError, match="amd-crl-vcek-milan has no source"):
        nothing.find(AmdCrlName(signing_key="VCEK", product="Milan"))


def test_the_edition_of_the_configuration_is_asked_for(tmp_path: Path) -> None:
    with serving(VENDORS) as server:
        settings = {
            "folder": str(tmp_path / "cache"),
            "pcs": {"url": server.url, "certificate_pem": server.authority_pem},
            "edition": "early",
        }
        cache = open_cache(CacheSettings.from_object(settings), trusted_roots=VENDORS.roots, clock=CLOCK)
        cache.get(fmspc=VENDORS.fmspc, ca="platform")
        assert f"/sgx/certification/v4/tcb?fmspc={VENDORS.fmspc.upper()}&update=early" in server.requests


def test_the_roots_list_may_be_on_another_server(tmp_path: Path) -> None:
    with serving(VENDORS) as server:
        address = f"{server.url}/sgx/certification/v4/rootcacrl"
        settings = {
            "folder": str(tmp_path / "cache"),
            "pcs": {"url": f"{server.url}/nowhere", "certificate_pem": server.authority_pem, "root_crl": address},
        }
        cache = open_cache(CacheSettings.from_object(settings), trusted_roots=VENDORS.roots, clock=CLOCK)
        assert cache.find(RootCaCrlName()).stale is None


def test_intels_own_server_is_asked_for_the_roots_list_where_the_trusted_root_says(
    tmp_path: Path, shared: Path
) -> None:
    real = parse_endorsements((shared / "vectors" / "sgx" / "sgx_quote_collateral.json").read_bytes())
    root = x509.parse_pem_chain(real.tcb_info_issuer_chain.encode())[-1]
    ark = x509.parse_pem_chain((shared / "vectors" / "snp" / "ask_ark_milan.pem").read_bytes())[-1]
    roots = TrustedRoots(roots=tuple(TrustedRoot(certificate_der=each, simulated=False) for each in (ark, root)))
    intel = CacheSettings(folder=str(tmp_path / "cache"), pcs=PcsSettings(url="https://api.trustedservices.intel.com"))
    cache = open_cache(intel, trusted_roots=roots, clock=CLOCK)
    source = cache._source
    assert isinstance(source, VendorDocuments)
    root_crl = source._intel._root_crl  # type: ignore[union-attr]
    assert root_crl.url == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    with pytest.raises(ConfigurationError, match="no root of Intel's"):
        open_cache(intel, trusted_roots=VENDORS.roots, clock=CLOCK)


@pytest.mark.parametrize(
    "change",
    [
        {"pcs": {"url": "http://127.0.0.1"}},
        {"pcs": {"url": "https://user@127.0.0.1"}},
        {"pcs": {"url": "https://127.0.0.1", "verify": False}},
        {"kds": {"url": "https://127.0.0.1", "total_s": 0}},
        {"limits": {"fresh_for_s": 0}},
        {"edition": "newest"},
        {"edition": 0},
        {"folder": None},
    ],
)
def test_settings_that_make_no_sense_are_refused(change: dict[str, Any]) -> None:
    CacheSettings.from_object({"folder": "x"})
    with pytest.raises(FormatError):
        CacheSettings.from_object({"folder": "x", **change})


def test_a_cache_whose_servers_never_answered_has_nothing(tmp_path: Path) -> None:
    with serving(VENDORS) as server:
        url, pem = server.url, server.authority_pem
    settings = {"folder": str(tmp_path / "cache"), "pcs": {"url": url, "certificate_pem": pem}}
    cache = open_cache(CacheSettings.from_object(settings), trusted_roots=VENDORS.roots, clock=CLOCK)
    with pytest.raises(UnavailableError, match="does not answer"):
        cache.get(fmspc=VENDORS.fmspc, ca="platform")
    assert CLOCK.now() == NOW
