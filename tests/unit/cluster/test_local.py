"""What the supervisor of a run on this machine leaves behind: nothing."""

import resource
import subprocess
import sys
from pathlib import Path

# A child with a child of its own session, and so on: each becomes this process's when the one before has ended.
PROGRAM = """
import ctypes, os, subprocess, sys
from strongroom.cluster import local

assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0
silent = {"stderr": subprocess.DEVNULL, "start_new_session": True}
spared = subprocess.Popen(["sleep", "120"], stdout=subprocess.DEVNULL, **silent)
chain = 'import subprocess, sys, time\\nn = int(sys.argv[1])\\n' \\
    'if n: subprocess.Popen([sys.executable, "-c", sys.argv[2], str(n - 1), sys.argv[2]], start_new_session=True)\\n' \\
    'print(n, flush=True)\\ntime.sleep(120)'
read, write = os.pipe()
subprocess.Popen([sys.executable, "-c", chain, "3", chain], stdout=write, **silent)
os.close(write)
told = b""
while told.count(b"\\n") < 4:
    told += os.read(read, 100)
local._end_children(spare={spared.pid})
assert local._children() == {spared.pid}
assert os.read(read, 100) == b"", "somebody still holds the pipe"
spared.kill()
spared.wait()
"""


def test_ends_children_of_children_in_sessions_of_their_own_too() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


# A limit on file sizes stands for whatever ends the writing of a descriptor in its middle.
CUT_SHORT = """
import sys
from pathlib import Path
from strongroom.base.errors import UnavailableError
from strongroom.cluster.local import LocalCluster
from strongroom.wire.descriptor import Descriptor, DeviceSetting, ServiceAddress, Sizes

folder = Path(sys.argv[1])
service = ServiceAddress(url="https://127.0.0.1:1", certificate_pem="")
descriptor = Descriptor(
    role="driver", application="00" * 32, ticket="a.b.c", device=DeviceSetting(kind="gramine"), package="package",
    scratch="scratch", attestation_service=service, key_services={"00" * 32: service}, storage={},
    sizes=Sizes(driver_memory_mb=256, executor_memory_mb=256, executor_cores=1, executors=1), host="127.0.0.1",
    report="report", output="output",
)
cluster = LocalCluster(folder=folder, memory=folder, on_event=print, max_executors=1)
try:
    cluster.run(descriptor, executors=1)
except UnavailableError as error:
    print(error)
"""


def test_a_descriptor_is_whole_or_is_not_there(tmp_path: Path) -> None:
    """Who follows a run, and what cleans up after it, reads descriptors as soon as they have their name."""
    done = subprocess.run(
        [sys.executable, "-c", CUT_SHORT, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100)),
    )
    assert done.returncode == 0, done.stderr
    assert "driver.descriptor.json" in done.stdout
    assert list(tmp_path.iterdir()) == []
