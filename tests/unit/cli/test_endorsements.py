import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.amd import amd_bench
from tests.support.platform import Bench
from tests.support.vendor_server import SettableClock, Vendors, VendorServer, serving

from strongroom.base.clock import SystemClock
from strongroom.base.encoding import canonical_json
from strongroom.cli.main import strongroom
from strongroom.crypto.keys import SigningKey

CLOCK = SystemClock()
VENDORS = replace(Vendors.new(SettableClock()), clock=CLOCK)


class Desk:
    """Files that the commands work on, and the vendors."""

    def __init__(self, folder: Path, server: VendorServer) -> None:
        self.folder, self.server = folder, server
        self.cache, self.bundle = folder / "cache", folder / "bundle.jws"
        key = SigningKey.generate("ES256")
        (folder / "auditor.key").write_bytes(key.to_pem().reveal())
        (folder / "auditor.key").chmod(0o600)
        (folder / "auditor.jwk").write_bytes(canonical_json(key.verifying_key.to_jwk()))
        (folder / "roots.pem").write_text(VENDORS.roots_pem)
        (folder / "authority.pem").write_text(server.authority_pem)
        bench, amd = Bench.around(VENDORS.platform), amd_bench()
        (folder / "sgx.quote").write_bytes(bench.quote())
        (folder / "tdx.quote").write_bytes(bench.td_quote())
        (folder / "report").write_bytes(amd.amd.sign(amd.report()))
        (folder / "report2").write_bytes(amd.amd.sign(replace(amd, version=2).report()))

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(strongroom, ["endorsements", *arguments])

    def roots(self) -> list[str]:
        return ["--simulated-root", str(self.folder / "roots.pem")]

    def fetch(self, *what: str) -> Result:
        url, authority = self.server.url, str(self.folder / "authority.pem")
        servers = ["--pcs", url, "--kds", url, "--authority", authority]
        return self.run("fetch", "--into", str(self.cache), *servers, *self.roots(), *what)

    def file(self, name: str) -> str:
        return str(self.folder / name)

    def make_bundle(self, *options: str) -> Result:
        signer = ["--signer", self.file("auditor.key")]
        return self.run("bundle", str(self.bundle), "--from", str(self.cache), *signer, *self.roots(), *options)

    def shown(self, *arguments: str) -> list[dict[str, Any]]:
        result = self.run("show", *arguments, "--json")
        assert result.exit_code == 0, result.output
        shown: list[dict[str, Any]] = json.loads(result.output)
        return shown


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with serving(replace(VENDORS, edit={})) as server:
        yield Desk(tmp_path, server)


def test_fetches_what_quotes_and_reports_need(desk: Desk) -> None:
    result = desk.fetch(
        "--quote", desk.file("sgx.quote"), "--quote", desk.file("tdx.quote"), "--report", desk.file("report")
    )
    assert result.exit_code == 0, result.output
    assert "11 documents are in" in result.output
    names = [row["name"] for row in desk.shown(str(desk.cache))]
    assert [name for name in names if not name.startswith("vcek")] == [
        "amd-chain-vcek-milan",
        "amd-chain-vlek-milan",
        "amd-crl-vcek-milan",
        "amd-crl-vlek-milan",
        "pck-crl-platform",
        "qe-identity-sgx-standard",
        "qe-identity-tdx-standard",
        "root-ca-crl",
        f"tcb-info-sgx-{VENDORS.fmspc}-standard",
        f"tcb-info-tdx-{VENDORS.fmspc}-standard",
    ]


def test_families_products_and_editions_are_named(desk: Desk) -> None:
    family = f"{VENDORS.fmspc.upper()}:Platform:tdx"
    assert desk.fetch("--family", family, "--edition", "18").exit_code == 0
    rows = {row["name"]: row for row in desk.shown(str(desk.cache), *desk.roots())}
    assert rows[f"tcb-info-tdx-{VENDORS.fmspc}-18"]["number"] == 18
    assert all(row["verified"] for row in rows.values())
    for wrong in ("x", f"{VENDORS.fmspc}:root", f"{VENDORS.fmspc}:platform:sev", "a:b:c:d"):
        assert desk.fetch("--family", wrong).exit_code == 2
    for wrong in ("newest", "0", "-1"):
        assert desk.fetch("--family", family, "--edition", wrong).exit_code == 2


