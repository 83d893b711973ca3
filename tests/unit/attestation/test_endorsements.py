import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.platform import Bench

from strongroom.attestation.endorsements.dcap import DirectoryEndorsements, parse_endorsements
from strongroom.attestation.endorsements.tcb import parse_qe_identity, parse_tcb_info
from strongroom.base.errors import FormatError, NotFoundError

BENCH = Bench.new()
FMSPC = BENCH.platform.fmspc.hex()


@given(st.binary(max_size=64))
def test_any_bytes_parse_or_raise_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_endorsements(data)


@given(st.text(max_size=64) | st.dictionaries(st.text(max_size=4), st.integers()).map(json.dumps))
def test_any_text_is_a_vendors_document_or_a_format_error(text: str) -> None:
    for parse in (parse_tcb_info, parse_qe_identity):
        with contextlib.suppress(FormatError):
            parse(text)


def test_hexadecimal_fields_have_no_line_break_at_their_end() -> None:
    document = json.loads(BENCH.endorsements.tcb_info)
    for field in ("fmspc", "pceId"):
        with pytest.raises(FormatError, match=field):
            parse_tcb_info(json.dumps(document | {field: document[field] + "\n"}))


def test_reads_real_endorsements(shared: Path) -> None:
    found = parse_endorsements((shared / "vectors" / "sgx" / "sgx_quote_collateral.json").read_bytes())
    assert parse_endorsements(found.to_json()) == found
    tcb_info, qe_identity = parse_tcb_info(found.tcb_info), parse_qe_identity(found.qe_identity)
    assert (tcb_info.fmspc, tcb_info.tcb_evaluation_data_number, len(tcb_info.tcb_levels)) == ("00A067110000", 17, 11)
    assert [level.tcb.isvsvn for level in qe_identity.tcb_levels] == [8, 6, 5, 4, 2, 1]


def test_refuses_missing_and_unknown_documents() -> None:
    whole = json.loads(BENCH.endorsements.to_json())
    for broken in ({**whole, "extra": ""}, {key: whole[key] for key in list(whole)[1:]}, {**whole, "tcb_info": 1}):
        with pytest.raises(FormatError):
            parse_endorsements(json.dumps(broken).encode())


@pytest.mark.parametrize(
    ("name", "value"),
    [("version", 2), ("id", "SEV"), ("tcbLevels", []), ("fmspc", "zz"), ("unknown", 1), ("nextUpdate", "soon")],
)
def test_refuses_tcb_infos_that_are_not_understood(name: str, value: object) -> None:
    document = json.loads(BENCH.endorsements.tcb_info)
    parse_tcb_info(json.dumps(document))
    with pytest.raises(FormatError):
        parse_tcb_info(json.dumps({**document, name: value}))


@pytest.fixture
def source(tmp_path: Path) -> DirectoryEndorsements:
    (tmp_path / f"{FMSPC}.json").write_bytes(BENCH.endorsements.to_json())
    return DirectoryEndorsements(tmp_path)


def test_a_directory_gives_what_was_written(source: DirectoryEndorsements) -> None:
    assert source.get(fmspc=FMSPC, ca="platform") == BENCH.endorsements


def test_a_directory_is_read_anew_when_a_file_changes(source: DirectoryEndorsements, tmp_path: Path) -> None:
    source.get(fmspc=FMSPC, ca="platform")
    changed = BENCH.endorsements.model_copy(update={"tcb_info_signature": "00"})
    draft = tmp_path / "draft"
    draft.write_bytes(changed.to_json())
    draft.replace(tmp_path / f"{FMSPC}.json")
    assert source.get(fmspc=FMSPC, ca="platform") == changed


def test_a_directory_has_nothing_of_another_family_or_ca(source: DirectoryEndorsements) -> None:
    for fmspc, ca in (("0" * 12, "platform"), (FMSPC, "processor")):
        with pytest.raises(NotFoundError):
            source.get(fmspc=fmspc, ca=ca)


@pytest.mark.parametrize(
    "fmspc", ["../" * 4, "", FMSPC.upper() + "A", "x" * 12], ids=["dots", "empty", "long", "letters"]
)
def test_a_family_is_never_a_path(source: DirectoryEndorsements, fmspc: str) -> None:
    with pytest.raises(FormatError):
        source.get(fmspc=fmspc, ca="platform")


def test_a_malformed_file_is_a_format_error(source: DirectoryEndorsements, tmp_path: Path) -> None:
    (tmp_path / f"{FMSPC}.json").write_text("{}")
    with pytest.raises(FormatError):
        source.get(fmspc=FMSPC, ca="platform")
