"""The product's images are built the same twice.

The services' image is built again each time. Of Spark's, which is six times as large and made by the same builder, it
is kept what a second build made of the same inputs, beside the first one: it is built again when an input has changed.
"""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.support.kubernetes.images import PRODUCT, product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.site import state_folder

KINDS = ("digest", "sbom.json", "measurement.json", "oci.tar")


# A build takes what the tests on clusters leave of the processors, which is little while they begin.
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", PRODUCT)
def test_the_same_inputs_give_the_same_image(name: str, say: Say, tmp_path: Path, repo_root: Path) -> None:
    first = product_archive(name, state_folder(), say=say).path.parent
    kept = first / f"{name}.again.json"
    if name == "service" or not kept.exists():
        build_again(name, tmp_path, repo_root)
        draft = kept.with_suffix(".new")
        draft.write_text(json.dumps(digests(name, tmp_path)))
        draft.replace(kept)

    assert json.loads(kept.read_text()) == digests(name, first)


def build_again(name: str, folder: Path, repository: Path) -> None:
    """Build an image in another environment."""
    build = (sys.executable, str(repository / "deploy/images/build.py"), "--only", name, "--out", str(folder))
    subprocess.run(
        ["nice", "-n", "19", *build],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
    )


def digests(name: str, folder: Path) -> dict[str, str]:
    """The digest of everything that a build wrote of an image."""
    found = {}
    for kind in KINDS:
        with (folder / f"{name}.{kind}").open("rb") as file:
            found[kind] = hashlib.file_digest(file, "sha256").hexdigest()
    return found
