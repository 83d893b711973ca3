"""Simulated evidence in files, and what the commands print of it.

python -m tests.support.evidence_files             writes what the commands print
python -m tests.support.evidence_files --evidence  makes new evidence first
"""

import base64
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from click.testing import CliRunner
from tests.support.amd import amd_bench
from tests.support.platform import NOW, RUNTIME_DATA, Bench

from strongroom.attestation.evidence.sgx_report import FLAG_DEBUG, FLAG_INIT, FLAG_KSS, FLAG_MODE64BIT, SgxAttributes
from strongroom.attestation.evidence.unverified import UnverifiedAzureVm
from strongroom.cli.main import strongroom
from strongroom.crypto import x509
from strongroom.simulation.azure_vm import SimulatedAzureVm

FOLDER: Final = Path(__file__).parents[1] / "golden" / "evidence"
_AT: Final = ("--at", "2026-03-01T12:00:00Z")
_INTEL: Final = ("--simulated-root", "intel-root.pem", *_AT)
_AMD: Final = ("--simulated-root", "amd-root.pem", "--collateral", "snp-collateral.json", *_AT)
_SGX: Final = ("sgx-request.json", "--collateral", "sgx-collateral.json", *_INTEL)
_DEBUG: Final = ("sgx-debug.b64", "--collateral", "sgx-collateral.json", *_INTEL)

CASES: Final[dict[str, tuple[str, ...]]] = {
    "inspect-sgx": ("evidence", "inspect", "sgx-request.json"),
    "inspect-sgx-json": ("evidence", "inspect", "sgx-request.json", "--json"),
    "inspect-tdx": ("evidence", "inspect", "tdx-quote.bin"),
    "inspect-snp": ("evidence", "inspect", "snp-report.json"),
    "inspect-azure-vm": ("evidence", "inspect", "azure-vm.json"),
    "inspect-collateral": ("evidence", "inspect", "sgx-collateral.json"),
    "inspect-claims": ("evidence", "inspect", "recorded-claims.json"),
    "verify-sgx": ("evidence", "verify", *_SGX),
    "verify-sgx-json": ("evidence", "verify", *_SGX, "--json"),
    "verify-sgx-other-data": ("evidence", "verify", *_SGX, "--runtime-data", "other-data.json"),
    "verify-sgx-debug": ("evidence", "verify", *_DEBUG),
    "verify-sgx-untrusted": ("evidence", "verify", "sgx-request.json", "--collateral", "sgx-collateral.json", *_AT),
    "verify-sgx-alone": ("evidence", "verify", "sgx-request.json", *_INTEL),
    "verify-tdx": ("evidence", "verify", "tdx-quote.bin", "--collateral", "tdx-collateral.json", *_INTEL),
    "verify-snp": ("evidence", "verify", "snp-report.json", *_AMD),
    "verify-azure-vm": ("evidence", "verify", "azure-vm.json", *_AMD),
    "policy-permits": ("policy", "test", "agent.policy", *_SGX),
    "policy-refuses": ("policy", "test", "other-agent.policy", *_SGX),
    "policy-refuses-json": ("policy", "test", "other-agent.policy", *_SGX, "--json"),
    "policy-does-not-name-debug": ("policy", "test", "anything.policy", *_DEBUG),
    "policy-names-debug": ("policy", "test", "debug.policy", *_DEBUG),
    "policy-recorded": ("policy", "test", "agent.policy", "recorded-claims.json"),
    "policy-broken": ("policy", "test", "broken.policy", "recorded-claims.json"),
    "policy-check": ("policy", "check", "agent.policy"),
}
"""The commands by the name of the file that holds what they print."""

_POLICY: Final = """\
version= 1.0;
authorizationrules
{{
    [type=="x-ms-sgx-is-debuggable", value==false]
    && [type=="x-ms-sgx-mrenclave", value=="{mrenclave}"]
    && [type=="x-ms-strongroom-hardware", value=="simulated"]
    => permit();
    [type=="x-ms-sgx-svn", value<{svn}] => deny();
}};
issuancerules
{{
    c:[type=="x-ms-sgx-mrsigner"] => issue(type="signer", value=c.value);
}};
"""


