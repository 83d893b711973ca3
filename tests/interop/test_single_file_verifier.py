"""The auditor's single file: alone on its Python, and against the product's verifier on evidence of all kinds."""

import ast
import contextlib
import functools
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import cryptography
import pytest
from tests.support.azure_attestation import AzureInstallation, AzureRunner, azure_attested
from tests.support.azure_node import SimulatedVtpm
from tests.support.platform import MRENCLAVE, NOW, Bench
from tests.support.receipts import SINGLE_FILE, single_file, verify_by_both
from tests.support.service_processes import installation
from tests.support.tee import Runner
from tests.support.vault_releases import VaultRunner, vault_installation

from strongroom.agent import member as agent
from strongroom.attestation.attester.azure_vtpm import AzureVtpmDevice
from strongroom.attestation.endorsements.dcap import DcapEndorsements, parse_endorsements
from strongroom.attestation.endorsements.snp import SnpEndorsements
from strongroom.attestation.evidence.azure_vtpm import azure_vm_of
from strongroom.attestation.evidence.fields import read_fields
from strongroom.attestation.evidence.initdata import launch_value_of, render_initdata, verify_initdata
from strongroom.attestation.evidence.unverified import UnverifiedEvidence
from strongroom.attestation.verifier import TrustedRoot, TrustedRoots, verify_azure_vm, verify_snp
from strongroom.attestation.verifier.sgx import verify_sgx_quote
from strongroom.attestation.verifier.tdx import verify_tdx_quote
from strongroom.base.encoding import canonical_json, from_b64url, to_b64url
from strongroom.base.errors import FormatError, StrongroomError
from strongroom.crypto import x509
from strongroom.crypto.keys import SigningKey
from strongroom.receipts.build import evidence_of
from strongroom.receipts.statement import sign_statement
from strongroom.simulation.amd import SimulatedAmd
from strongroom.simulation.azure_vm import SimulatedAzureVm
from strongroom.simulation.platform import TEE_TCB_SVN
from strongroom.wire.model import VirtualTeeKind
from strongroom.wire.receipt import RECEIPT_CONTEXT
from strongroom.wire.trust import Trust

ROOT = SINGLE_FILE.parents[1]
ALLOWED = {"cryptography", *sys.stdlib_module_names}
DRIVERS_WORD = re.compile(
    r"exit_status|log_digest|started_at|finished_at|version|input_proofs|outputs\.report\.(files|size_bytes)"
    r"|vaults\.[0-9a-f]{64}\.(policy|policy_immutable|version_keys\.trips.*|member\.evidence\.certificate_chain)"
)
"""What a receipt over a key in a vault says on the driver's word alone. The chain is none, of an enclave."""


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


# --- runs over keys in vaults ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class VaultRun:
    """A finished run over a vault's key.

    Attributes:
        driver: The key that the driver's TEE signed with.
    """

    receipt: bytes
    trust: Trust
    driver: SigningKey

    def told(self, body: Any) -> bytes:
        """The receipt with another body, which the driver's own TEE signs, its statement for other tools as well."""
        content = canonical_json(body)
        parsed = json.loads(self.receipt)
        envelope = parsed["attestation"]
        with contextlib.suppress(*single_file.MALFORMED, single_file.DoesNotHoldError):
            statement = single_file.statement_of(body, hashlib.sha256(content).hexdigest())
            envelope = sign_statement(canonical_json(statement), key=self.driver).model_dump(mode="json")
        signature = to_b64url(self.driver.sign(RECEIPT_CONTEXT + content))
        return canonical_json({**parsed, "body": body, "signature": signature, "attestation": envelope})


@pytest.fixture(scope="module", params=["a service of ours", "Azure Attestation", "both kinds of keepers"])
def vault_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VaultRun:
    folder, runs = tmp_path_factory.mktemp("vault"), tmp_path_factory.mktemp("runs")
    of_azure = request.param == "Azure Attestation"
    with azure_attested(folder) if of_azure else vault_installation(folder) as services:
        runner = (
            AzureRunner(services, runs)
            if isinstance(services, AzureInstallation)
            else VaultRunner(services, runs, mixed=request.param == "both kinds of keepers")
        )
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        runner.write(driver)
        kept = runner.finish(driver, descriptor)
        receipt = (runs / "out" / kept.receipt).read_bytes()
        return VaultRun(receipt=receipt, trust=runner.trust(), driver=driver.signing_key)


