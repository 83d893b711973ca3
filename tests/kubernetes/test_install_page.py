"""The operator's page, followed from top to bottom in an empty folder with a real cluster."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.charts import CHART
from tests.support.installed_chart import service_image
from tests.support.kubernetes.cluster import Cluster
from tests.support.kubernetes.images import product_archive
from tests.support.kubernetes.kubebox import Say
from tests.support.kubernetes.site import state_folder
from tests.support.pages import REFUSED, commands, script

pytestmark = pytest.mark.timeout(1800)

NAMESPACES = ("strongroom", "strongroom-platform", "team-a", "team-b")


@pytest.fixture
def programs(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """kubectl and helm as an operator has them: by their names."""
    if taken := [name for name in NAMESPACES if cluster.exists("namespace", name)]:
        pytest.fail(f"the page is followed in a cluster without the namespaces {', '.join(taken)}")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("kubectl", "helm"):
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec "{cluster.box.program}" {name} "$@"\n')
        program.chmod(0o755)
    yield folder
    for name in NAMESPACES:
        cluster.delete("namespace", name, wait=False)


def test_the_page_for_operators_works_as_it_stands(
    cluster: Cluster, programs: Path, say: Say, repo_root: Path, tmp_path: Path
) -> None:
    page = repo_root / "docs" / "how-to" / "kubernetes.md"
    image = service_image(cluster, say=say)
    spark = product_archive("spark", state_folder(), say=say).path
    folder = tmp_path / "empty"
    folder.mkdir()
    for measured in (image.measurement, spark.with_name("spark.measurement.json")):
        (folder / measured.name).write_bytes(measured.read_bytes())
    environment = {
        "PATH": f"{programs}:{Path(sys.executable).parent}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "LANG": "C.UTF-8",
        "KUBECONFIG": str(cluster.kubeconfig),
        "CHART": str(CHART),
        "SERVICE_IMAGE": image.reference,
        "PULL_POLICY": "IfNotPresent",
        **{name: os.environ[name] for name in ("TMPDIR",) if name in os.environ},
    }
    log = tmp_path / "said"
    with log.open("wb") as file:
        shell = subprocess.Popen(
            ["bash", "-x", "-c", script(page)],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = shell.wait(1500)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)  # what the page started in the background, too
            shell.wait()
    said = log.read_text(errors="replace")
    assert status == 0, said[-6000:]
    assert "Traceback" not in said
    assert len([command for command in commands(page) if REFUSED.search(command)]) >= 2
