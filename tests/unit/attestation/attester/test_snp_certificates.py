import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.amd import amd_bench
from tests.support.devices import certificate_table, chip_certificates, pem_chain, table_entry

from strongroom.attestation.attester.snp_certificates import certificate_chain, read_certificate_table
from strongroom.base.errors import FormatError
from strongroom.crypto import x509

CHIP = chip_certificates()
CERTIFICATES = amd_bench().amd.certificates
OTHER = "92f81bc3-5811-4d3d-97ff-d19f88dc67ea"


def test_the_chain_begins_with_the_key_that_signed() -> None:
    every = {"ARK": CHIP["ARK"], "VLEK": CERTIFICATES["VLEK"], "ASK": CHIP["ASK"], "VCEK": CHIP["VCEK"]}
    table = certificate_table(every)
    assert certificate_chain(table, signing_key="VCEK") == pem_chain(CHIP["VCEK"], CHIP["ASK"], CHIP["ARK"])
    assert certificate_chain(table, signing_key="VLEK") == pem_chain(CERTIFICATES["VLEK"], CHIP["ASK"], CHIP["ARK"])


def test_certificates_may_be_stored_as_pem() -> None:
    table = certificate_table({name: x509.to_pem(der).encode() for name, der in CHIP.items()})
    assert certificate_chain(table, signing_key="VCEK") == pem_chain(*CHIP.values())


@pytest.mark.parametrize("table", [b"", bytes(24), bytes(4096), certificate_table({})])
def test_a_host_without_certificates_gives_no_chain(table: bytes) -> None:
    assert certificate_chain(table, signing_key="VCEK") is None


def test_a_host_without_the_signing_keys_certificate_gives_no_chain() -> None:
    table = certificate_table({"ASK": CHIP["ASK"], "ARK": CHIP["ARK"]})
    assert certificate_chain(table, signing_key="VCEK") is None
    assert certificate_chain(certificate_table(CHIP), signing_key="VLEK") is None
    assert certificate_chain(certificate_table(CHIP), signing_key="none") is None


def test_a_chain_may_be_the_leaf_alone() -> None:
    table = certificate_table({"VLEK": CERTIFICATES["VLEK"]})
    assert certificate_chain(table, signing_key="VLEK") == pem_chain(CERTIFICATES["VLEK"])


def test_other_entries_are_left_out() -> None:
    table = certificate_table({OTHER: b"a revocation list", **CHIP})
    assert set(read_certificate_table(table)) == {"VCEK", "ASK", "ARK"}


BODY = bytes(range(100))


@pytest.mark.parametrize(
    "table",
    [
        table_entry("VCEK", 48, 101) + bytes(24) + BODY,
        table_entry("VCEK", 148, 1) + bytes(24) + BODY,
        table_entry("VCEK", 0xFFFFFFFF, 0xFFFFFFFF) + bytes(24) + BODY,
        table_entry("VCEK", 47, 10) + bytes(24) + BODY,
        table_entry("VCEK", 0, 24) + bytes(24) + BODY,
        table_entry("VCEK", 48, 0) + bytes(24) + BODY,
        table_entry("VCEK", 72, 51) + table_entry("ASK", 122, 50) + bytes(24) + BODY,
        table_entry("VCEK", 72, 50) + table_entry("ASK", 72, 50) + bytes(24) + BODY,
        table_entry("VCEK", 72, 50) + table_entry(OTHER, 73, 1) + bytes(24) + BODY,
        table_entry("VCEK", 72, 50) + table_entry("VCEK", 122, 50) + bytes(24) + BODY,
        table_entry("VCEK", 24, 100) + BODY,
        table_entry("VCEK", 24, 1),
        bytes(16) + b"\x01" + bytes(7) + BODY,
        bytes(23),
        table_entry("VCEK", 48, 10)[:20],
    ],
    ids=[
        "too-long",
        "behind-the-end",
        "sum-overflows",
        "in-the-entries",
        "at-the-start",
        "empty",
        "overlap-by-one",
        "same-place",
        "unknown-overlaps",
        "twice",
        "no-end",
        "one-entry",
        "no-name",
        "short",
        "half-an-entry",
    ],
)
def test_a_malformed_table_is_a_format_error(table: bytes) -> None:
    with pytest.raises(FormatError):
        read_certificate_table(table)


@pytest.mark.parametrize("certificate", [b"no certificate", b"-----BEGIN CERTIFICATE-----\nAA\n", CHIP["VCEK"][:-1]])
def test_a_malformed_certificate_is_a_format_error(certificate: bytes) -> None:
    with pytest.raises(FormatError):
        certificate_chain(certificate_table({**CHIP, "VCEK": certificate}), signing_key="VCEK")


@given(st.binary(max_size=256))
def test_any_bytes_are_a_table_or_a_format_error(table: bytes) -> None:
    with contextlib.suppress(FormatError):
        certificate_chain(table, signing_key="VCEK")


@given(
    st.lists(
        st.tuples(st.sampled_from(["VCEK", "VLEK", "ASK", "ARK", OTHER]), st.integers(0, 400), st.integers(0, 400)),
        max_size=5,
    )
)
def test_what_is_read_lies_apart_within_the_table(entries: list[tuple[str, int, int]]) -> None:
    table = b"".join(table_entry(*entry) for entry in entries) + bytes(24) + bytes(200)
    with contextlib.suppress(FormatError):
        found = read_certificate_table(table)
        assert sum(map(len, found.values())) <= 200
