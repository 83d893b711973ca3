"""Messages refuse what is not exactly themselves."""

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from strongroom.base.errors import FormatError
from strongroom.wire import (
    approvals,
    azure_attestation,
    azure_guest,
    descriptor,
    events,
    key_service,
    lease,
    model,
    pod,
    receipt,
    runtime_data,
    service,
    ticket,
    trust,
    vault_key,
)


class _WithUrl(model.Message):
    url: model.Url


class _WithPath(model.Message):
    path: model.RelativePath


MESSAGES = [
    member
    for module in (
        approvals,
        azure_attestation,
        azure_guest,
        descriptor,
        events,
        key_service,
        lease,
        pod,
        receipt,
        runtime_data,
        service,
        ticket,
        trust,
        vault_key,
    )
    for member in vars(module).values()
    if isinstance(member, type) and issubclass(member, model.Message) and member is not model.Message
]

TICKET: dict[str, Any] = {
    "version": 1,
    "run_id": "a" * 32,
    "application": "b" * 64,
    "datasets": {"trips": 1, "report": None},
    "max_executors": 3,
    "not_after": "2026-01-01T00:00:00Z",
    "submitter": "c" * 64,
    "checkpoints": {},
}


@given(st.binary(max_size=256))
def test_any_bytes_are_a_message_or_a_format_error(data: bytes) -> None:
    for message in MESSAGES:
        with contextlib.suppress(FormatError):
            message.from_json(data)


def test_a_message_survives_its_own_json() -> None:
    parsed = ticket.RunTicket.from_object(TICKET)
    assert ticket.RunTicket.from_json(parsed.to_json()) == parsed


@pytest.mark.parametrize(
    "changed",
    [
        {"surprise": 1},
        {"version": 2},
        {"run_id": "a" * 31},
        {"run_id": "A" * 32},
        {"run_id": "a" * 32 + "\n"},
        {"max_executors": "3"},
        {"max_executors": 0},
        {"datasets": {}},
        {"datasets": {"Trips": 1}},
        {"not_after": "2026-02-30T00:00:00Z"},
        {"not_after": "2026-01-01T00:00:00Z\n"},
        {"not_after": "\u0662026-01-01T00:00:00Z"},
    ],
)
def test_refuses_a_ticket_with_one_wrong_field(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        ticket.RunTicket.from_object({**TICKET, **changed})


@pytest.mark.parametrize("path", ["/etc/passwd", "../x", "a/../b", "a/./b", ".", "a\x00b", "a\nb", "a\\b", ""])
def test_a_relative_path_stays_below_its_folder(path: str) -> None:
    with pytest.raises(ValidationError):
        _WithPath(path=path)


@pytest.mark.parametrize("url", ["http://a", "https://a/?q=1", "https://u@a/", "https://a/#x", "ftp://a", "https://"])
def test_a_service_address_is_plain_https(url: str) -> None:
    assert _WithUrl(url="https://127.0.0.1:8443/path").url
    with pytest.raises(ValidationError):
        _WithUrl(url=url)


def test_an_executor_names_its_driver_and_a_driver_names_nobody() -> None:
    fields: dict[str, Any] = {
        "application": "b" * 64,
        "run": "c" * 64,
        "nonces": {"d" * 64: "n"},
        "keys": [{}],
        "signing_key": {},
    }
    for role, driver_key in (("executor", None), ("driver", "e" * 64)):
        with pytest.raises(FormatError):
            runtime_data.RuntimeData.from_object({**fields, "role": role, "driver_key": driver_key})
