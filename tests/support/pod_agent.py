"""`python -P pod_agent.py FOLDER WORD...`: an agent in what looks to it like a pod, on a platform that a test saved.

FOLDER has a pod's folders, the platform, and a Python prefix whose Spark runtime has the test's program as Java;
without a prefix Spark is the real one. The word `standalone`: the agent is a standalone cluster's, by descriptor.json.

What quotes it is the platform, whatever device the descriptor names: as `tee.json` says (`kind`, and fields of reports
in hexadecimal digits). With a folder `root` it is the device that the descriptor names, if it is there.
"""

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.support.platform import Bench
from tests.support.tee import PlatformDevice

from strongroom.agent.main import Tee, run_in_pod
from strongroom.agent.pod import PodFolders
from strongroom.agent.report import Report
from strongroom.agent.standalone import begin_on_machine
from strongroom.attestation.attester import Device, Machine, open_device
from strongroom.base.clock import SystemClock
from strongroom.simulation.platform import SimulatedPlatform
from strongroom.wire.descriptor import Descriptor, DeviceSetting


def main(folder: Path, words: list[str]) -> int:
    """Run the agent."""
    if (folder / "prefix").exists():
        sys.prefix = str(folder / "prefix")
    services: Any = SimpleNamespace(platform=Bench.around(SimulatedPlatform.load(folder / "platform")), amd=None)
    folders = PodFolders(
        run=folder / "run",
        package=folder / "package",
        memory=(folder / "memory").resolve(),  # sockets need short paths
        token=folder / "token",
        last_words=folder / "termination-log",
    )
    device_of = _devices(folder, services)
    if words == ["standalone"]:
        # As in a pod, the folder of scratch is not the host's word.
        descriptor = Descriptor.from_json((folder / "descriptor.json").read_bytes())
        report = Report.in_file(Path(descriptor.report))
        tee = Tee(
            report=report,
            scratch=folders.scratch,
            scratch_named_by_host=False,
            clock=SystemClock(),
            device_of=device_of,
        )
        return tee.run(lambda: begin_on_machine(descriptor, report=report))
    return run_in_pod(words, folders=folders, clock=SystemClock(), device_of=device_of)


def _devices(folder: Path, services: Any) -> Callable[[DeviceSetting], Device]:
    if (folder / "root").exists():
        return partial(open_device, machine=Machine(root=folder / "root"))
    tee = json.loads((folder / "tee.json").read_text()) if (folder / "tee.json").exists() else {}
    kind = tee.pop("kind", "sgx")
    device = PlatformDevice(services=services, kind=kind, changed={name: bytes.fromhex(tee[name]) for name in tee})
    return lambda _: device


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), sys.argv[2:]))
