import contextlib
import struct
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.platform import CONFIG_ID, MRENCLAVE, MRTD, Bench

from strongroom.attestation.evidence.dcap_quote import parse_header, parse_sgx_quote, parse_tdx_quote
from strongroom.attestation.evidence.sgx_report import (
    FLAG_DEBUG,
    FLAG_KSS,
    FLAG_PROVISION_KEY,
    SgxAttributes,
    parse_report_body,
)
from strongroom.attestation.evidence.td_report import TdAttributes, parse_td_report
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS

BENCH = Bench.new()
QUOTE = BENCH.quote()
TD_QUOTE = BENCH.td_quote()
TD_1_5 = {"tee_tcb_svn2": bytes(16), "mrservicetd": b"s" * 48}
TD_1_5_QUOTE = BENCH.td_quote(**TD_1_5)


@given(st.binary(max_size=128))
def test_any_bytes_parse_or_raise_format_error(quote_bytes: bytes) -> None:
    with contextlib.suppress(FormatError):
        parse_header(quote_bytes)
    with contextlib.suppress(FormatError):
        parse_report_body(quote_bytes)
    with contextlib.suppress(FormatError):
        parse_td_report(quote_bytes)
    for parse in (parse_sgx_quote, parse_tdx_quote):
        with pytest.raises(FormatError):
            parse(quote_bytes)


@given(st.sampled_from([TD_QUOTE, TD_1_5_QUOTE]), st.integers(0, 1200), st.binary(max_size=8), st.integers(0, 16))
def test_edited_td_quotes_parse_to_the_same_bytes_or_raise_format_error(
    quote: bytes, at: int, inserted: bytes, removed: int
) -> None:
    edited = quote[:at] + inserted + quote[at + removed :]
    with contextlib.suppress(FormatError):
        again = parse_tdx_quote(edited).to_bytes()
        assert edited == again + bytes(len(edited) - len(again))


@given(st.integers(0, len(QUOTE) - 1), st.binary(max_size=8), st.integers(0, 16))
def test_edited_quotes_parse_to_the_same_bytes_or_raise_format_error(at: int, inserted: bytes, removed: int) -> None:
    edited = QUOTE[:at] + inserted + QUOTE[at + removed :]
    with contextlib.suppress(FormatError):
        assert parse_sgx_quote(edited).to_bytes() == edited


def test_reads_the_vendors_fields() -> None:
    report = parse_sgx_quote(BENCH.quote(config_svn=7, isv_ext_prod_id=b"e" * 16, isv_family_id=b"f" * 16)).report
    assert (report.mrenclave, report.config_id, report.isv_prod_id, report.isv_svn) == (MRENCLAVE, CONFIG_ID, 1, 1)
    assert (report.config_svn, report.isv_ext_prod_id, report.isv_family_id) == (7, b"e" * 16, b"f" * 16)
    assert report.attributes.kss
    assert not report.attributes.debug


def test_config_id_stands_where_the_processor_writes_it() -> None:
    assert QUOTE[48 + 192 : 48 + 256] == CONFIG_ID
    assert QUOTE[48 + 64 : 48 + 96] == MRENCLAVE


@pytest.mark.parametrize("name", ["sgx_quote", "occlum_quote.dat"])
def test_real_quotes_survive(shared: Path, name: str) -> None:
    quote_bytes = (shared / "vectors" / "sgx" / name).read_bytes()
    assert parse_sgx_quote(quote_bytes).to_bytes() == quote_bytes


def test_the_occlum_quote_is_of_a_debug_enclave(shared: Path) -> None:
    report = parse_sgx_quote((shared / "vectors" / "sgx" / "occlum_quote.dat").read_bytes()).report
    assert report.attributes.flags == 0x7
    assert report.attributes.debug


@pytest.mark.parametrize("reserved", [20, 31, 96, 127, 160, 191, 262, 303])
def test_refuses_reserved_bytes_that_are_not_zero(reserved: int) -> None:
    edited = bytearray(QUOTE)
    edited[48 + reserved] = 1
    with pytest.raises(FormatError, match="reserved"):
        parse_sgx_quote(bytes(edited))


@pytest.mark.parametrize(("offset", "value"), [(0, 2), (0, 6), (2, 3), (4, 0x81), (12, 0)])
def test_refuses_other_versions_keys_tees_and_vendors(offset: int, value: int) -> None:
    edited = bytearray(QUOTE)
    edited[offset] = value
    with pytest.raises(FormatError):
        parse_sgx_quote(bytes(edited))


@pytest.mark.parametrize(
    "edit",
    [lambda quote: quote[:-1], lambda quote: quote + b"\x00", lambda quote: quote[:432]],
    ids=["cut", "longer", "no signature"],
)
def test_refuses_truncated_and_lengthened_quotes(edit: Callable[[bytes], bytes]) -> None:
    with pytest.raises(FormatError):
        parse_sgx_quote(edit(QUOTE))


def test_refuses_other_certification_data() -> None:
    edited = bytearray(QUOTE)
    kind = 436 + 64 + 64 + 384 + 64 + 2 + 32
    assert edited[kind] == 5
    edited[kind] = 1
    with pytest.raises(FormatError, match="PCK certificate chain"):
        parse_sgx_quote(bytes(edited))


