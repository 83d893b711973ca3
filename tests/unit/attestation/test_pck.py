from pathlib import Path

import pytest
from tests.support.platform import Bench

from strongroom.attestation.evidence.dcap_quote import parse_sgx_quote
from strongroom.attestation.evidence.pck import (
    PlatformKind,
    authority_kind,
    parse_pck_extension,
    pck_chain,
    platform_kind,
)
from strongroom.base.errors import FormatError
from strongroom.simulation.platform import CPUSVN, PCESVN

BENCH = Bench.new()


def test_reads_the_simulated_platforms_extension() -> None:
    pck = parse_pck_extension(BENCH.platform.certificates["pck"])
    assert (pck.fmspc, pck.ppid) == (BENCH.platform.fmspc.hex(), BENCH.platform.ppid)
    assert (pck.tcb_components, pck.pce_svn, pck.pceid) == (tuple(CPUSVN), PCESVN, "0000")
    assert pck.platform_instance_id is not None


def test_reads_a_real_platforms_extension(shared: Path) -> None:
    quote = parse_sgx_quote((shared / "vectors" / "sgx" / "sgx_quote").read_bytes())
    assert platform_kind(quote) == PlatformKind(fmspc="00a067110000", ca="processor")
    pck = parse_pck_extension(pck_chain(quote)[0])
    assert pck.tcb_components == (11, 11, 2, 2, 255, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
    assert (pck.pce_svn, pck.platform_instance_id) == (13, None)
    assert pck.ppid.hex() == "d04ec06d4e6d92dc90d0ad3cf5ee2ddf"


def test_tells_which_endorsements_a_quote_needs() -> None:
    kind = platform_kind(parse_sgx_quote(BENCH.quote()))
    assert kind == PlatformKind(fmspc=BENCH.platform.fmspc.hex(), ca="platform")


@pytest.mark.parametrize("role", ["root", "pck-ca", "tcb-signing"])
def test_other_certificates_have_no_extension(role: str) -> None:
    with pytest.raises(FormatError, match="not a PCK certificate"):
        parse_pck_extension(BENCH.platform.certificates[role])


def test_other_certificates_are_no_pck_authority() -> None:
    with pytest.raises(FormatError):
        authority_kind(BENCH.platform.certificates["tcb-signing"])
