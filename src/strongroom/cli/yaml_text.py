"""YAML that every reader reads alike: names as they are, values in JSON's words.

Helm reads YAML 1.1, in which `y`, `no` and `on` are truth values and `0440` is a number. A quoted text never is.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Final

from strongroom.base.encoding import Json
from strongroom.base.errors import FormatError

_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9]+")
_TRUTH_VALUES: Final = frozenset({"yes", "no", "true", "false", "on", "off", "null"})
_INDENT: Final = "  "


def to_yaml(value: Mapping[str, Json], *, comments: Mapping[str, str] | None = None, path: str = "") -> str:
    """Return a mapping as YAML, block by block; lists and what stands in them are written as JSON.

    Args:
        value: What is written. Names are letters and digits, at least two.
        comments: What to write above a member, by its dotted path.
        path: The dotted path of `value` itself.

    Raises:
        FormatError: A name could be read as something else.
    """
    lines: list[str] = []
    indent = _INDENT * (path.count(".") + 1 if path else 0)
    for name, member in value.items():
        if not _NAME.fullmatch(name) or name.lower() in _TRUTH_VALUES:
            raise FormatError(f"{name!r} is no name that YAML takes as it is")
        place = f"{path}.{name}" if path else name
        lines += [f"{indent}# {line}" for line in (comments or {}).get(place, "").splitlines()]
        if isinstance(member, Mapping) and member:
            lines += [f"{indent}{name}:", to_yaml(member, comments=comments, path=place).rstrip("\n")]
        elif isinstance(member, Sequence) and not isinstance(member, str) and member:
            lines += [f"{indent}{name}:", *(f"{indent}{_INDENT}- {_json(each)}" for each in member)]
        else:
            lines.append(f"{indent}{name}: {_json(member)}")
    return "\n".join(lines) + "\n"


def _json(value: Json) -> str:
    return json.dumps(value, default=list)
