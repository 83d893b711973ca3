"""The attestation service as a process: a key service that believes it, bad clients, and kill -9."""

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.service_processes import Installation, installation
from tests.support.tee import Runner

from strongroom.base.encoding import canonical_json, from_any_b64, parse_json_object, to_b64url
from strongroom.base.errors import StrongroomError
from strongroom.crypto.jose import sign_jws, unverified_header, unverified_payload
from strongroom.crypto.x509 import to_x5c
from strongroom.receipts.verify import verify_receipt

LIMITS = {"request_s": 1, "connections": 6, "connections_per_address": 5}
RUNTIME = b'{"job":"taxi"}'
KILLED_AFTER_S = (0.05, 0.9, 0.31, 1.4, 0.17, 0.6)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    with installation(tmp_path_factory.mktemp("installation"), limits=LIMITS) as made:
        yield made


# --- a new signing key ------------------------------------------------------------------------------------------------


def test_a_new_signing_key_is_believed_at_once_and_the_old_one_still(installed: Installation) -> None:
    believed = installed.issuers()
    old = installed.attest(installed.evidence(RUNTIME))
    believed.verify(old)
    for _ in range(2):
        kid = installed.rotate_signing_key()
        new = installed.attest(installed.evidence(RUNTIME))
        assert unverified_header(new)["kid"] == kid
        believed.verify(new)
        believed.verify(old)


def test_a_run_and_its_receipt_outlive_a_signing_key(tmp_path: Path) -> None:
    with installation(tmp_path) as services:
        runner = Runner(services, tmp_path)
        runner.approve_all()
        descriptor = runner.descriptor(runner.ticket())
        driver = runner.join(descriptor)
        services.rotate_signing_key()
        executor = runner.join(runner.descriptor(descriptor.ticket, driver=driver))
        services.restart_attestation()
        runner.write(driver)
        kept = runner.finish(driver, descriptor)
        receipt, trust = (tmp_path / "out" / kept.receipt).read_bytes(), runner.trust()
    assert unverified_header(driver.result)["kid"] != unverified_header(executor.result)["kid"]
    assert len(verify_receipt(receipt, trust=trust).members) == 2


# --- bad clients -----------------------------------------------------------------------------------------------------


def connect(installed: Installation) -> ssl.SSLSocket:
    context = ssl.create_default_context(cadata=installed.attestation.certificate_pem)
    port = int(installed.attestation.url.rpartition(":")[2])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port), timeout=20), server_hostname="127.0.0.1")


def received(connection: ssl.SSLSocket) -> bytes:
    """Everything until the service closes the connection."""
    found = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(65536):
            found += chunk
    return found


POST = b"POST /attest/SgxEnclave?api-version=2025-06-01 HTTP/1.1\r\nhost: x\r\n"


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /ce",
        POST + b"content-length: 100\r\n\r\n{",
        POST + b"transfer-encoding: chunked\r\n\r\n5\r\n{",
        POST + b"x: ",
        b"\r\n\r\n",
    ],
    ids=["nothing", "half a line", "half a body", "half a chunk", "half a header", "empty lines"],
)
def test_a_request_that_does_not_arrive_is_closed(installed: Installation, sent: bytes) -> None:
    with connect(installed) as slow:
        slow.sendall(sent)
        assert received(slow) == b""
    assert installed.ask_attestation("GET", "/healthz").status == 200


@pytest.mark.parametrize("second", [b"GET /health", b"\r\n"], ids=["half a line", "an empty line"])
def test_a_second_request_that_does_not_arrive_is_closed(installed: Installation, second: bytes) -> None:
    with connect(installed) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        while not slow.recv(65536).endswith(b"}"):
            pass
        slow.sendall(second)
        assert received(slow) == b""


def test_a_second_request_of_which_a_part_came_with_the_first_is_closed(installed: Installation) -> None:
    with connect(installed) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /health")
        answer = received(slow)
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.count(b"HTTP/1.1") == 1


def test_a_body_that_drips_is_closed_and_one_that_is_too_large_is_refused_unread(installed: Installation) -> None:
    with connect(installed) as slow, contextlib.suppress(ConnectionError, ssl.SSLError):
        slow.sendall(POST + b"content-length: 1000\r\n\r\n")
        for _ in range(1000):
            slow.sendall(b" ")
            time.sleep(0.02)
        pytest.fail("the service waited for the whole body")
    with connect(installed) as large:
        large.sendall(POST + b"content-length: 99999999\r\n\r\n{")
        assert received(large).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 100,
        b"GET / HTTP/9\r\n\r\n",
        b"GET /" + b"a" * 100_000,
        POST + b"content-length: -1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_bad_request(installed: Installation, sent: bytes) -> None:
    with connect(installed) as connection:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            connection.sendall(sent)
        assert connection.recv(12)[:10] == b"HTTP/1.1 4"
    assert installed.ask_attestation("GET", "/healthz").status == 200


