"""The product's images are built the same twice."""

import filecmp
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.kubernetes.images import PRODUCT, product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.site import state_folder

ABOUT = ("digest", "sbom.json", "measurement.json")


@pytest.mark.parametrize("name", PRODUCT)
def test_the_same_inputs_give_the_same_image(name: str, say: Say, tmp_path: Path, repo_root: Path) -> None:
    first = product_archive(name, state_folder(), say=say).path

    second = built_again(name, first, repo_root=repo_root, scratch=tmp_path)

    for kind in ABOUT:
        assert filecmp.cmp(first.with_name(f"{name}.{kind}"), second / f"{name}.{kind}", shallow=False), kind


def built_again(name: str, first: Path, *, repo_root: Path, scratch: Path) -> Path:
    """Return what a second build wrote of its image; it lies beside the first, and is made once for the same inputs."""
    kept = first.parent / "again"
    if not kept.exists():
        subprocess.run(
            [sys.executable, str(repo_root / "deploy/images/build.py"), "--only", name, "--out", str(scratch)],
            check=True,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        )
        assert filecmp.cmp(first, scratch / first.name, shallow=False), "the archives differ"
        new = first.parent / f"again.{os.getpid()}.new"
        new.mkdir()
        for kind in ABOUT:
            (new / f"{name}.{kind}").write_bytes((scratch / f"{name}.{kind}").read_bytes())
        new.rename(kept)
    return kept
