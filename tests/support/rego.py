"""Policies in Rego, asked as Kata's agent asks.

The engine is rego-cpp (`regopy`); Kata's agent has regorus, for which the package registry has no official package.
"""

import json
from collections.abc import Mapping
from typing import Any

from regopy import Interpreter, RegoError


class Policy:
    """A policy.

    Args:
        text: Its text.
        package: Its package.
    """

    def __init__(self, text: str, *, package: str) -> None:
        self.text = text
        self._package = package
        self._interpreter = Interpreter()
        self._interpreter.add_module("policy", text)

    def allows(self, rule: str, request: Mapping[str, Any]) -> bool:
        """Return whether a rule allows a request: what is not there, or cannot be evaluated, does not."""
        self._interpreter.set_input_term(json.dumps(request))
        try:
            output = self._interpreter.query(f"data.{self._package}.{rule}")
        except RegoError:
            return False
        return bool(output.ok()) and [list(result.expressions) for result in output.results] == [[True]]
