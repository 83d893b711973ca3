"""The chart as it is rendered: for which values, and with which Helm. As a program it writes the golden files."""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import yaml
from tests.support.kubernetes.kubebox import built_box
from tests.support.kubernetes.site import state_folder
from tests.support.platform import NOW

from strongroom.crypto.keys import SigningKey
from strongroom.crypto.x509 import new_identity, to_pem

ROOT: Final = Path(__file__).parents[2]
CHART: Final = ROOT / "deploy" / "charts" / "strongroom"
FOLDER: Final = ROOT / "tests" / "golden" / "charts"
NAMESPACE: Final = "strongroom"
DATABASE: Final = (
    "postgresql://{0}@postgres.example:6432/{0}"
    "?sslmode=verify-full&passfile=/strongroom/private/pgpass&sslrootcert=/strongroom/private/root.crt"
)
SETS: Final[Mapping[str, tuple[str, ...] | None]] = {
    "simulated": (),
    "postgres": (
        *("--replicas", "3"),
        *("--database", DATABASE.format("keys"), "--file", "pgpass=pgpass", "--file", "root.crt=root.pem"),
        *("--attestation-database", DATABASE.format("attestation")),
        *("--attestation-file", "pgpass=pgpass", "--attestation-file", "root.crt=root.pem"),
    ),
    "confidential-node": ("--shape", "confidential-node", "--root", "root.pem", "--collateral"),
    "sgx": ("--shape", "sgx", "--root", "root.pem"),
    "custody": ("--collateral",),
    "runs-only": None,
}
"""By name: the owner's options of `strongroom chart values`; None where no service is installed."""

Helm = Callable[..., str]
"""Runs helm with some arguments, and returns what it prints."""


def files_of(name: str) -> tuple[Path, ...]:
    """The files with one set's values, in the order in which Helm reads them."""
    owners, operators = FOLDER / f"{name}.values.yaml", FOLDER / f"{name}.site.yaml"
    return (owners, operators) if SETS[name] is not None else (operators,)


def rendered(helm: Helm, *files: Path, sets: tuple[str, ...] = ()) -> str:
    """What Helm makes of the chart and some values."""
    values = [f"--values={file}" for file in files]
    changed = [f"--set={each}" for each in sets]
    return helm("template", "strongroom", str(CHART), f"--namespace={NAMESPACE}", *values, *changed)


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in a text of YAML documents."""
    return [each for each in yaml.safe_load_all(text) if each is not None]


def configurations(objects: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The configuration file of each service among some objects, by the service's name."""
    for each in objects:
        if each["kind"] == "ConfigMap" and "config.json" in each.get("data", {}):
            yield each["metadata"]["name"], each["data"]["config.json"]


def pod_templates(objects: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The pod of each workload among some objects, by the workload's name."""
    for each in objects:
        if each["kind"] in {"StatefulSet", "DaemonSet", "Deployment"}:
            yield each["metadata"]["name"], each["spec"]["template"]


def write_values(folder: Path, name: str, options: tuple[str, ...]) -> Path:
    """Write an owner's part of some values into a folder, under new keys; return the file."""
    key = SigningKey.generate("ES256")
    root = new_identity(common_name="A vendor", key=key, not_before=NOW, not_after=NOW.replace(year=2046))
    (folder / "root.pem").write_text(to_pem(root))
    (folder / "pgpass").write_text("postgres.example:6432:keys:keys:a password")
    program = [sys.executable, "-I", "-m", "strongroom.cli.main", "chart", "values", "--out", "install"]
    subprocess.run([*program, "--state", name, *options], cwd=folder, check=True, capture_output=True)
    return folder / "install" / "values.yaml"


def main() -> None:
    """Write the golden files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", action="store_true", help="make the owners' parts first, under new keys")
    given = parser.parse_args()
    box = built_box(state_folder(), say=lambda text: sys.stderr.write(f"{text}\n"))

    def helm(*arguments: str) -> str:
        return subprocess.run([str(box.program), "helm", *arguments], check=True, capture_output=True, text=True).stdout

    for name, options in SETS.items():
        if given.values and options is not None:
            with tempfile.TemporaryDirectory() as folder:
                made = write_values(Path(folder), name, options)
                (FOLDER / f"{name}.values.yaml").write_bytes(made.read_bytes())
        (FOLDER / f"{name}.yaml").write_text(rendered(helm, *files_of(name)))
        sys.stdout.write(f"{name}: {json.dumps(len(documents((FOLDER / f'{name}.yaml').read_text())))} objects\n")


if __name__ == "__main__":
    main()