def test_what_follows_a_body_does_not_grow_without_end(installed: Installation) -> None:
    with connect(installed) as endless, contextlib.suppress(ConnectionError, ssl.SSLError):
        endless.sendall(POST + b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\nx: ")
        for _ in range(1000):
            endless.sendall(b"a" * 16_000)
        pytest.fail("the service took sixteen megabytes of one trailer")
    assert installed.ask_attestation("GET", "/healthz").status == 200


def test_requests_that_do_not_wait_for_answers_are_answered_in_order_and_are_few(installed: Installation) -> None:
    asked = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with connect(installed) as several:
        several.sendall(asked * 4 + b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert received(several).count(b"HTTP/1.1 200") == 5
    with connect(installed) as many:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            many.sendall(asked * 4000)
        assert received(many).count(b"HTTP/1.1 200") < 40
    assert installed.ask_attestation("GET", "/healthz").status == 200


def test_too_many_connections_are_told_to_come_again(installed: Installation) -> None:
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connect(installed)) for _ in range(LIMITS["connections_per_address"])]
        with connect(installed) as refused:
            answer = received(refused)
        assert answer.startswith(b"HTTP/1.1 429")
        assert b"retry-after: 1\r\n" in answer
        connections[0].sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        assert received(connections[0]).startswith(b"HTTP/1.1 200")
    for _ in range(100):
        with contextlib.suppress(StrongroomError):
            if installed.ask_attestation("GET", "/healthz").status == 200:
                return
        time.sleep(0.05)
    pytest.fail("the connections that were closed still count")


def test_a_caller_does_not_choose_the_address_that_its_requests_count_for(tmp_path: Path) -> None:
    with installation(tmp_path, limits={"requests_per_second_per_address": 1}) as installed:
        http = installed.attestation.http()
        answers = [
            http.request("GET", "/certs", headers={"X-Forwarded-For": f"192.0.2.{number}"}).status
            for number in range(20)
        ]
    assert answers.count(429) > 10


# --- kill -9 ---------------------------------------------------------------------------------------------------------


class Writers:
    """Threads that change policies, certificates and keys until the service dies, and note what it acknowledged."""

    def __init__(self, installed: Installation) -> None:
        self.installed = installed
        self.acknowledged: dict[str, int] = {}
        self.tried: dict[str, int] = {}
        self.kids: list[str] = []

    def policies(self, kind: str) -> None:
        for number in range(self.tried.get(kind, 0) + 1, 1 << 30):
            text = f"version= 1.0; // {number}\nauthorizationrules{{=> permit();}};issuancerules{{}};"
            self.tried[kind] = number
            answer = self.installed.ask_attestation(
                "PUT", f"/policies/{kind}?api-version=2025-06-01", self.installed.policy_token(text).encode()
            )
            answer.require_success()
            self.acknowledged[kind] = number

    def keys(self) -> None:
        while True:
            self.kids.append(self.installed.rotate_signing_key())

    def run_until_it_dies(self, after_s: float) -> None:
        def ignore_its_death(work: object, *arguments: str) -> None:
            with contextlib.suppress(StrongroomError):
                work(*arguments)  # type: ignore[operator]

        threads = [
            threading.Thread(target=ignore_its_death, args=(self.policies, kind)) for kind in ("TdxVm", "SevSnpVm")
        ]
        threads.append(threading.Thread(target=ignore_its_death, args=(self.keys,)))
        for thread in threads:
            thread.start()
        time.sleep(after_s)
        self.installed.attestation.process.kill()
        for thread in threads:
            thread.join(timeout=60)

    def stored(self, kind: str) -> int:
        answer = self.installed.ask_attestation("GET", f"/policies/{kind}?api-version=2025-06-01")
        inside = parse_json_object(unverified_payload(parse_json_object(answer.require_success())["token"]))
        policy = parse_json_object(unverified_payload(inside["x-ms-policy"]))["AttestationPolicy"]
        text = from_any_b64(policy).decode()
        return int(text.partition("// ")[2].partition("\n")[0] or 0)


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    with installation(tmp_path) as installed:
        token = installed.attest(installed.evidence(RUNTIME))
        writers = Writers(installed)
        for after_s in KILLED_AFTER_S:
            writers.run_until_it_dies(after_s)
            installed.restart_attestation()
            for kind in ("TdxVm", "SevSnpVm"):
                assert writers.acknowledged.get(kind, 0) <= writers.stored(kind) <= writers.tried.get(kind, 0)
            published = parse_json_object(installed.ask_attestation("GET", "/certs").require_success())["keys"]
            if writers.kids:
                assert writers.kids[-1] in {key["kid"] for key in published}
            believed = installed.issuers()
            believed.verify(token)
            believed.verify(installed.attest(installed.evidence(RUNTIME)))
        assert sum(writers.acknowledged.values()) > len(KILLED_AFTER_S)


def test_a_certificate_that_was_added_is_there_after_a_kill(installed: Installation) -> None:
    body = {"policyCertificate": {"x5c": to_x5c([installed.owner_certificate()])}}
    token = sign_jws(canonical_json(body), key=installed.owner, header={"x5c": to_x5c([installed.owner_certificate()])})
    added = installed.ask_attestation("POST", "/certificates:add?api-version=2025-06-01", token.encode())
    added.require_success()
    installed.attestation.process.kill()
    installed.restart_attestation()
    answer = installed.ask_attestation("GET", "/certificates?api-version=2025-06-01").require_success()
    said = parse_json_object(unverified_payload(parse_json_object(answer)["token"]))
    assert len(said["x-ms-policy-certificates"]["keys"]) == 1


def test_an_unknown_padding_of_base64_is_still_evidence(installed: Installation) -> None:
    evidence = installed.evidence(RUNTIME)
    for padding in ("", "=", "=="):
        body = {
            "quote": to_b64url(evidence.quote) + padding,
            "runtimeData": {"data": to_b64url(evidence.runtime_data) + padding, "dataType": "JSON"},
        }
        answer = installed.attestation.http().request(
            "POST",
            "/attest/SgxEnclave?api-version=2025-06-01",
            body=canonical_json(body),  # type: ignore[arg-type]
        )
        assert answer.status == 200
