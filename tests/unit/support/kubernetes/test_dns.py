"""Names of services as pods ask for them."""

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.kubernetes.api import Objects
from tests.support.kubernetes.dns import answer, resolve

SERVICES: Objects = {
    ("team", "keys"): {"spec": {"clusterIP": "10.96.0.9"}},
    ("team", "store"): {"spec": {"clusterIP": "None"}},
    ("team", "early"): {"spec": {"clusterIP": "None", "publishNotReadyAddresses": True}},
}


def endpoints(service: str, *hosts: dict[str, Any]) -> dict[str, Any]:
    return {
        "metadata": {"labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "endpoints": list(hosts),
    }


READY = {"addresses": ["10.244.0.5"], "hostname": "store-0", "conditions": {"ready": True}}
UNREADY = {"addresses": ["10.244.0.6"], "hostname": "store-1", "conditions": {"ready": False}}
SLICES: Objects = {
    ("team", "store-x"): endpoints("store", READY, UNREADY),
    ("team", "early-x"): endpoints("early", UNREADY),
    ("other", "store-y"): endpoints("store", {"addresses": ["10.244.0.7"]}),
}


@pytest.mark.parametrize(
    ("name", "addresses"),
    [
        ("keys.team.svc.cluster.local", ["10.96.0.9"]),
        ("KEYS.team.svc.cluster.local.", ["10.96.0.9"]),
        ("store.team.svc.cluster.local", ["10.244.0.5"]),
        ("store-0.store.team.svc.cluster.local", ["10.244.0.5"]),
        ("store-1.store.team.svc.cluster.local", None),
        ("early.team.svc.cluster.local", ["10.244.0.6"]),
        ("x.keys.team.svc.cluster.local", None),
        ("keys.other.svc.cluster.local", None),
        ("keys.team.svc.cluster.local.team.svc.cluster.local", None),
        ("keys.team", None),
        ("example.org", None),
    ],
)
def test_services_have_addresses_and_nothing_else_has(name: str, addresses: list[str] | None) -> None:
    assert resolve(name, SERVICES, SLICES) == addresses


def question(name: str, kind: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


@pytest.mark.parametrize(("kind", "count"), [(1, 2), (28, 0)])
def test_a_question_is_answered(kind: int, count: int) -> None:
    said = answer(question("a.b", kind), lambda name: ["10.0.0.1", "10.0.0.2"] if name == "a.b" else None)

    assert said is not None
    assert struct.unpack_from(">HHHHHH", said) == (7, 0x8580, 1, count, 0, 0)
    assert said[12:].startswith(question("a.b", kind)[12:])
    assert [each in said for each in map(socket.inet_aton, ("10.0.0.1", "10.0.0.2"))] == [count > 0] * 2


def test_a_name_that_does_not_exist_is_said_not_to() -> None:
    said = answer(question("a.b"), lambda _: None)

    assert said is not None
    assert struct.unpack_from(">HH", said, 2) == (0x8583, 1)


@given(st.binary(max_size=80))
def test_any_bytes_are_answered_or_not(query: bytes) -> None:
    said = answer(query, lambda _: ["10.0.0.1"])
    assert said is None or said[:2] == query[:2]