def test_fetching_needs_roots_and_something_to_fetch(desk: Desk) -> None:
    assert desk.fetch().exit_code == 2
    result = desk.run("fetch", "--into", str(desk.cache), "--family", VENDORS.fmspc)
    assert result.exit_code == 2
    assert "--root" in result.output
    assert not desk.cache.exists()


def test_what_cannot_be_fetched_is_named(desk: Desk) -> None:
    result = desk.fetch("--family", "0" * 12)
    assert result.exit_code != 0
    assert f"tcb-info-sgx-{'0' * 12}-standard" in result.output
    result = desk.fetch("--report", desk.file("report2"))
    assert result.exit_code != 0
    assert "does not name its product" in result.output


def test_a_bundle_is_made_and_shown(desk: Desk) -> None:
    desk.fetch("--quote", desk.file("sgx.quote"), "--report", desk.file("report"))
    made = desk.make_bundle()
    assert made.exit_code == 0, made.output
    rows = desk.shown(str(desk.bundle), *desk.roots(), "--signer", desk.file("auditor.jwk"))
    assert len(rows) == 9
    first_end = min(row["holds_until"] for row in rows)
    assert f"may be used until {first_end}" in made.output
    text = desk.run("show", str(desk.bundle), *desk.roots(), "--signer", desk.file("auditor.jwk")).output
    assert f"may be used until {first_end}: verified" in text
    assert "NOT verified" in desk.run("show", str(desk.bundle)).output


def test_a_bundle_may_end_earlier_or_later_than_its_documents(desk: Desk) -> None:
    desk.fetch("--quote", desk.file("sgx.quote"))
    assert "until 2099-12-31T23:59:59Z" in desk.make_bundle("--expires", "2099-12-31").output
    assert "runs out before that" in desk.make_bundle("--expires", "2099-12-31").output
    assert desk.make_bundle("--expires", "2020-01-01").exit_code != 0


def test_documents_that_do_not_verify_are_not_bundled(desk: Desk) -> None:
    desk.fetch("--quote", desk.file("sgx.quote"))
    crl = desk.cache / "root-ca-crl.json"
    stored = json.loads(crl.read_bytes())
    stored["document"]["content"] = json.loads((desk.cache / "pck-crl-platform.json").read_bytes())["document"][
        "content"
    ]
    crl.write_text(json.dumps(stored))
    assert desk.make_bundle().exit_code != 0
    assert not desk.bundle.exists()
    shown = desk.run("show", str(desk.cache), *desk.roots())
    assert shown.exit_code != 0
    assert "1 of 4 documents do not hold" in shown.output


def test_showing_verifies_as_of_a_stated_time(desk: Desk) -> None:
    desk.fetch("--quote", desk.file("sgx.quote"))
    desk.make_bundle("--expires", "2099-12-31")
    late = desk.run("show", str(desk.bundle), *desk.roots(), "--at", "2098-01-01")
    assert late.exit_code != 0
    assert "4 of 4 documents do not hold" in late.output
    over = desk.run("show", str(desk.bundle), "--signer", desk.file("auditor.jwk"), "--at", "2100-01-01")
    assert over.exit_code != 0
    assert "expired" in over.output


def test_a_bundle_of_another_signer_is_not_shown_as_verified(desk: Desk) -> None:
    desk.fetch("--quote", desk.file("sgx.quote"))
    desk.make_bundle()
    other = SigningKey.generate("ES256").verifying_key.to_jwk()
    (desk.folder / "other.jwk").write_bytes(canonical_json(other))
    result = desk.run("show", str(desk.bundle), "--signer", desk.file("other.jwk"))
    assert result.exit_code != 0
    assert ": verified" not in result.output
