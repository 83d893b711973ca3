"""`evidence` and `policy test`: exit statuses, real files at their time, and files that are anything."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.evidence_files import FOLDER

from strongroom.cli.main import strongroom
from strongroom.crypto.jose import sign_jws
from strongroom.crypto.keys import SigningKey

PERMIT = "version=1.0;authorizationrules{=>permit();};"
NAMES_DEBUG = 'version=1.0;authorizationrules{[type=="x-ms-sgx-is-debuggable", value==true] => permit();};'
SGX_AT, TDX_AT, OUTDATED_AT, SNP_AT = "2025-06-20", "2025-06-20", "2026-02-19", "2024-01-01"


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(strongroom, [str(each) for each in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert "Traceback" not in result.output
    assert "defect" not in result.output
    return result


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- real evidence ---------------------------------------------------------------------------------------------------

REAL: dict[str, tuple[str, list[str], str, int, str]] = {
    "sgx": ("sgx/sgx_quote", ["sgx/sgx_quote_collateral.json"], SGX_AT, 0, "VERIFIED at 2025-06-20T00:00:00Z: real"),
    "sgx late": ("sgx/sgx_quote", ["sgx/sgx_quote_collateral.json"], "2025-09-01", 1, "is not valid at this time"),
    "sgx alone": ("sgx/sgx_quote", [], SGX_AT, 1, "there is no collateral"),
    "sgx, another family": ("sgx/sgx_quote", ["tdx/tdx_quote_collateral.json"], SGX_AT, 1, "no revocation list"),
    "occlum": ("sgx/occlum_quote.dat", [], SGX_AT, 1, "attributes.DEBUG: expected false, found true"),
    "tdx": ("tdx/tdx_quote", ["tdx/tdx_quote_collateral.json"], TDX_AT, 0, "VERIFIED at 2025-06-20T00:00:00Z: real"),
    "tdx out of date": (
        "tdx/tdx_quote_outdated",
        ["tdx/tdx_quote_outdated_collateral.json"],
        OUTDATED_AT,
        1,
        "the platform reaches none of the vendor's TCB levels",
    ),
    "milan": (
        "snp/snp_milan_report.bin",
        ["snp/snp_milan_vcek.der", "snp/ask_ark_milan.pem"],
        SNP_AT,
        1,
        "policy.debug: expected false, found true",
    ),
    "aci": ("snp/aci_report.bin", ["snp/aci_thim.json"], SNP_AT, 1, "there is no revocation list"),
    "aci, another chip": ("snp/aci_report.bin", ["azure-vtpm/az_vcek_chain.pem"], SNP_AT, 1, "chip id: expected"),
    "azure vm": (
        "azure-vtpm/az_hcl_snp.bin",
        ["azure-vtpm/az_vcek_chain.pem"],
        SNP_AT,
        1,
        "no quote of the vTPM: nothing fresh is signed",
    ),
}


@pytest.mark.parametrize("name", REAL)
def test_real_evidence_is_verified_at_its_time_or_refused_for_its_reason(shared: Path, name: str) -> None:
    file, collateral, at, status, words = REAL[name]
    vectors = shared / "vectors"
    given_files = [part for each in collateral for part in ("--collateral", vectors / each)]
    result = run("evidence", "verify", vectors / file, *given_files, "--at", at)
    assert (result.exit_code, words in result.output) == (status, True), result.output


@pytest.mark.parametrize("name", ["aci", "azure vm"])
def test_all_but_revocation_holds_of_real_snp_reports(shared: Path, name: str) -> None:
    """Nobody kept the revocation list of their time."""
    file, collateral, at, *_ = REAL[name]
    vectors = shared / "vectors"
    result = run("evidence", "verify", vectors / file, "--collateral", vectors / collateral[0], "--at", at, "--json")
    told: Any = json.loads(result.stdout)
    results = {check["name"]: check["result"] for check in told["checks"]}
    assert (results["certificates"], results["launch"], results["signature"]) == ("holds", "holds", "holds")
    assert (results["revocation"], told["verified"]) == ("not checked", False)


def test_the_real_quote_of_another_machine_is_refused(shared: Path, tmp_path: Path) -> None:
    folder = shared / "vectors" / "azure-vtpm"
    body = {
        "hclReport": base64.b64encode((folder / "az_hcl_snp.bin").read_bytes()).decode(),
        "certificates": (folder / "az_vcek_chain.pem").read_text(),
        "tpmQuote": base64.b64encode((folder / "az_tpm_quote.msg").read_bytes()).decode(),
        "tpmSignature": base64.b64encode((folder / "az_tpm_quote.sig").read_bytes()).decode(),
        "pcrs": ["00" * 32] * 9,
        "runtimeData": base64.b64encode(b"challenge").decode(),
    }
    result = run("evidence", "verify", write(tmp_path, "vm.json", json.dumps(body)), "--at", SNP_AT, "--json")
    told: Any = json.loads(result.stdout)
    results = {check["name"]: check["result"] for check in told["checks"]}
    assert results["paravisor"] == "holds"
    assert results["vTPM's quote"] == "REFUSED"
    assert result.exit_code == 1


def test_a_real_quote_meets_a_policy_or_not(shared: Path, tmp_path: Path) -> None:
    sgx = shared / "vectors" / "sgx"
    options = (sgx / "sgx_quote", "--collateral", sgx / "sgx_quote_collateral.json", "--at", SGX_AT)
    status = '[type=="x-ms-strongroom-tcb-status", value=="{}"] => permit();'
    for wanted, exit_code in (("ConfigurationAndSWHardeningNeeded", 0), ("UpToDate", 1)):
        text = f"version=1.0;authorizationrules{{{status.format(wanted)}}};"
        result = run("policy", "test", write(tmp_path, "policy", text), *options)
        assert result.exit_code == exit_code
    assert 'wanted value == "UpToDate", found "ConfigurationAndSWHardeningNeeded"' in result.stdout


# --- what is given ---------------------------------------------------------------------------------------------------

SGX = (FOLDER / "sgx-request.json", "--simulated-root", FOLDER / "intel-root.pem", "--at", "2026-03-01T12:00:00Z")


def test_a_folder_of_endorsements_serves_as_well(tmp_path: Path) -> None:
    content = (FOLDER / "sgx-collateral.json").read_bytes()
    fmspc = json.loads(json.loads(content)["tcb_info"])["fmspc"].lower()
    write(tmp_path, f"{fmspc}.json", content)
    assert run("evidence", "verify", *SGX, "--endorsements", tmp_path).exit_code == 0
    (tmp_path / f"{fmspc}.json").unlink()
    assert run("evidence", "verify", *SGX, "--endorsements", tmp_path).exit_code == 1


def test_a_revocation_list_is_given_by_itself(tmp_path: Path) -> None:
    endorsements = json.loads((FOLDER / "snp-collateral.json").read_bytes())
    crl = write(tmp_path, "list.crl", bytes.fromhex(endorsements["crl"]))
    options = ("--simulated-root", FOLDER / "amd-root.pem", "--at", "2026-03-01T12:00:00Z")
    assert run("evidence", "verify", FOLDER / "snp-report.json", *options, "--crl", crl).exit_code == 0
    assert run("evidence", "verify", FOLDER / "snp-report.json", *options).exit_code == 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--root", FOLDER / "intel-root.pem"), "configured as a real one"),
        (("--simulated-root", FOLDER / "other-data.json"), "none that is known"),
        (("--simulated-root", FOLDER / "snp-report.json"), "exactly one certificate"),
        (("--collateral", FOLDER / "sgx-request.json"), "neither collateral nor certificates"),
    ],
    ids=["simulated as real", "no certificate", "another file", "no collateral"],
)
def test_what_is_given_must_be_what_its_option_says(options: tuple[object, ...], words: str) -> None:
    result = run("evidence", "verify", *SGX, *options)
    assert (result.exit_code, words in result.output) == (1, True)


def test_simulated_evidence_is_never_verified_under_the_built_in_roots() -> None:
    for file, collateral in (
        ("sgx-request.json", "sgx-collateral.json"),
        ("tdx-quote.bin", "tdx-collateral.json"),
        ("snp-report.json", "snp-collateral.json"),
        ("azure-vm.json", "snp-collateral.json"),
    ):
        options = ("--collateral", FOLDER / collateral, "--at", "2026-03-01T12:00:00Z")
        result = run("evidence", "verify", FOLDER / file, *options)
        assert (result.exit_code, "a root that is not trusted here" in result.output) == (1, True)


# --- exit statuses ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        ("evidence", "inspect"),
        ("evidence", "inspect", "missing"),
        ("evidence", "verify", FOLDER / "tdx-quote.bin", "--at", "yesterday"),
        ("evidence", "verify", FOLDER / "tdx-quote.bin", "--crl", "missing"),
        ("policy", "test", FOLDER / "agent.policy"),
        ("policy", "test", FOLDER / "agent.policy", "missing"),
    ],
    ids=lambda arguments: " ".join(Path(str(each)).name for each in arguments),
)
def test_a_command_that_is_not_understood_ends_with_2(arguments: tuple[object, ...]) -> None:
    assert run(*arguments).exit_code == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("version=1.0;\nauthorizationrules{ ???; };", "line 2, column 21: expected"),
        ("nothing", "line 1, column 1"),
        (b"\xff\xfe", "not UTF-8"),
        ('version=1.0;authorizationrules{=>issue(type="a", value=1);};', "issue is not allowed"),
        ("", "a policy begins with"),
    ],
)
def test_a_bad_policy_ends_with_2_and_is_pointed_at(tmp_path: Path, content: bytes | str, words: str) -> None:
    policy = write(tmp_path, "policy", content)
    claims = FOLDER / "recorded-claims.json"
    for result in (run("policy", "check", policy), run("policy", "test", policy, claims)):
        assert (result.exit_code, words in result.stderr) == (2, True)
    if "line 2" in words:
        assert result.stderr.splitlines()[-2:] == ["  authorizationrules{ ???; };", "  " + " " * 20 + "^"]


def test_a_policy_token_serves_as_its_text(tmp_path: Path) -> None:
    key = SigningKey.generate("ES256")
    body = json.dumps({"AttestationPolicy": base64.urlsafe_b64encode(NAMES_DEBUG.encode()).rstrip(b"=").decode()})
    token = write(tmp_path, "policy.jws", sign_jws(body.encode(), key=key))
    text = write(tmp_path, "policy.txt", NAMES_DEBUG)
    found = [run("policy", "check", file, "--json") for file in (token, text)]
    assert json.loads(found[0].stdout) == json.loads(found[1].stdout)
    assert run("policy", "test", token, FOLDER / "recorded-claims.json").exit_code == 0


def test_an_attestation_result_is_taken_as_it_stands_and_said_not_to_be_verified(tmp_path: Path) -> None:
    token = sign_jws(b'{"x-ms-attestation-type":"sgx"}', key=SigningKey.generate("ES256"), header={"typ": "JWT"})
    policy = write(tmp_path, "policy", PERMIT)
    result = run("policy", "test", policy, write(tmp_path, "result.jwt", token))
    assert result.exit_code == 0
    assert "NOT verified" in result.stdout


def test_a_policy_is_not_evaluated_on_evidence_that_is_refused(tmp_path: Path) -> None:
    policy = write(tmp_path, "policy", PERMIT)
    result = run("policy", "test", policy, FOLDER / "sgx-request.json")
    assert result.exit_code == 1
    assert "PERMITTED" not in result.stdout
    told: Any = json.loads(run("policy", "test", policy, FOLDER / "sgx-request.json", "--json").stdout)
    assert (told["permitted"], told["verification"]["verified"]) == (False, False)


@pytest.mark.parametrize("evidence", ["debug quote", "recorded claims"])
@pytest.mark.parametrize(
    ("rule", "status"),
    [
        ("", 1),
        ('[type=="x-ms-sgx-is-debuggable"]', 1),
        ('[type=="x-ms-sgx-is-debuggable", value==true]', 0),
        ('[type=="$is-debuggable", value==true]', 0),
    ],
)
def test_what_is_not_safe_is_permitted_only_where_the_policy_names_it(
    tmp_path: Path, evidence: str, rule: str, status: int
) -> None:
    """The service's own rule: a test that permits what the service refuses would mislead."""
    policy = write(tmp_path, "policy", f"version=1.0;authorizationrules{{{rule} => permit();}};")
    options = ("--collateral", FOLDER / "sgx-collateral.json", *SGX[1:])
    file = FOLDER / ("sgx-debug.b64" if evidence == "debug quote" else "recorded-claims.json")
    result = run("policy", "test", policy, file, *options)
    assert result.exit_code == status
    assert ("PERMITTED" in result.stdout) == (status == 0)
    assert ("x-ms-sgx-is-debuggable: expected false, found true" in result.stdout) == (status == 1)
    assert run("evidence", "verify", FOLDER / "sgx-debug.b64", *options).exit_code == 1


