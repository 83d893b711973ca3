import json

import pytest

from strongroom.base.errors import FormatError
from strongroom.cli.yaml_text import to_yaml


def test_values_stand_in_jsons_words() -> None:
    value = {"texts": ["no", "0440", "a: b\n"], "number": 3, "empty": {}, "none": None, "flag": False}
    assert to_yaml(value) == (
        'texts:\n  - "no"\n  - "0440"\n  - "a: b\\n"\nnumber: 3\nempty: {}\nnone: null\nflag: false\n'
    )


def test_mappings_are_blocks_with_their_comments() -> None:
    value = {"service": {"url": "https://x", "storage": {"size": "1Gi"}}, "list": []}
    comments = {"service": "What\nit is.", "service.storage.size": "How much."}
    assert to_yaml(value, comments=comments) == (
        '# What\n# it is.\nservice:\n  url: "https://x"\n  storage:\n    # How much.\n    size: "1Gi"\nlist: []\n'
    )


def test_what_stands_in_a_list_is_json() -> None:
    key = json.dumps({"kty": "EC", "y": "n"})
    assert to_yaml({"owners": [key], "roots": [{"simulated": True, "y": "n"}]}) == (
        f'owners:\n  - {json.dumps(key)}\nroots:\n  - {{"simulated": true, "y": "n"}}\n'
    )


@pytest.mark.parametrize("name", ["y", "on", "No", "", "a b", "x:", "-a", "1a"])
def test_refuses_names_that_yaml_reads_otherwise(name: str) -> None:
    with pytest.raises(FormatError):
        to_yaml({name: 1})