def test_verifies_runs_over_vaults_on_its_own(vault_run: VaultRun, tmp_path: Path) -> None:
    (tmp_path / "receipt.json").write_bytes(vault_run.receipt)
    (tmp_path / "trust.json").write_bytes(vault_run.trust.to_json())
    ended = alone(tmp_path, str(tmp_path / "receipt.json"), "--trust", str(tmp_path / "trust.json"))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "nobody counted" in ended.stdout
    assert "azure-managed-hsm" in ended.stdout
    assert vault_run.trust.azure_attestation == () or vault_run.trust.azure_attestation[0].url in ended.stdout
    verify_by_both(vault_run.receipt, trust=vault_run.trust)
    verify_by_both(vault_run.told(json.loads(vault_run.receipt)["body"]), trust=vault_run.trust)


def test_both_refuse_every_edit_of_a_receipt_over_a_vault(vault_run: VaultRun) -> None:
    step = max(1, len(vault_run.receipt) // 120)
    for position in range(0, len(vault_run.receipt), step):
        edited = bytearray(vault_run.receipt)
        edited[position] ^= 0x01
        with pytest.raises(StrongroomError):
            verify_by_both(bytes(edited), trust=vault_run.trust)


def paths(value: Any, *place: Any) -> Iterator[tuple[Any, ...]]:
    """Yield where each value of parsed JSON stands."""
    if place:
        yield place
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from paths(value[name], *place, name)


def others(value: Any) -> Iterator[Any]:
    """Yield values to put in the place of one."""
    match value:
        case bool():
            yield not value
        case int():
            yield value + 1
        case str():
            middle = len(value) // 2
            yield f"{value[:middle]}{'0' if value[middle : middle + 1] != '0' else '1'}{value[middle + 1 :]}"
            yield ""
        case list() | dict():
            yield type(value)()
    yield None


def with_value(body: Any, place: Sequence[Any], value: Any) -> Any:
    copy = json.loads(json.dumps(body))
    parent = functools.reduce(lambda found, name: found[name], place[:-1], copy)
    if value is Ellipsis:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    return copy


def test_comes_to_the_same_verdict_on_whatever_a_driver_tells_of_a_run_over_a_vault(vault_run: VaultRun) -> None:
    """The driver signs each story itself; what nobody else pins is the driver's word, and nothing more."""
    body = json.loads(vault_run.receipt)["body"]
    verdicts: dict[bool, set[str]] = {True: set(), False: set()}
    for place in paths(body):
        if body["records"] and place[0] != "vaults":
            continue  # tests/attacks/test_receipt.py
        value = functools.reduce(lambda found, name: found[name], place, body)
        for other in (*others(value), Ellipsis):
            told = with_value(body, place, other)
            if told == body:
                continue
            try:
                verify_by_both(vault_run.told(told), trust=vault_run.trust)
            except StrongroomError:
                verdicts[False].add(".".join(map(str, place)))
            else:
                verdicts[True].add(".".join(map(str, place)))
    if body["records"]:  # the key service logged the body's digest
        assert verdicts[True] == set()
    else:
        assert [name for name in verdicts[True] if not DRIVERS_WORD.fullmatch(name)] == []
    assert len(verdicts[False]) > 20


def test_both_refuse_the_keys_of_two_attestation_services_or_of_none(vault_run: VaultRun) -> None:
    body = json.loads(vault_run.receipt)["body"]
    ours, azures = body.pop("attestation_certificates", []), body.pop("attestation_keys", {})
    certificates = [*ours, *azures.values()]
    for keys in (
        {"attestation_certificates": ours or certificates * 2, "attestation_keys": azures or {"a": certificates[0]}},
        {"attestation_certificates": certificates[:1]},
        {"attestation_certificates": [], "attestation_keys": {}},
        {},
    ):
        with pytest.raises(FormatError, match="one attestation service"):
            verify_by_both(vault_run.told({**body, **keys}), trust=vault_run.trust)


ANCHORS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "other owners": lambda trust: {**trust, "owners": ["ab" * 32]},
    "other hardware": lambda trust: {**trust, "hardware": "real"},
    "other agents": lambda trust: {**trust, "agent_measurements": ["ab" * 32]},
    "no roots": lambda trust: {**trust, "roots": []},
    "no services": lambda trust: {**trust, "services": []},
    "no providers": lambda trust: {**trust, "azure_attestation": []},
    "a provider twice": lambda trust: {**trust, "azure_attestation": trust["azure_attestation"] * 2},
    "other keys of providers": lambda trust: {
        **trust,
        "azure_attestation": [{**each, "certificates": ["ab" * 32]} for each in trust["azure_attestation"]],
    },
}


