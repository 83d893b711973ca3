import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
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

from strongroom.attestation.endorsements.dcap import parse_endorsements
from strongroom.attestation.endorsements.documents import (
    AmdCrlName,
    Edition,
    PckCrlName,
    QeIdentityName,
    RootCaCrlName,
    TcbInfoName,
)
from strongroom.attestation.endorsements.tcb import parse_qe_identity, parse_tcb_info
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.clients.https import Https
from strongroom.clients.intel_pcs import PcsClient, cut_member, root_crl_address
from strongroom.crypto import x509

CLOCK = SettableClock()
VENDORS = Vendors.new(CLOCK)
V4 = "/certification/v4"
SIGNATURE = "ab" * 64


@pytest.fixture
def server() -> Iterator[VendorServer]:
    with serving(replace(VENDORS, edit={}, signed={})) as server:
        yield server


def client(server: VendorServer, edition: Edition = "standard") -> PcsClient:
    return PcsClient(server.https(), clock=CLOCK, edition=edition)


def test_what_it_fetches_verifies_quotes(server: VendorServer) -> None:
    bench = Bench.around(VENDORS.platform)
    sgx = client(server).get(fmspc=VENDORS.fmspc, ca="platform")
    assert bench.verify(endorsements=sgx).tcb_status == "UpToDate"
    tdx = client(server).get(fmspc=VENDORS.fmspc, ca="platform", tee="TDX")
    assert bench.verify_td(edit=lambda _: tdx).tcb_status == "UpToDate"
    assert server.requests == [
        f"/sgx{V4}/pckcrl?ca=platform&encoding=der",
        f"/sgx{V4}/rootcacrl",
        f"/sgx{V4}/tcb?fmspc={VENDORS.fmspc.upper()}&update=standard",
        f"/sgx{V4}/qe/identity?update=standard",
        f"/sgx{V4}/pckcrl?ca=platform&encoding=der",
        f"/sgx{V4}/rootcacrl",
        f"/tdx{V4}/tcb?fmspc={VENDORS.fmspc.upper()}&update=standard",
        f"/tdx{V4}/qe/identity?update=standard",
    ]


@pytest.mark.parametrize(("edition", "number"), [("standard", 17), ("early", 18), (12, 12)])
def test_asks_for_the_edition_that_is_wanted(server: VendorServer, edition: Edition, number: int) -> None:
    found = client(server, edition).get(fmspc=VENDORS.fmspc, ca="platform")
    numbers = (
        parse_tcb_info(found.tcb_info).tcb_evaluation_data_number,
        parse_qe_identity(found.qe_identity).tcb_evaluation_data_number,
    )
    assert numbers == (number, number)


def test_the_roots_list_may_lie_elsewhere_and_be_der_or_pem(server: VendorServer) -> None:
    crl = bytes.fromhex(VENDORS.platform.endorsements(now=NOW).root_ca_crl)
    for body in (crl, x509.crl_pem(crl), crl.hex().upper().encode() + b"\n"):
        server.vendors.edit["/SimulatedRoot.der"] = lambda _, body=body: Answer(body)  # type: ignore[misc]
        address = f"{server.url}/SimulatedRoot.der"
        elsewhere = Https(address, service="the list", authorities_pem=server.authority_pem)
        pcs = PcsClient(server.https(), clock=CLOCK, root_crl=elsewhere)
        assert pcs.find(RootCaCrlName()).document.content == crl.hex()
    assert set(server.requests) == {"/SimulatedRoot.der"}


def test_counts_for_how_long_a_cache_on_the_way_has_had_it(server: VendorServer) -> None:
    server.vendors.edit["/"] = lambda answer: replace(answer, headers={**answer.headers, "Age": "3600"})
    found = client(server).find(RootCaCrlName())
    assert found.fetched_at == NOW - timedelta(hours=1)


