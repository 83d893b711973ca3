from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import NOW
from tests.support.vendor_server import SettableClock, Vendors, VendorServer, serving, with_body

from strongroom.attestation.endorsements.documents import AmdChainName, AmdCrlName, RootCaCrlName, VcekName
from strongroom.attestation.evidence.snp_report import SnpReport
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.clients.amd_kds import KdsClient
from strongroom.crypto import x509

CLOCK = SettableClock()
VENDORS = Vendors.new(CLOCK)
BENCH = amd_bench()
CHIP = BENCH.amd.chip_id.hex()


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with serving(replace(VENDORS, edit={})) as server:
        yield server


@pytest.fixture
def kds(server: VendorServer) -> KdsClient:
    return KdsClient(server.https(), clock=CLOCK)


def test_what_it_fetches_verifies_a_report_that_came_without_certificates(kds: KdsClient, server: VendorServer) -> None:
    endorsements = kds.for_report(BENCH.report())
    assert BENCH.verify(endorsements=endorsements).product == "Milan"
    assert server.requests == [
        f"/vcek/v1/Milan/{CHIP}?blSPL=04&teeSPL=00&snpSPL=24&ucodeSPL=219",
        "/vcek/v1/Milan/cert_chain",
        "/vcek/v1/Milan/crl",
    ]


def test_a_report_that_does_not_name_its_processor_is_looked_up_in_each_product_line(
    kds: KdsClient, server: VendorServer
) -> None:
    bench = replace(BENCH, version=2)
    assert bench.verify(endorsements=kds.for_report(bench.report())).product == "Milan"
    server.vendors.edit["/vcek/v1/Milan"] = lambda answer: replace(answer, status=404)
    with pytest.raises(NotFoundError):
        kds.for_report(bench.report())
    assert any(request.startswith(f"/vcek/v1/Genoa/{CHIP}") for request in server.requests)


def test_turins_chips_have_short_ids_and_a_further_version(kds: KdsClient, server: VendorServer) -> None:
    bench = amd_bench("Turin", version=5)
    with pytest.raises(NotFoundError):
        kds.for_report(bench.report())
    chip = bench.amd.chip_id[:8].hex()
    assert server.requests == [f"/vcek/v1/Turin/{chip}?fmcSPL=01&blSPL=01&teeSPL=01&snpSPL=04&ucodeSPL=80"]


def test_a_roots_list_is_the_one_of_its_product_line(kds: KdsClient, server: VendorServer) -> None:
    root = BENCH.amd.root_der
    for crl in (kds.crl(root), kds.crl(root, signing_key="VLEK")):
        assert x509.verify_crl(crl, issuer_der=root, now=NOW).number == VENDORS.crl_number
    assert server.requests == ["/vcek/v1/Milan/crl", "/vlek/v1/Milan/crl"]
    with pytest.raises(NotFoundError, match="product lines"):
        kds.crl(VENDORS.platform.root_der)


def test_fetches_the_authorities_of_both_kinds_of_keys(kds: KdsClient) -> None:
    for signing_key, role in (("VCEK", "ask"), ("VLEK", "asvk")):
        name = AmdChainName.from_object({"signing_key": signing_key, "product": "Milan"})
        chain = x509.parse_pem_chain(kds.find(name).document.content.encode())
        assert chain == (BENCH.amd.certificates[role], BENCH.amd.root_der)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"signing_key": "VLEK"}, "published|publishes"),
        ({"mask_chip_key": True, "chip_id": bytes(64)}, "hides its chip"),
    ],
)
def test_what_cannot_be_looked_up_is_not_asked_for(
    kds: KdsClient, server: VendorServer, fields: dict[str, Any], word: str
) -> None:
    report: SnpReport = BENCH.report(**fields)
    with pytest.raises(NotFoundError, match=word):
        kds.for_report(report)
    assert server.requests == []


def test_other_vendors_documents_are_not_found(kds: KdsClient) -> None:
    with pytest.raises(NotFoundError):
        kds.find(RootCaCrlName())


@pytest.mark.parametrize("body", [b"", b"<html>", b"\x30\x03\x02\x01\x01", BENCH.amd.root_der])
def test_wrong_content_is_a_format_error(kds: KdsClient, server: VendorServer, body: bytes) -> None:
    server.vendors.edit["/"] = with_body(body)
    vcek = VcekName.of(BENCH.report(), "Milan")
    for name in (
        vcek,
        AmdCrlName(signing_key="VCEK", product="Milan"),
        AmdChainName(signing_key="VCEK", product="Milan"),
    ):
        with pytest.raises(FormatError):
            kds.find(name)