@pytest.mark.parametrize("changed", ANCHORS)
def test_comes_to_the_same_verdict_with_other_anchors(vault_run: VaultRun, changed: str) -> None:
    anchors = json.loads(vault_run.trust.to_json())
    edited = json.dumps(ANCHORS[changed](anchors)).encode()
    needed = json.loads(edited) != anchors
    try:
        trust = Trust.from_json(edited)
    except StrongroomError:
        with pytest.raises(single_file.DoesNotHoldError):
            single_file.verify(vault_run.receipt, edited)
        return
    with pytest.raises(StrongroomError) if needed else contextlib.nullcontext():
        verify_by_both(vault_run.receipt, trust=trust)


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


# --- pods' initdata and confidential VMs' vTPMs -----------------------------------------------------------------------

IMAGE_LINE = 'strongroom_image := "registry.example:5000/strongroom/spark@sha256:' + "c3" * 32 + '"\n'
INITDATA = render_initdata(
    {"policy.rego": f"package agent_policy\n{IMAGE_LINE}default AllowRequests := false\n", "cdh.toml": "x = '1'\n"},
    application="a1" * 32,
)


def initdata_verdict(document: bytes, *, kind: VirtualTeeKind = "snp", launched_with: bytes | None = None) -> bool:
    """Have both read what a TEE was launched with, or was not."""
    size = 48 if kind == "tdx" else 32
    fixed = hashlib.sha256(document).digest().ljust(size, b"\0") if launched_with is None else launched_with
    try:
        found = verify_initdata(document, kind=kind, launched_with=fixed)
    except StrongroomError:
        ours: object = None
    else:
        ours = {name: getattr(found, name) for name in ("application", "configuration", "template", "image")}
    try:
        theirs = single_file.read_initdata(document, kind, fixed.hex())
    except (single_file.DoesNotHoldError, *single_file.MALFORMED):
        theirs = None
    assert ours == theirs
    return ours is not None


@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_comes_to_the_same_verdict_on_every_edit_of_initdata(kind: VirtualTeeKind) -> None:
    assert initdata_verdict(INITDATA, kind=kind)
    assert not initdata_verdict(INITDATA, kind=kind, launched_with=bytes(48 if kind == "tdx" else 32))
    for position in range(len(INITDATA)):
        for edited in (
            bytes([*INITDATA[:position], INITDATA[position] ^ 0x01, *INITDATA[position + 1 :]]),
            INITDATA[:position] + INITDATA[position + 1 :],
            INITDATA[:position] + INITDATA[position : position + 1] + INITDATA[position:],
            INITDATA[:position] + b"\n" + INITDATA[position:],
        ):
            initdata_verdict(edited, kind=kind)


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"\xff",
        INITDATA.replace(b"\n", b"\r\n"),
        INITDATA.replace(b"0.1.0", b"0.2.0"),
        INITDATA.replace(b"sha256", b"sha384", 1),
        INITDATA.replace(b"algorithm", b"version"),
        INITDATA.replace(IMAGE_LINE.encode(), IMAGE_LINE.encode() * 2),
        INITDATA.replace(IMAGE_LINE.encode(), b""),
        INITDATA.replace(IMAGE_LINE.encode(), b" " + IMAGE_LINE.encode()),
        INITDATA.replace(b"strongroom_image :=", b"strongroom_images :="),
        INITDATA.replace(b"strongroom_image :=", b"strongroom_image="),
        INITDATA.replace(b'"version":1', b'"version":2'),
        INITDATA.replace(b'"version":1', b'"version":1,"more":1'),
        INITDATA + INITDATA,
        INITDATA + b"\n\n",
        INITDATA + b"\"x\" = '''\n'''\n",
        INITDATA + b"".join(b"\"e%d\" = '''\n'''\n" % number for number in range(40)),
        INITDATA + b"\"x\" = '''\n" + b"x" * (64 << 10) + b"'''\n",
    ],
)
def test_comes_to_the_same_verdict_on_other_initdata(document: bytes) -> None:
    initdata_verdict(document)


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize("kind", ["tdx", "snp"])
def test_comes_to_the_same_verdict_whatever_initdata_are_hashed_with(kind: VirtualTeeKind, algorithm: Any) -> None:
    document = render_initdata({}, application="a1" * 32, algorithm=algorithm)
    fixed = launch_value_of(document, kind=kind, algorithm=algorithm)
    assert initdata_verdict(document, kind=kind, launched_with=fixed)
    assert not initdata_verdict(document + b"\n", kind=kind, launched_with=fixed)