@pytest.mark.parametrize("version", [3, 4, 5])
def test_reads_enclaves_in_every_version(version: int) -> None:
    quote_bytes = BENCH.platform.quote(BENCH.report(), version=version)
    quote = parse_sgx_quote(quote_bytes)
    assert quote.to_bytes() == quote_bytes
    assert (quote.header.version, quote.report) == (version, BENCH.report())
    with pytest.raises(FormatError):
        parse_tdx_quote(quote_bytes)


def test_reads_trust_domains_of_both_kinds() -> None:
    for added, version in (({}, 4), (TD_1_5, 5)):
        report = BENCH.td_report(rtmr=(b"0" * 48, b"1" * 48, b"2" * 48, b"3" * 48), mrowner=b"o" * 48, **added)
        quote = parse_tdx_quote(BENCH.platform.quote(report))
        assert (quote.header.version, quote.report) == (version, report)
    with pytest.raises(FormatError):
        parse_sgx_quote(TD_QUOTE)


def test_a_trust_domains_fields_stand_where_the_module_writes_them() -> None:
    body = TD_QUOTE[48:]
    assert body[136:184] == MRTD
    assert body[184:232] == CONFIG_ID[:48]
    assert body[123] == 0x10  # bit 28 of the attributes: SEPT_VE_DISABLE


@pytest.mark.parametrize(("name", "version"), [("tdx_quote", 4), ("tdx_quote_outdated", 5)])
def test_real_trust_domains_survive(shared: Path, name: str, version: int) -> None:
    quote_bytes = (shared / "vectors" / "tdx" / name).read_bytes()
    quote = parse_tdx_quote(quote_bytes)
    again = quote.to_bytes()
    assert quote_bytes == again + bytes(len(quote_bytes) - len(again))
    assert quote.header.version == version
    assert (quote.report.mrservicetd is None) == (version == 4)
    assert quote.report.td_attributes == TdAttributes(sept_ve_disable=True)


@pytest.mark.parametrize("bit", [1, 2, 3, 7, 8, 15, 17, 26, 32, 61])
def test_refuses_reserved_attributes_of_a_trust_domain(bit: int) -> None:
    with pytest.raises(FormatError, match="reserved bit"):
        TdAttributes.from_int(1 << bit)


@pytest.mark.parametrize("name", ["debug", "hgs_plus_prof", "perf_prof", "pmt_prof"])
def test_a_trust_domain_that_is_watched_is_under_debug(name: str) -> None:
    assert TdAttributes(**{name: True}).under_debug
    assert not TdAttributes(sept_ve_disable=True, migratable=True, perfmon=True).under_debug


def test_every_attribute_of_a_trust_domain_has_a_bit_of_its_own() -> None:
    names = [each.name for each in fields(TdAttributes)]
    values = {TdAttributes(**{name: True}).to_int() for name in names}
    assert len(values) == len(names)
    assert all(TdAttributes.from_int(value).to_int() == value for value in values)


def test_padding_behind_a_trust_domains_quote_is_zeros_only() -> None:
    assert parse_tdx_quote(TD_QUOTE + bytes(70)) == parse_tdx_quote(TD_QUOTE)
    with pytest.raises(FormatError, match="follow the end"):
        parse_tdx_quote(TD_QUOTE + bytes(70) + b"\1")


@pytest.mark.parametrize(("offset", "value"), [(8, 1), (10, 1)])
def test_refuses_reserved_bytes_of_a_newer_header(offset: int, value: int) -> None:
    edited = bytearray(TD_QUOTE)
    edited[offset] = value
    with pytest.raises(FormatError, match="reserved"):
        parse_tdx_quote(bytes(edited))


@pytest.mark.parametrize(("kind", "size"), [(1, 648), (2, 648), (4, 648), (3, 584), (3, 700)])
def test_refuses_other_body_descriptors(kind: int, size: int) -> None:
    edited = bytearray(TD_1_5_QUOTE)
    edited[48:54] = struct.pack("<HI", kind, size)
    with pytest.raises(FormatError):
        parse_tdx_quote(bytes(edited))


def test_refuses_a_newer_quote_without_the_quoting_enclaves_report() -> None:
    edited = bytearray(TD_QUOTE)
    kind = 48 + 584 + 4 + 64 + 64
    assert edited[kind] == 6
    edited[kind] = 5
    with pytest.raises(FormatError, match="quoting enclave's report"):
        parse_tdx_quote(bytes(edited))


def test_refuses_evidence_beyond_the_limits() -> None:
    with pytest.raises(LimitError):
        parse_sgx_quote(bytes(LIMITS.evidence_bytes + 1))
    with pytest.raises(LimitError):
        UnverifiedEvidence(kind="sgx", quote=bytes(LIMITS.evidence_bytes + 1), runtime_data=b"")
    with pytest.raises(LimitError):
        UnverifiedEvidence(kind="sgx", quote=b"", runtime_data=bytes(LIMITS.runtime_data_bytes + 1))


def test_attributes_name_their_flags() -> None:
    plain = SgxAttributes(flags=0, xfrm=0)
    assert (plain.debug, plain.kss, plain.provision_key) == (False, False, False)
    assert replace(plain, flags=FLAG_PROVISION_KEY).provision_key
    assert replace(plain, flags=FLAG_DEBUG).debug
    assert replace(plain, flags=FLAG_KSS).kss
