"""What the build is told, and which builds are kept."""

import os
from pathlib import Path

from tests.support.kubernetes.kubebox import SOURCES, forget_old, kubernetes_version, linker_flags


def test_the_version_comes_from_the_modules() -> None:
    version = kubernetes_version((SOURCES / "go.mod").read_text())

    assert version.startswith("v1.36.")
    flags = linker_flags("v1.36.4")
    assert "-X k8s.io/component-base/version.gitVersion=v1.36.4" in flags
    assert "-X k8s.io/component-base/version.gitMinor=36" in flags


def test_every_staging_module_is_replaced_by_the_same_version() -> None:
    text = (SOURCES / "go.mod").read_text()
    staging = kubernetes_version(text).replace("v1.", "v0.")
    replaced = [line.split() for line in text.partition("replace (")[2].splitlines() if "=>" in line]

    assert len(replaced) > 30
    assert all(name == target and version == staging for name, _, target, version in replaced)


def test_the_builds_used_last_are_kept(tmp_path: Path) -> None:
    for age, name in enumerate(("newest", "new", "old", "oldest")):
        (tmp_path / name).mkdir()
        os.utime(tmp_path / name, (1000 - age, 1000 - age))

    forget_old(tmp_path, kept=2)
    assert {path.name for path in tmp_path.iterdir()} == {"newest", "new"}