class Vtpm:
    """A confidential VM's evidence as it stands in receipts, and both verifiers' verdicts on what its vTPM says."""

    def __init__(self, kind: str) -> None:
        self.machine: Any = (
            SimulatedAmd.create("Milan", now=NOW, rsa_bits=2048) if kind == "snp" else Bench.new().platform
        )
        vm = SimulatedAzureVm.create(self.machine)
        self.good = agent._message(AzureVtpmDevice(SimulatedVtpm(vm)).evidence(b'{"run":"1"}'))
        self.roots = TrustedRoots(roots=(TrustedRoot(certificate_der=self.machine.root_der, simulated=True),))
        endorsements = {"snp": {}, "tdx": {"tee": "TDX"}}[kind]
        self.endorsements = self.machine.endorsements(now=NOW, **endorsements)

    def agree(self, **parts: Any) -> bool:
        """Have both look at it with other parts."""
        assert self.good.vtpm is not None
        vtpm = self.good.vtpm.model_copy(update={name: parts[name] for name in parts if name != "quote"})
        evidence = self.good.model_copy(update={"vtpm": vtpm, "quote": parts.get("quote", self.good.quote)})
        shown = json.loads(evidence.to_json())
        try:
            vm = azure_vm_of(evidence_of(evidence))
            found = verify_azure_vm(vm, trusted_roots=self.roots, endorsements=self.endorsements, now=NOW)
            ours = sorted(map(int, shown["vtpm"]["pcrs"])) == list(found.pcr_values)
        except StrongroomError:
            ours = False
        report_data = read_fields(evidence.kind, from_b64url(evidence.quote)).report_data
        try:
            single_file.verify_vtpm(shown, report_data, from_b64url(evidence.runtime_data))
        except (single_file.DoesNotHoldError, *single_file.MALFORMED):
            theirs = False
        else:
            theirs = True
        assert ours == theirs
        return ours


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_comes_to_the_same_verdict_on_another_report_beside_a_vtpm(kind: str) -> None:
    """The report beside is genuine, of another VM on the same hardware."""
    case = Vtpm(kind)
    other = AzureVtpmDevice(SimulatedVtpm(SimulatedAzureVm.create(case.machine))).evidence(b'{"run":"1"}')
    assert not case.agree(quote=to_b64url(other.quote))


@pytest.mark.parametrize("kind", ["snp", "tdx"])
def test_comes_to_the_same_verdict_on_every_edit_of_what_a_vtpm_said(kind: str) -> None:
    case = Vtpm(kind)
    assert case.agree()
    assert case.good.vtpm is not None
    for name, step in (("hcl_report", 7), ("tpm_quote", 1), ("tpm_signature", 17)):
        good = from_b64url(getattr(case.good.vtpm, name))
        for position in range(0, len(good), step):
            edited = bytearray(good)
            edited[position] ^= 0x01
            assert not case.agree(**{name: to_b64url(bytes(edited))}) or name == "hcl_report"
        for end in (0, 1, len(good) // 2, len(good) - 1):
            case.agree(**{name: to_b64url(good[:end])})
        for more in (b"\0", b"\1"):
            case.agree(**{name: to_b64url(good + more)})
    pcrs = case.good.vtpm.pcrs
    for changed in (
        {},
        {**pcrs, "0": "00" * 32},
        {**pcrs, "8": "00" * 32},
        {"0": pcrs["0"]},
        dict(reversed(pcrs.items())),
    ):
        case.agree(pcrs=changed)
