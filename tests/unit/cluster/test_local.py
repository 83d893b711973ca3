"""What the supervisor of a run on this machine leaves behind: nothing."""

import subprocess
import sys

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
