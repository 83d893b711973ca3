"""Pages of the documentation whose commands are run: what is typed, and what is meant to fail."""

import re
from pathlib import Path
from typing import Final

_BLOCK: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFUSED: Final = re.compile(r"\s+# refused: (.+)$")
"""Ends a command that is meant to fail."""


def commands(page: Path) -> list[str]:
    """The page's commands: each begins with a dollar sign; lines that do not, belong to the one before."""
    found: list[str] = []
    for block in _BLOCK.findall(page.read_text(encoding="utf-8")):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(line.removeprefix("$ "))
            else:
                found[-1] += f"\n{line}"
    return found


def script(page: Path) -> str:
    """One shell script of all commands, which ends where one does not end as the page says."""
    lines = ["set -u"]
    for command in commands(page):
        expected = 1 if REFUSED.search(command) else 0
        lines += [command, f'status=$?; [ $status = {expected} ] || {{ echo "ended with $status" >&2; exit 99; }}']
    return "\n".join(lines)
