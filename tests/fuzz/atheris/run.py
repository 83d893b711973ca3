"""Fuzz parsers guided by coverage: `make fuzz ARGS='--target sgx-quote --seconds 120'`, or `--all`.

Each target runs in a process of its own for so many seconds, from the samples and from what earlier runs found. Targets
that are joined with commas share one process: each input goes to all of them. A finding is a Python exception that the
table does not allow: its input is kept in `build/fuzz/NAME/crash-…` (many names: their SHA-256), and becomes a test of
the parser.
"""

import argparse
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["strongroom"]):
    from tests.fuzz.target import Target
    from tests.fuzz.targets import TARGETS

_ROOT = Path(__file__).parents[3]
_FOLDER = _ROOT / "build" / "fuzz"
_MAX_INPUT_BYTES = 32 << 10
_MAX_NAME = 200
_BY_NAME = {target.name: target for target in TARGETS}
_EXECUTIONS = re.compile(r"stat::number_of_executed_units:\s*([0-9]+)")


def main() -> int:
    """Run one target in this process, or several, each in its own; the exit status is the number of findings."""
    options = _options()
    if options.in_process:
        _fuzz(options.target[0], seconds=options.seconds)
    findings = 0
    for name in options.target:
        command = [sys.executable, "-m", "tests.fuzz.atheris.run", "--target", name, "--in-process"]
        done = subprocess.run(
            [*command, "--seconds", str(options.seconds)], cwd=_ROOT, capture_output=True, text=True, check=False
        )
        executions = _EXECUTIONS.search(done.stderr)
        findings += bool(done.returncode)
        said = "" if not done.returncode else f"\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        count = executions[1] if executions else "?"
        sys.stdout.write(f"{name}: {count} executions, {'a finding' if said else 'no finding'}{said}\n")
        sys.stdout.flush()
    return findings


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--target", action="append", metavar="NAME[,NAME]")
    which.add_argument("--all", action="store_true", help="every target, one after the other")
    which.add_argument("--list", action="store_true", help="print the names of the targets")
    parser.add_argument("--seconds", type=int, default=120, help="for each target (default: 120)")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.list:
        sys.stdout.write("".join(f"{name}\n" for name in _BY_NAME))
        sys.exit(0)
    options.target = options.target or list(_BY_NAME)
    unknown = {name for names in options.target for name in names.split(",")} - _BY_NAME.keys()
    if unknown:
        parser.error(f"there is no target {', '.join(sorted(unknown))}: see --list")
    return options


def _fuzz(names: str, *, seconds: int) -> None:
    targets = [_BY_NAME[name] for name in names.split(",")]
    folder = _FOLDER / (names if len(names) <= _MAX_NAME else hashlib.sha256(names.encode()).hexdigest())
    corpus = folder / "corpus"
    corpus.mkdir(parents=True, exist_ok=True)
    for sample in (sample for target in targets for sample in target.samples()):
        (corpus / hashlib.sha256(sample).hexdigest()).write_bytes(sample)
    arguments = [
        sys.argv[0],
        str(corpus),
        f"-max_total_time={seconds}",
        f"-max_len={_MAX_INPUT_BYTES}",
        f"-artifact_prefix={folder}/",
        "-print_final_stats=1",
        "-rss_limit_mb=4096",
        "-timeout=30",
    ]
    atheris.Setup(arguments, lambda data: _check(targets, data))
    atheris.Fuzz()


def _check(targets: Sequence[Target], data: bytes) -> None:
    for target in targets:
        target.check(data)


if __name__ == "__main__":
    sys.exit(main())