def make_evidence(folder: Path) -> None:
    """Make new simulated evidence of every kind, what it is verified with, and policies for it."""
    bench, amd = Bench.new(), amd_bench()
    flags = FLAG_INIT | FLAG_MODE64BIT | FLAG_KSS
    runtime = {"data": _b64(RUNTIME_DATA), "dataType": "JSON"}
    debug = bench.quote(attributes=SgxAttributes(flags=flags | FLAG_DEBUG, xfrm=3))
    report = bench.report()
    snp = amd.endorsements()
    files: dict[str, bytes | object] = {
        "intel-root.pem": x509.to_pem(bench.platform.root_der).encode(),
        "amd-root.pem": x509.to_pem(amd.amd.root_der).encode(),
        "sgx-request.json": {"quote": _b64(bench.quote()), "runtimeData": runtime},
        "sgx-debug.b64": base64.encodebytes(debug),
        "sgx-collateral.json": bench.endorsements.to_json(),
        "tdx-quote.bin": bench.td_quote(),
        "tdx-collateral.json": bench.platform.endorsements(now=NOW, tee="TDX").to_json(),
        "snp-report.json": {
            "SnpReport": _b64(amd.amd.sign(amd.report())),
            "VcekCertChain": _b64(snp.certificate_chain.encode()),
        },
        "snp-collateral.json": snp.to_json(),
        "azure-vm.json": azure_vm_request(SimulatedAzureVm.create(amd.amd).evidence(b'{"run":"1"}')),
        "other-data.json": b'{"version":2}',
        "recorded-claims.json": {
            "x-ms-attestation-type": "sgx",
            "x-ms-sgx-is-debuggable": True,
            "x-ms-sgx-mrenclave": report.mrenclave.hex(),
            "x-ms-sgx-mrsigner": report.mrsigner.hex(),
            "x-ms-sgx-svn": report.isv_svn,
            "x-ms-strongroom-hardware": "simulated",
        },
        "agent.policy": _POLICY.format(mrenclave=report.mrenclave.hex(), svn=report.isv_svn).encode(),
        "other-agent.policy": _POLICY.format(mrenclave="cd" * 32, svn=report.isv_svn + 1).encode(),
        "anything.policy": b"version= 1.0;\nauthorizationrules { => permit(); };\n",
        "debug.policy": b"""\
version= 1.0;
authorizationrules { [type=="x-ms-sgx-is-debuggable", value==true] => permit(); };
""",
        "broken.policy": _POLICY.format(mrenclave="cd" * 32, svn=0).replace("=> permit", "> permit").encode(),
    }
    for name, content in files.items():
        data = content if isinstance(content, bytes) else (json.dumps(content, indent=2) + "\n").encode()
        (folder / name).write_bytes(data)


def azure_vm_request(evidence: UnverifiedAzureVm, *, certificates: str | None = None) -> dict[str, object]:
    """The same as `POST /strongroom/v1/attest/AzureVm` takes it."""
    request: dict[str, object] = {
        "hclReport": _b64(evidence.hcl_report),
        "tpmQuote": _b64(evidence.tpm_quote),
        "tpmSignature": _b64(evidence.tpm_signature),
        "pcrs": {str(number): value.hex() for number, value in enumerate(evidence.pcr_values)},
        "runtimeData": _b64(evidence.runtime_data),
    }
    if evidence.td_quote is not None:
        request["tdQuote"] = _b64(evidence.td_quote)
    if certificates is not None:
        request["certificates"] = certificates
    return request


def render(case: str, *, folder: Path = FOLDER) -> str:
    """What a command prints, standard error behind standard output, and its exit status."""
    with _inside(folder):
        result = CliRunner().invoke(strongroom, CASES[case])
    command = " ".join(("strongroom", *CASES[case]))
    return f"$ {command}\n{result.stdout}{result.stderr}exit status {result.exit_code}\n"


@contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


if __name__ == "__main__":
    if "--evidence" in sys.argv:
        make_evidence(FOLDER)
    for each in CASES:
        (FOLDER / f"{each}.txt").write_text(render(each), encoding="utf-8")
