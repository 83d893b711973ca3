from pathlib import Path

import pytest

from strongroom.base.errors import ConfigurationError
from strongroom.cluster.kubernetes.documents import parse_yaml, read_template, yaml_text


def test_reads_a_template_in_yaml_or_json(tmp_path: Path) -> None:
    yaml, json = tmp_path / "driver.yaml", tmp_path / "driver.json"
    yaml.write_text("kind: Pod\nspec:\n  nodeSelector: {disk: fast}\n")
    json.write_text('{"kind": "Pod", "spec": {"nodeSelector": {"disk": "fast"}}}')

    assert read_template(yaml) == read_template(json) == {"kind": "Pod", "spec": {"nodeSelector": {"disk": "fast"}}}


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"- a",
        b"a: [",
        b"a: 1\n---\nb: 2",
        b"!!python/object/apply:os.system [id]",
        b"\xff\xfe\x00",
        b"x" * (2 << 20),
    ],
)
def test_refuses_what_is_not_one_object(text: bytes) -> None:
    with pytest.raises(ConfigurationError, match="the file"):
        parse_yaml(text, what="the file")


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"driver\.yaml cannot be read"):
        read_template(tmp_path / "driver.yaml")


def test_writes_documents_that_it_reads() -> None:
    document = {"kind": "Pod", "text": "ä: \n'x'", "list": [1, True, None]}

    assert parse_yaml(yaml_text([document]).encode(), what="it") == document
    assert yaml_text([document, document]).count("---\n") == 2
