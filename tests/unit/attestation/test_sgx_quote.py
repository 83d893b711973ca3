import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.platform import CONFIG_ID, MRENCLAVE, Bench

from strongroom.attestation.evidence import sgx_quote
from strongroom.attestation.evidence.sgx_quote import FLAG_DEBUG, FLAG_KSS, SgxAttributes, parse_sgx_quote
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import FormatError, LimitError
from strongroom.base.limits import LIMITS

BENCH = Bench.new()
QUOTE = BENCH.quote()


@given(st.binary(max_size=128))
def test_any_bytes_parse_or_raise_format_error(quote_bytes: bytes) -> None:
    with contextlib.suppress(FormatError):
        sgx_quote.parse_header(quote_bytes)
    with contextlib.suppress(FormatError):
        sgx_quote.parse_report_body(quote_bytes)
    with pytest.raises(FormatError):
        parse_sgx_quote(quote_bytes)


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


@pytest.mark.parametrize(("offset", "value"), [(0, 4), (0, 5), (2, 3), (4, 0x81), (12, 0)])
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


def test_refuses_evidence_beyond_the_limits() -> None:
    with pytest.raises(LimitError):
        parse_sgx_quote(bytes(LIMITS.evidence_bytes + 1))
    with pytest.raises(LimitError):
        UnverifiedEvidence(kind="sgx", quote=bytes(LIMITS.evidence_bytes + 1), runtime_data=b"")
    with pytest.raises(LimitError):
        UnverifiedEvidence(kind="sgx", quote=b"", runtime_data=bytes(LIMITS.runtime_data_bytes + 1))


def test_attributes_name_their_flags() -> None:
    plain = SgxAttributes(flags=0, xfrm=0)
    assert (plain.debug, plain.kss) == (False, False)
    assert replace(plain, flags=FLAG_DEBUG).debug
    assert replace(plain, flags=FLAG_KSS).kss