def test_what_the_server_does_not_have_is_not_found(server: VendorServer) -> None:
    with pytest.raises(NotFoundError):
        client(server).get(fmspc="0" * 12, ca="platform")
    with pytest.raises(NotFoundError, match="amd-crl"):
        client(server).find(AmdCrlName(signing_key="VCEK", product="Milan"))


@pytest.mark.parametrize(("fmspc", "ca"), [("../../../../", "platform"), ("0" * 11, "platform"), ("0" * 12, "root&x=")])
def test_nothing_else_than_families_and_cas_is_asked_for(server: VendorServer, fmspc: str, ca: str) -> None:
    with pytest.raises(FormatError):
        client(server).get(fmspc=fmspc, ca=ca)
    assert server.requests == []


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b"\xff",
        pcs_document("tcbInfo", "{}", "abc"),
        pcs_document("tcbInfo", "1", SIGNATURE),
        pcs_document("enclaveIdentity", "{}", SIGNATURE),
        pcs_document("tcbInfo", "{}", SIGNATURE)[:-1] + b',"more":1}',
        pcs_document("tcbInfo", '{"a":1,"a":2}', SIGNATURE),
    ],
)
def test_wrong_content_is_a_format_error(server: VendorServer, body: bytes) -> None:
    server.vendors.edit["/sgx"] = with_body(body)
    for name in (TcbInfoName(tee="SGX", fmspc=VENDORS.fmspc), PckCrlName(ca="platform"), RootCaCrlName()):
        with pytest.raises(FormatError):
            client(server).find(name)


@pytest.mark.parametrize(
    "chain", [None, "", "%%%", quote("-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----")]
)
def test_a_document_without_its_issuers_certificates_is_a_format_error(server: VendorServer, chain: str | None) -> None:
    def edit(answer: Answer) -> Answer:
        return replace(answer, headers={} if chain is None else dict.fromkeys(answer.headers, chain))

    server.vendors.edit["/"] = edit
    for name in (TcbInfoName(tee="SGX", fmspc=VENDORS.fmspc), QeIdentityName(tee="SGX"), PckCrlName(ca="platform")):
        with pytest.raises(FormatError):
            client(server).find(name)


def test_the_signed_text_is_cut_out_byte_for_byte() -> None:
    odd = '{ "b" :1.0,\n\t"a": "tcbInfo\\":{}", "tcbInfo": {"x":[ ]} , "é":"\\u00e9" }'
    for text in (
        f'{{"tcbInfo":{odd},"signature":"{SIGNATURE}"}}',
        f'{{ "signature" : "{SIGNATURE.upper()}" ,\n "tcbInfo" : {odd} }}',
    ):
        assert cut_member(text, "tcbInfo") == odd


def test_cuts_real_documents_out(shared: Path) -> None:
    real = parse_endorsements((shared / "vectors" / "sgx" / "sgx_quote_collateral.json").read_bytes())
    for member, text, signature in (
        ("tcbInfo", real.tcb_info, real.tcb_info_signature),
        ("enclaveIdentity", real.qe_identity, real.qe_identity_signature),
    ):
        assert cut_member(pcs_document(member, text, signature).decode(), member) == text


def test_a_member_that_is_written_with_escapes_cannot_be_cut_out() -> None:
    with pytest.raises(FormatError):
        cut_member(f'{{"tcb\\u0049nfo":{{}},"signature":"{SIGNATURE}"}}', "tcbInfo")


@given(st.text(max_size=64) | st.dictionaries(st.sampled_from(["tcbInfo", "signature"]), st.text()).map(json.dumps))
def test_any_text_is_cut_or_a_format_error(text: str) -> None:
    with contextlib.suppress(FormatError):
        cut_member(text, "tcbInfo")


def test_intels_root_says_where_its_list_is(shared: Path) -> None:
    real = parse_endorsements((shared / "vectors" / "sgx" / "sgx_quote_collateral.json").read_bytes())
    root = x509.parse_pem_chain(real.tcb_info_issuer_chain.encode())[-1]
    assert root_crl_address(root) == "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
    with pytest.raises(NotFoundError):
        root_crl_address(VENDORS.platform.root_der)
