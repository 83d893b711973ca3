from pathlib import Path

import pytest
from tests.support.amd import amd_bench
from tests.support.platform import NOW, RUNTIME_DATA, Bench

from strongroom.attestation.endorsements.dcap import DirectoryEndorsements
from strongroom.attestation.endorsements.platforms import find_endorsements, platform_of
from strongroom.attestation.endorsements.snp import DirectoryRevocations
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.base.errors import FormatError, NotFoundError
from strongroom.crypto.x509 import spki_sha256
from strongroom.wire.model import TEE_KINDS, TeeKind

BENCH = Bench.new()
AMD = amd_bench().amd
FAMILY = BENCH.platform.fmspc.hex()
EVIDENCE = {
    "sgx": UnverifiedEvidence(kind="sgx", quote=BENCH.quote(), runtime_data=RUNTIME_DATA),
    "tdx": UnverifiedEvidence(kind="tdx", quote=BENCH.td_quote(), runtime_data=RUNTIME_DATA),
    "snp": UnverifiedEvidence(
        kind="snp", quote=b"", runtime_data=RUNTIME_DATA, certificate_chain=AMD.certificate_chain("VCEK")
    ),
}
NAMES = {
    "sgx": f"sgx.{FAMILY}.platform",
    "tdx": f"tdx.{FAMILY}.platform",
    "snp": f"snp.{spki_sha256(AMD.root_der)}",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for suffix, tee in (("", "SGX"), ("-tdx", "TDX")):
        endorsements = BENCH.platform.endorsements(now=NOW, tee="SGX" if tee == "SGX" else "TDX")
        (tmp_path / f"{FAMILY}{suffix}.json").write_bytes(endorsements.to_json())
    (tmp_path / f"{spki_sha256(AMD.root_der)}.crl").write_bytes(b"a list")
    return tmp_path


def find(folder: Path, platform: str, *roots_der: bytes) -> str:
    return find_endorsements(
        platform,
        dcap=DirectoryEndorsements(folder),
        revocations=DirectoryRevocations(folder),
        roots_der=roots_der or (BENCH.platform.root_der, AMD.root_der),
    )


@pytest.mark.parametrize("kind", TEE_KINDS)
def test_evidence_names_its_platform(kind: TeeKind) -> None:
    assert platform_of(EVIDENCE[kind]) == NAMES[kind]


def test_endorsements_are_found_by_the_platforms_name(folder: Path) -> None:
    assert '"id\\": \\"SGX' in find(folder, NAMES["sgx"])
    assert '"id\\": \\"TDX' in find(folder, NAMES["tdx"])
    assert bytes.fromhex(find(folder, NAMES["snp"])) == b"a list"


def test_revocation_lists_of_roots_that_are_not_trusted_are_not_served(folder: Path) -> None:
    with pytest.raises(NotFoundError, match="not trusted"):
        find(folder, NAMES["snp"], BENCH.platform.root_der)


@pytest.mark.parametrize(
    "platform",
    [
        "",
        "sgx",
        "sgx.00a067110000",
        "sev.00a067110000.platform",
        "sgx.00a067110000.other",
        "snp.",
        "snp.../x",
        "sgx.../.platform",
    ],
)
def test_another_name_is_a_format_error(folder: Path, platform: str) -> None:
    for name in (platform, platform + "\n"):
        with pytest.raises(FormatError):
            find(folder, name)


def test_a_report_without_certificates_or_with_malformed_ones_has_no_platform() -> None:
    for chain in (None, "", "no certificates", "\u00e9"):
        evidence = UnverifiedEvidence(kind="snp", quote=b"", runtime_data=b"", certificate_chain=chain)
        with pytest.raises(FormatError):
            platform_of(evidence)
