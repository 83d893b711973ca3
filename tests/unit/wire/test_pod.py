from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from strongroom.base.errors import FormatError, IntegrityError, LimitError
from strongroom.wire import events
from strongroom.wire.descriptor import DeviceSetting, ServiceAddress, Sizes
from strongroom.wire.events import DELIVERED_PART_BYTES, Delivered, delivered_file, delivered_parts, parse_event
from strongroom.wire.pod import PodDescriptor, package_part_name, token_audience

SERVICE = ServiceAddress(url="https://keys.services:8443", certificate_pem="PEM")


def descriptor(**changed: Any) -> dict[str, Any]:
    made = PodDescriptor(
        application="a" * 64,
        ticket="a.b.c",
        device=DeviceSetting(kind="tsm"),
        attestation_service=SERVICE,
        key_services={"b" * 64: SERVICE},
        storage={"trips": "file:///data/trips"},
        sizes=Sizes(driver_memory_mb=1024, executor_memory_mb=1024, executor_cores=1, executors=1),
        executor_template="{}",
        namespace="team-a",
    )
    return made.model_dump(mode="json") | changed


def test_a_descriptor_comes_back_as_it_was() -> None:
    made = PodDescriptor.from_object(descriptor(archive="file:///data/archive", settings={"spark.x": "y"}))
    assert PodDescriptor.from_json(made.to_json()) == made


@pytest.mark.parametrize(
    "changed",
    [
        {"key_services": {}},
        {"namespace": "Team"},
        {"namespace": "a/b"},
        {"namespace": ""},
        {"archive": "/data"},
        {"archive": "file://host/data"},
        {"archive": "file:///a\nb"},
        {"settings": {"spark.x": "y" * 5000}},
        {"executor_template": "x" * (257 << 10)},
        {"role": "driver"},
        {"version": 2},
        {"application": "A" * 64},
    ],
)
def test_refuses_another_form(changed: dict[str, Any]) -> None:
    with pytest.raises(FormatError):
        PodDescriptor.from_object(descriptor(**changed))


def test_names_in_pods() -> None:
    assert package_part_name(7) == "part-007"
    assert token_audience("b" * 64) == "strongroom:" + "b" * 64


@given(st.binary(max_size=3 * DELIVERED_PART_BYTES // 1024), st.randoms(use_true_random=False))
def test_a_delivered_file_comes_back_in_any_order(content: bytes, random: Any) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "DELIVERED_PART_BYTES", 48)
        parts = [parse_event(part.to_json().decode()) for part in delivered_parts("a.receipt.json", content)]
    random.shuffle(parts)
    assert delivered_file([part for part in (*parts, parts[0]) if isinstance(part, Delivered)]) == content


def test_parts_fit_into_a_line_and_say_which_they_are() -> None:
    parts = list(delivered_parts("a.receipt.json", bytes(DELIVERED_PART_BYTES + 1)))
    assert [(part.number, part.of) for part in parts] == [(1, 2), (2, 2)]
    assert max(len(part.to_json()) for part in parts) < 66_000
    assert [(part.number, part.of, part.data) for part in delivered_parts("a.jwe", b"")] == [(1, 1, "")]


def test_a_file_that_was_not_delivered_whole_is_refused() -> None:
    parts = list(delivered_parts("a.jwe", bytes(2 * DELIVERED_PART_BYTES)))
    for wrong in ([], parts[:1], [parts[0], parts[1].model_copy(update={"sha256": "0" * 64})]):
        with pytest.raises(IntegrityError):
            delivered_file(wrong)
    with pytest.raises(IntegrityError, match="not what the driver's TEE sent"):
        delivered_file([parts[0], parts[1].model_copy(update={"data": parts[1].data[:-4] + "BBBB"})])


def test_what_is_too_large_is_not_delivered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "LIMITS", type("Limits", (), {"delivered_bytes": 3}))
    with pytest.raises(LimitError):
        list(delivered_parts("a.jwe", b"four"))


@pytest.mark.parametrize(
    "changed",
    [{"name": "../x"}, {"name": "a/b"}, {"name": ""}, {"number": 0}, {"number": 3}, {"of": 10_000}, {"data": "*"}],
)
def test_refuses_what_is_no_part(changed: dict[str, Any]) -> None:
    part = next(delivered_parts("a.jwe", b"x")).model_dump() | changed
    with pytest.raises(FormatError):
        Delivered.from_object(part)
