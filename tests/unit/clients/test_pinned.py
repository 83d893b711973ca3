import json
import socket
import threading
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import (
    ConflictError,
    FormatError,
    Mismatch,
    NotFoundError,
    RefusedError,
    StrongroomError,
    UnavailableError,
)
from strongroom.base.workflow import Step
from strongroom.clients.pinned import PinnedHttp, Response
from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem
from strongroom.services.errors import azure_error, status_of, strongroom_error


def test_an_error_arrives_as_it_was_raised() -> None:
    raised = RefusedError(
        "no", action="ask", step=Step.RELEASE, mismatches=(Mismatch(name="a", expected="b", actual="c"),)
    )
    reply = strongroom_error(raised)
    with pytest.raises(RefusedError) as arrived:
        Response(status=reply.status, body=reply.body).require_success()
    error = arrived.value
    assert (error.message, error.action, error.step, error.mismatches) == (
        raised.message,
        raised.action,
        raised.step,
        raised.mismatches,
    )


def test_azures_shape_arrives_with_its_code() -> None:
    reply = azure_error(ConflictError("taken"))
    assert reply.status == 409
    with pytest.raises(ConflictError, match="taken"):
        Response(status=reply.status, body=reply.body).require_success()


def test_success_is_the_body() -> None:
    assert Response(status=201, body=b"x").require_success() == b"x"


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"error":"x"}', b'{"error":{"code":"refused"}}'])
def test_an_answer_in_no_shape_is_an_error_too(body: bytes) -> None:
    with pytest.raises(FormatError, match="502"):
        Response(status=502, body=body).require_success()


@given(st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner) | st.lists(inner)))
def test_any_answer_of_a_failed_call_raises_an_error_of_ours(inner: object) -> None:
    error = {"code": "refused", "message": "m", "action": "a", "step": inner, "mismatches": [inner]}
    for content in (inner, {"error": inner}, {"error": error}):
        with pytest.raises(StrongroomError):
            Response(status=400, body=json.dumps(content).encode()).require_success()


def test_an_error_nobody_named_is_the_services_fault() -> None:
    assert (status_of(StrongroomError("x")), status_of(NotFoundError("x"))) == (500, 404)


def test_a_connection_that_is_cut_in_the_handshake_is_no_other_service() -> None:
    now, key = datetime.now(tz=UTC), SigningKey.generate("ES256")
    identity = new_identity(common_name="x", key=key, not_before=now - timedelta(1), not_after=now + timedelta(1))
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def cut() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(1 << 16)

        cutter = threading.Thread(target=cut, daemon=True)
        cutter.start()
        http = PinnedHttp(
            f"https://127.0.0.1:{listener.getsockname()[1]}", to_pem(identity), key.verifying_key.thumbprint
        )
        with pytest.raises(UnavailableError, match="does not answer"):
            http.request("GET", "/")
        cutter.join(10)
