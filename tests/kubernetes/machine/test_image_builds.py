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


@pytest.mark.parametrize("name", PRODUCT)
def test_the_same_inputs_give_the_same_image(name: str, say: Say, tmp_path: Path, repo_root: Path) -> None:
    first = product_archive(name, state_folder(), say=say).path

    subprocess.run(
        [sys.executable, str(repo_root / "deploy/images/build.py"), "--only", name, "--out", str(tmp_path)],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )

    for kind in ("digest", "sbom.json", "measurement.json", "oci.tar"):
        assert filecmp.cmp(first.with_name(f"{name}.{kind}"), tmp_path / f"{name}.{kind}", shallow=False), kind
