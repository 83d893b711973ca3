"""Signing in, as the how-to page says it: real services, a real OpenID Provider, the command line and a browser."""

import json
import re
import stat
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.support.identity_provider import AUDIENCE, CLIENT, IdentityProvider, running
from tests.support.installation import Installation, new_installation, wait_until

pytestmark = pytest.mark.timeout(900)

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "sign-in.md"
ALICE, BOB, STRANGER = "alice-7f3a", "bob-19c2", "stranger-1"


@dataclass(kw_only=True)
class Office:
    """An installation whose people sign in at a provider."""

    installation: Installation
    provider: IdentityProvider
    asked: Path

    def login(self, person: str) -> str:
        """`strongroom login`, with somebody at the browser."""
        self.asked.unlink(missing_ok=True)
        with self.installation.started("login") as command:
            wait_until(lambda: self.asked.exists() and self.asked.read_text(), what="a browser is opened")
            back = self.provider.browser(person).back(self.asked.read_text())
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(back, timeout=30) as page:
                assert b"Signed in" in page.read()
            stdout, stderr = command.communicate(timeout=60)
        return f"{command.returncode} {stdout} {stderr}"

    def login_on_device(self, person: str) -> str:
        """`strongroom login --device`, with somebody at another device."""
        with self.installation.started("login", "--device") as command:
            assert command.stderr is not None
            shown = command.stderr.readline()
            found = re.search(r"open (\S+) and type (\S+)", shown)
            assert found is not None, shown
            self.provider.browser(person).finish(found[1])
            stdout, stderr = command.communicate(timeout=60)
        return f"{command.returncode} {stdout} {stderr}"

    def files(self) -> list[Path]:
        return sorted(self.installation.state.sign_in.glob("*.json"))

    def whoami(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.installation.done("whoami", "--json"))
        return found


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    folder = tmp_path_factory.mktemp("sign-in")
    asked, browser, root = folder / "asked", folder / "browser", folder / "office"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {asked}\n')
    browser.chmod(0o700)
    root.mkdir()
    with running(folder / "provider") as provider, new_installation(root) as installation:
        installation.environment["BROWSER"] = f"{browser} %s"
        key = json.loads(installation.state.owner_key.with_suffix(".jwk").read_text())
        people = [
            ("alice", ALICE, ["owner", "approver", "submitter", "auditor"], {"key": key}),
            ("bob", BOB, ["auditor"], {}),
        ]
        content = {
            "people": [
                {"name": name, "roles": roles, "signs_in": {"issuer": provider.url, "subject": subject}, **more}
                for name, subject, roles, more in people
            ],
            "issuers": [
                {
                    "issuer": provider.url,
                    "audience": AUDIENCE,
                    "clients": [CLIENT],
                    "authorities_pem": provider.authority.pem,
                }
            ],
        }
        installation.state.people.write_text(json.dumps(content))
        installation.done("up")
        yield Office(installation=installation, provider=provider, asked=asked)


@pytest.fixture(autouse=True)
def _signed_out(office: Office) -> Iterator[None]:
    yield
    office.installation.done("logout")


