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


# A build takes what the tests on clusters leave of the processors, which is little while they begin.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PRODUCT)
def test_the_same_inputs_give_the_same_image(name: str, say: Say, tmp_path: Path, repo_root: Path) -> None:
    first = product_archive(name, state_folder(), say=say).path

    build = (sys.executable, str(repo_root / "deploy/images/build.py"), "--only", name, "--out", str(tmp_path))
    subprocess.run(
        ["nice", "-n", "19", *build],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )

    for kind in ("digest", "sbom.json", "measurement.json", "oci.tar"):
        assert filecmp.cmp(first.with_name(f"{name}.{kind}"), tmp_path / f"{name}.{kind}", shallow=False), kind
