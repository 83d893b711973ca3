"""`python -P pod_agent.py FOLDER WORD...`: an agent in what looks to it like a pod, on a platform that a test saved.

FOLDER has a pod's folders, the platform, and a Python prefix whose Spark runtime has the test's program as Java.
"""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.platform import Bench
from tests.support.tee import PlatformDevice

from strongroom.agent.main import run_in_pod
from strongroom.agent.pod import PodFolders
from strongroom.base.clock import SystemClock
from strongroom.simulation.platform import SimulatedPlatform


def main(folder: Path, words: list[str]) -> int:
    """Run the agent."""
    sys.prefix = str(folder / "prefix")
    services: Any = SimpleNamespace(platform=Bench.around(SimulatedPlatform.load(folder / "platform")), amd=None)
    folders = PodFolders(
        run=folder / "run",
        package=folder / "package",
        memory=(folder / "memory").resolve(),  # sockets need short paths
        token=folder / "token",
        last_words=folder / "termination-log",
    )
    return run_in_pod(
        words, folders=folders, clock=SystemClock(), device_of=lambda _: PlatformDevice(services=services)
    )


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
