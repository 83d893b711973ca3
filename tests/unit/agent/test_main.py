import json
import subprocess
import sys

LOOK = """
import ctypes, json, resource
from strongroom.agent import main
resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))
main._harden()
libc, keeps_orphans = ctypes.CDLL(None), ctypes.c_int()
libc.prctl(37, ctypes.byref(keeps_orphans), 0, 0, 0)
print(json.dumps([libc.prctl(3, 0, 0, 0, 0), keeps_orphans.value, *resource.getrlimit(resource.RLIMIT_CORE)]))
"""
"""PR_GET_CHILD_SUBREAPER, PR_GET_DUMPABLE; the number of each is the kernel's."""


def test_an_agents_memory_is_in_no_core_file_and_no_other_processs() -> None:
    ended = subprocess.run([sys.executable, "-c", LOOK], check=True, capture_output=True, text=True)
    is_dumpable, keeps_orphans, core_bytes, most_core_bytes = json.loads(ended.stdout)
    assert not is_dumpable
    assert keeps_orphans
    assert (core_bytes, most_core_bytes) == (0, 0)