# --- anything --------------------------------------------------------------------------------------------------------


def test_what_others_wrote_cannot_steer_the_terminal(tmp_path: Path) -> None:
    claims = {"x-ms-ver": "\x1b[2J\u202eabc\nVERIFIED", "x-ms-\x1b]0;x\x07": 1, "x-ms-list": ["\x9b"]}
    file = write(tmp_path, "claims.json", json.dumps(claims))
    for result in (
        run("evidence", "inspect", file),
        run("policy", "test", write(tmp_path, "policy", PERMIT), file),
        run("evidence", "inspect", write(tmp_path, "other.json", json.dumps({"\x1b[2J": 1}))),
    ):
        lines = result.output.split("\n")
        assert all(line.isprintable() for line in lines)
        assert "VERIFIED" not in lines


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", errors="replace")))
def test_any_file_ends_without_traceback(tmp_path: Path, data: bytes) -> None:
    file = write(tmp_path, "anything", data)
    claims = FOLDER / "recorded-claims.json"
    assert run("evidence", "inspect", file).exit_code in {0, 1}
    assert run("evidence", "verify", file).exit_code == 1
    assert run("policy", "test", FOLDER / "agent.policy", file).exit_code in {0, 1}
    assert run("policy", "test", file, claims).exit_code == 2


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10_000), inserted=st.binary(max_size=2), removed=st.integers(0, 2))
def test_edited_evidence_ends_without_traceback(tmp_path: Path, at: int, inserted: bytes, removed: int) -> None:
    for name in ("tdx-quote.bin", "sgx-request.json", "azure-vm.json"):
        data = (FOLDER / name).read_bytes()
        place = at % len(data)
        file = write(tmp_path, name, data[:place] + inserted + data[place + removed :])
        assert run("evidence", "inspect", file).exit_code in {0, 1}
        assert run("evidence", "verify", file).exit_code == 1