def test_the_page_is_followed_from_top_to_bottom(office: Office) -> None:
    commands = re.findall(r"^\$ strongroom (.*)$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert commands[:4] == ["up", "login", "whoami", "login --device"]
    for command in commands:
        match command:
            case "login":
                assert office.login(ALICE).startswith("0 ")
                assert {each["by"] for each in office.whoami()} == {"sign-in"}
            case "login --device":
                assert office.login_on_device(ALICE).startswith("0 ")
            case _:
                office.installation.done(*command.split())
    assert {each["by"] for each in office.whoami()} == {"key"}
    assert "visits" in [each["dataset"] for each in office.installation.owner().datasets()["datasets"]]


def test_who_signs_in_is_the_person_of_the_key(office: Office) -> None:
    by_key = office.whoami()
    shown = office.login(ALICE)
    assert "key-service: signed in as alice (approver, auditor, owner, submitter)" in shown
    by_sign_in = office.whoami()

    assert [each["by"] for each in by_sign_in] == ["sign-in", "sign-in"]
    for name in ("name", "identity", "key", "roles"):
        assert [each[name] for each in by_sign_in] == [each[name] for each in by_key]


def test_a_person_without_the_role_is_told_so(office: Office) -> None:
    assert office.login(BOB).startswith("0 ")
    assert office.whoami()[0]["roles"] == "auditor"
    office.installation.done("runs", "list")
    refused = office.installation.strongroom("dataset", "create", "mine")

    assert refused.status == 1
    assert "bob may not do this here" in refused.stderr
    assert "role: expected owner, found auditor" in refused.stderr


def test_a_stranger_who_signs_in_is_kept_out_and_leaves_no_token(office: Office) -> None:
    shown = office.login(STRANGER)

    assert shown.startswith("1 ")
    assert "nobody this service knows" in shown
    assert office.files() == []


def test_tokens_are_the_persons_alone_and_are_refreshed(office: Office) -> None:
    assert office.login(ALICE).startswith("0 ")
    (file,) = office.files()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    before = json.loads(file.read_text())
    file.write_text(json.dumps({**before, "expires_at": "2026-01-01T00:00:00Z"}))

    assert {each["by"] for each in office.whoami()} == {"sign-in"}
    after = json.loads(file.read_text())
    assert after["access_token"] != before["access_token"]
    assert after["refresh_token"] != before["refresh_token"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600

    file.chmod(0o644)
    refused = office.installation.strongroom("runs", "list")
    assert refused.status == 1
    assert "Traceback" not in refused.text
    assert str(file) in refused.stderr
    file.chmod(0o600)


def test_a_sign_in_that_was_ended_at_the_provider_says_to_sign_in_again(office: Office) -> None:
    assert office.login(ALICE).startswith("0 ")
    (file,) = office.files()
    stored = json.loads(file.read_text())
    file.write_text(json.dumps({**stored, "expires_at": "2026-01-01T00:00:00Z", "refresh_token": "withdrawn"}))
    refused = office.installation.strongroom("runs", "list")

    assert refused.status == 1
    assert "the issuer refused" in refused.stderr
    assert "strongroom login" in refused.stderr


def test_without_an_issuer_the_command_says_what_to_do(office: Office) -> None:
    refused = office.installation.strongroom("login", "--issuer", "https://elsewhere.example.org")

    assert refused.status == 1
    assert "no service of the trust file offers a sign-in at https://elsewhere.example.org" in refused.stderr


def test_nobody_signs_in_at_services_that_are_not_the_pinned_ones(office: Office) -> None:
    """The issuer's address comes from services that were verified: a false one would collect people's passwords."""
    state = office.installation.state

    def pin_another(data: bytes) -> bytes:
        trust = json.loads(data)
        trust["services"][1]["configuration"] = "00" * 32
        return json.dumps(trust).encode()

    with office.installation.changed(state.trust, pin_another):
        refused = office.installation.strongroom("login", "--no-browser")

    assert refused.status == 1
    assert "is not the one that was pinned" in refused.stderr
    assert "Sign in at" not in refused.stderr


def test_the_browser_of_another_sign_in_gets_no_tokens(office: Office) -> None:
    """Somebody else's answer at the loopback address: it is refused, and nothing is kept."""
    office.asked.unlink(missing_ok=True)
    with office.installation.started("login") as command:
        wait_until(lambda: office.asked.exists() and office.asked.read_text(), what="a browser is opened")
        url = office.asked.read_text()
        back = office.provider.browser(BOB).back(url)
        forged = re.sub(r"state=[^&]+", "state=somebody-elses", back)
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(forged, timeout=30):
            pass
        _, stderr = command.communicate(timeout=60)

    assert command.returncode == 1
    assert "belongs to another sign-in" in stderr
    assert office.files() == []
