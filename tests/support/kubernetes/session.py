"""A session with a cluster, as a process that can be killed: `python -m tests.support.kubernetes.session SITE BOX`.

It starts the site's cluster, or its node alone, with one pod, says so on standard output, and waits for a line on
standard input to end.
"""

import sys
from pathlib import Path

from tests.support.kubernetes.cluster import LocalCluster
from tests.support.kubernetes.kubebox import Box
from tests.support.kubernetes.pods import pod, pod_spec
from tests.support.kubernetes.site import Site


def main() -> None:
    """Run until told to end."""
    site, folder = Site.from_json(sys.argv[1]), Path(sys.argv[2])
    box = Box(program=folder / "kubebox", podbox=folder / "podbox")
    cluster = LocalCluster.start(site, box, say=lambda _: None)
    try:
        waiting = pod("waiting", "default", pod_spec(cluster.pod_image(), "pause"))
        if site.alone:
            cluster.start_alone(waiting)
        else:
            cluster.create(waiting)
            cluster.kubectl("wait", "--for=condition=Ready", "pod/waiting", "--timeout=60s")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        sys.stdin.readline()
    finally:
        cluster.close()


if __name__ == "__main__":
    main()
