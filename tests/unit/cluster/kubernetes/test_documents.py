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


def test_no_tag_of_a_document_runs_code(tmp_path: Path) -> None:
    """What it would make is an object of ours, so only what it would do beside that tells."""
    ran = tmp_path / "ran"
    with pytest.raises(ConfigurationError, match="the file is not YAML"):
        parse_yaml(f"a: !!python/object/apply:os.mkdir ['{ran}']".encode(), what="the file")
    assert not ran.exists()


def test_an_object_that_is_too_large_is_not_read() -> None:
    text = b"a: " + b"x" * ((1 << 20) - 3)
    assert parse_yaml(text, what="the file").keys() == {"a"}
    with pytest.raises(ConfigurationError, match="the file"):
        parse_yaml(text + b"x", what="the file")


def test_a_missing_template_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"driver\.yaml cannot be read"):
        read_template(tmp_path / "driver.yaml")


def test_writes_documents_that_it_reads() -> None:
    document = {"kind": "Pod", "text": "ä: \n'x'", "list": [1, True, None]}

    assert parse_yaml(yaml_text([document]).encode(), what="it") == document
    assert yaml_text([document, document]).count("---\n") == 2
