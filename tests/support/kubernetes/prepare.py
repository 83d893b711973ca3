"""Makes what the tests on Kubernetes need: `python -m tests.support.kubernetes.prepare [--nice N]`."""

import argparse
import os
import sys

from tests.support.kubernetes.images import PRODUCT, pod_archive, product_archive
from tests.support.kubernetes.kubebox import built_box
from tests.support.kubernetes.machine import missing
from tests.support.kubernetes.site import state_folder

from strongroom.base.errors import StrongroomError


def main() -> int:
    """Build the cluster's program and the images, as far as they are not there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nice", type=int, default=0, help="by how much others go first (default: 0)")
    options = parser.parse_args()
    lacking = missing()
    if lacking and not os.environ.get("KUBECONFIG"):
        _say(f"kubernetes: {lacking}; the tests of tests/kubernetes are left out")
        return 1 if "CI" in os.environ else 0
    try:
        pod_archive(built_box(state_folder(), say=_say, nice=options.nice))
        for name in PRODUCT:
            product_archive(name, state_folder(), say=_say, nice=options.nice)
    except StrongroomError as error:
        _say(f"kubernetes: {error.message}\n{error.action}")
        return 1
    _say("kubernetes: everything is built")
    return 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
