"""The auditor's single file: alone on its Python, and against the product's verifier on evidence of all kinds."""

import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cryptography
import pytest
from tests.support.platform import MRENCLAVE, NOW, Bench
from tests.support.receipts import SINGLE_FILE, single_file
from tests.support.service_processes import installation
from tests.support.tee import Runner

from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, verify_snp
from strongroom.attestation.verifier.sgx import verify_sgx_quote
from strongroom.attestation.verifier.tdx import verify_tdx_quote
from strongroom.base.errors import StrongroomError
from strongroom.crypto import x509
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.platform import TEE_TCB_SVN

ROOT = SINGLE_FILE.parents[1]
ALLOWED = {"cryptography", *sys.stdlib_module_names}


# --- alone ------------------------------------------------------------------------------------------------------------


def test_imports_nothing_but_the_standard_library_and_cryptography() -> None:
    tree = ast.parse(SINGLE_FILE.read_text("utf-8"), feature_version=(3, 9))
    modules = {
        name.partition(".")[0]
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert modules <= ALLOWED


def test_its_published_digest_is_its_own() -> None:
    page = (ROOT / "docs" / "how-to" / "audit.md").read_text("utf-8")
    assert re.findall(r"\b[0-9a-f]{64}\b", page) == [hashlib.sha256(SINGLE_FILE.read_bytes()).hexdigest()]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run's receipt and the trust file."""
    folder = tmp_path_factory.mktemp("run")
    with installation(folder) as services:
        runner = Runner(services, folder)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        runner.write(driver)
        receipt = folder / "out" / runner.finish(driver, descriptor).receipt
        trust = folder / "trust.json"
        trust.write_bytes(runner.trust().to_json())
    return receipt, trust


def alone(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the file under a Python that finds the standard library and `cryptography`, and nothing else."""
    packages = folder / "packages"
    packages.mkdir(exist_ok=True)
    site = Path(cryptography.__file__).parents[1]
    for found in [*site.glob("cryptography"), *site.glob("cffi"), *site.glob("_cffi_backend*")]:
        link = packages / found.name
        if not link.exists():
            link.symlink_to(found)
    program = (
        "import runpy, sys; sys.path.append(sys.argv.pop(1)); sys.argv.pop(0)\n"
        "try:\n    import strongroom\nexcept ImportError:\n    pass\nelse:\n    sys.exit('it is not alone')\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(packages), str(SINGLE_FILE), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=folder)


def test_verifies_a_receipt_on_its_own(run: tuple[Path, Path], tmp_path: Path) -> None:
    receipt, trust = run
    ended = alone(tmp_path, str(receipt), "--trust", str(trust))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert f"{receipt.name}: verified" in ended.stdout
    assert "protects nothing" in ended.stdout
    found = json.loads(alone(tmp_path, str(receipt), "--trust", str(trust), "--json").stdout)
    assert (found["outcome"], found["outputs"]) == ("succeeded", {"report": 1})


def test_says_what_does_not_hold_without_a_traceback(run: tuple[Path, Path], tmp_path: Path) -> None:
    receipt, trust = run
    edited = tmp_path / "edited.json"
    edited.write_bytes(receipt.read_bytes().replace(b'"exit_status":0', b'"exit_status":1'))
    ended = alone(tmp_path, str(edited), "--trust", str(trust))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "edited.json: DOES NOT HOLD: a signature does not hold\n"
    assert alone(tmp_path, str(receipt), "--trust", str(trust), "--min-witnesses", "1").returncode == 1
    assert alone(tmp_path, str(tmp_path / "nothing"), "--trust", str(trust)).returncode == 2


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff", b"null", b"{" * 100_000, b'{"body":1,"body":2}'])
def test_refuses_what_is_no_receipt(run: tuple[Path, Path], content: bytes) -> None:
    receipt, trust = run
    for receipt_bytes, trust_bytes in ((content, trust.read_bytes()), (receipt.read_bytes(), content)):
        with pytest.raises(single_file.DoesNotHoldError):
            single_file.verify(receipt_bytes, trust_bytes)


# --- the same verdict on evidence -------------------------------------------------------------------------------------


def trust_of(root_der: bytes, *, simulated: bool) -> dict[str, Any]:
    return {"roots": [{"certificate_pem": x509.to_pem(root_der), "simulated": simulated}]}


class Dcap:
    """A quote with its endorsements, and the verdicts of both verifiers."""

    def __init__(self, kind: str, quote: bytes, endorsements: DcapEndorsements, root: bytes, now: datetime) -> None:
        self.kind, self.quote, self.endorsements, self.now = kind, quote, endorsements, now
        simulated = x509.extension(root, single_file.SIMULATED_HARDWARE) is not None
        self.roots = TrustedRoots(roots=(TrustedRoot(certificate_der=root, simulated=simulated),))
        self.trust = trust_of(root, simulated=simulated)

    def ours(self, quote: bytes, endorsements: bytes, now: datetime) -> bool:
        verify = verify_sgx_quote if self.kind == "sgx" else verify_tdx_quote
        try:
            verify(quote, trusted_roots=self.roots, endorsements=parse_endorsements(endorsements), now=now)
        except StrongroomError:
            return False
        return True

    def theirs(self, quote: bytes, endorsements: bytes, now: datetime) -> bool:
        try:
            parsed = single_file.parse_json(endorsements)
            single_file.read(parsed, single_file.DCAP_ENDORSEMENTS, "endorsements")
            single_file.verify_quote(self.kind, quote, endorsements=parsed, trust=self.trust, now=now)
        except (single_file.DoesNotHoldError, *single_file.MALFORMED):
            return False
        return True

    def agree(self, quote: bytes | None = None, endorsements: bytes | None = None, now: datetime | None = None) -> bool:
        asked = (quote or self.quote, endorsements or self.endorsements.to_json(), now or self.now)
        verdict = self.ours(*asked)
        assert self.theirs(*asked) == verdict
        return verdict


def simulated(kind: str, **report: Any) -> Dcap:
    bench = Bench.new()
    quote = bench.quote(**report) if kind == "sgx" else bench.td_quote(**report)
    endorsements = bench.platform.endorsements(now=NOW, tee="SGX" if kind == "sgx" else "TDX")
    return Dcap(kind, quote, endorsements, bench.platform.root_der, NOW)


def real(shared: Path, name: str) -> Dcap:
    file = shared / "vectors" / name
    endorsements = parse_endorsements(file.with_name(f"{file.name}_collateral.json").read_bytes())
    root = x509.parse_pem_chain(endorsements.tcb_info_issuer_chain.encode())[-1]
    issued = datetime.fromisoformat(json.loads(endorsements.tcb_info)["issueDate"])
    return Dcap(name[:3], file.read_bytes(), endorsements, root, issued + timedelta(days=1))


SIMULATED: dict[str, Callable[[], Dcap]] = {
    "SGX": lambda: simulated("sgx", mrenclave=MRENCLAVE),
    "TDX": lambda: simulated("tdx"),
    "TDX 1.5": lambda: simulated("tdx", tee_tcb_svn2=TEE_TCB_SVN, mrservicetd=bytes(48)),
}


@pytest.mark.parametrize("name", SIMULATED)
def test_comes_to_the_same_verdict_on_every_edit_of_a_quote(name: str) -> None:
    case = SIMULATED[name]()
    assert case.agree()
    for position in range(0, len(case.quote), 23):
        edited = bytearray(case.quote)
        edited[position] ^= 0x01
        case.agree(quote=bytes(edited))
    for end in (0, 47, 48, 432, 1000, len(case.quote) - 1):
        case.agree(quote=case.quote[:end] or b"\0")
    case.agree(quote=case.quote + b"\0")
    case.agree(quote=case.quote + b"\1")


@pytest.mark.parametrize("name", SIMULATED)
def test_comes_to_the_same_verdict_on_every_edit_of_endorsements(name: str) -> None:
    case = SIMULATED[name]()
    good = case.endorsements.to_json()
    for position in range(0, len(good), 97):
        edited = bytearray(good)
        edited[position] ^= 0x01
        case.agree(endorsements=bytes(edited))


@pytest.mark.parametrize("days", [-10_000, -40, -1, 0, 1, 20, 40, 400, 10_000])
@pytest.mark.parametrize("name", SIMULATED)
def test_comes_to_the_same_verdict_at_any_time(name: str, days: int) -> None:
    SIMULATED[name]().agree(now=NOW + timedelta(days=days))


@pytest.mark.parametrize(
    "condition",
    [
        {"tcb_status": status}
        for status in ("UpToDate", "SWHardeningNeeded", "ConfigurationNeeded", "OutOfDate", "Revoked")
    ]
    + [{"pck_revoked": True}],
)
@pytest.mark.parametrize("kind", ["sgx", "tdx"])
def test_comes_to_the_same_verdict_whatever_the_vendor_says(kind: str, condition: dict[str, Any]) -> None:
    bench = Bench.new(**condition)
    quote = bench.quote() if kind == "sgx" else bench.td_quote()
    endorsements = bench.platform.endorsements(now=NOW, tee="SGX" if kind == "sgx" else "TDX")
    case = Dcap(kind, quote, endorsements, bench.platform.root_der, NOW)
    assert case.agree() == ("evoked" not in str(condition))


def test_refuses_a_simulated_root_that_the_trust_file_calls_real() -> None:
    case = SIMULATED["SGX"]()
    case.trust["roots"][0]["simulated"] = False
    assert not case.theirs(case.quote, case.endorsements.to_json(), NOW)


@pytest.mark.parametrize("name", ["sgx/sgx_quote", "tdx/tdx_quote", "tdx/tdx_quote_outdated"])
def test_comes_to_the_same_verdict_on_real_hardware(shared: Path, name: str) -> None:
    case = real(shared, name)
    verdict = case.agree()
    edited = bytearray(case.quote)
    edited[100] ^= 1
    assert not case.agree(quote=bytes(edited))
    case.agree(now=case.now + timedelta(days=4000))
    assert verdict or "outdated" in name


class Snp:
    """A report with its chain and list, and the verdicts of both verifiers."""

    def __init__(self, report: bytes, chain: str, crl: bytes, root: bytes, now: datetime) -> None:
        self.report, self.chain, self.crl, self.now = report, chain, crl, now
        marked = x509.extension(root, single_file.SIMULATED_HARDWARE) is not None
        self.roots = TrustedRoots(roots=(TrustedRoot(certificate_der=root, simulated=marked),))
        self.trust = trust_of(root, simulated=marked)

    def agree(self, report: bytes | None = None, *, crl: bytes | None = None, now: datetime | None = None) -> bool:
        asked, listed, moment = report or self.report, crl or self.crl, now or self.now
        endorsements = SnpEndorsements(certificate_chain=self.chain, crl=listed.hex())
        evidence = UnverifiedEvidence(kind="snp", quote=asked, runtime_data=None, certificate_chain=self.chain)
        try:
            verify_snp(evidence, trusted_roots=self.roots, endorsements=endorsements, now=moment)
        except StrongroomError:
            ours = False
        else:
            ours = True
        try:
            single_file.verify_snp(asked, self.chain, crl=listed, trust=self.trust, now=moment)
        except (single_file.DoesNotHoldError, *single_file.MALFORMED):
            theirs = False
        else:
            theirs = True
        assert ours == theirs
        return ours


@pytest.fixture(params=["Milan", "Genoa", "Turin"])
def amd(request: pytest.FixtureRequest) -> SimulatedAmd:
    return SimulatedAmd.create(request.param, now=NOW, rsa_bits=2048)


def snp_case(amd: SimulatedAmd, kind: Any = "VCEK", **changed: Any) -> Snp:
    report = amd.sign(replace(amd.report(report_data=bytes(64)), **changed))
    crl = bytes.fromhex(amd.endorsements(now=NOW).crl)
    return Snp(report, amd.certificate_chain(kind), crl, amd.root_der, NOW)


def test_comes_to_the_same_verdict_on_every_edit_of_an_snp_report(amd: SimulatedAmd) -> None:
    case = snp_case(amd)
    assert case.agree()
    for position in range(0, len(case.report), 11):
        edited = bytearray(case.report)
        edited[position] ^= 0x01
        case.agree(bytes(edited))
    for position in range(0, len(case.crl), 17):
        listed = bytearray(case.crl)
        listed[position] ^= 0x01
        case.agree(crl=bytes(listed))
    for days in (-10_000, -1, 1, 400, 20_000):
        case.agree(now=NOW + timedelta(days=days))
