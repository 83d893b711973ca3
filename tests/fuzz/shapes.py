"""Shapes of pods: options as people write them, and templates of pods as people bring them."""

import json
from typing import Any

from tests.fuzz.target import Target, of_text, text_of
from tests.support.shapes import CASES, LAUNCH, Case, pod

from strongroom.base.encoding import parse_json_object
from strongroom.base.errors import ConfigurationError, FormatError
from strongroom.cluster.shapes import apply_overlay, parse_shape, render_overlay


def _shape(text: str) -> Any:
    """Read a name and its options, one a line, and render what they say."""
    name, *lines = text.split("\n")
    shape = parse_shape(name, dict(line.partition("=")[::2] for line in lines if line))
    return json.dumps(render_overlay(shape, LAUNCH, role="driver").to_json())


def _lines(case: Case) -> bytes:
    options = {name: value for name, value in case.options.items() if "\n" not in value}
    return "\n".join([case.shape, *(f"{name}={value}" for name, value in options.items())]).encode()


def _template(data: bytes) -> Any:
    template = parse_json_object(text_of(data))
    merged = [apply_overlay(template, case.overlay(), container="spark-kubernetes-driver") for case in CASES.values()]
    return json.dumps(merged)


POD_SHAPES: tuple[Target, ...] = (
    Target(
        name="shape",
        parse=of_text(_shape),
        samples=lambda: [_lines(case) for case in CASES.values()],
        refusals=(FormatError, ConfigurationError),
    ),
    Target(
        name="pod-template",
        parse=_template,
        samples=lambda: [
            json.dumps(pod(name, namespace="runs")).encode() for name, case in CASES.items() if case.role == "driver"
        ],
        refusals=(FormatError, ConfigurationError),
    ),
)
