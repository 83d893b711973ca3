"""Compute the launch measurement of an SEV-SNP guest: the reference value of evidence policies.

    python3 measure.py --firmware OVMF.fd --kernel vmlinuz --append "$(cat cmdline)" --vcpus 1 --vcpus 2

Prints MEASUREMENT for each number of virtual processors: the state of each of them is measured, so guests of different
sizes have different measurements. Kata starts as many as its configuration says and the pod's limits add. Firmware,
kernel, initial file system and command line are those of the RuntimeClass (configuration-qemu-snp.toml); the root file
system is measured by its dm-verity hash, which stands in the command line.

Needs the package sev-snp-measure, no hardware and no network.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST_PROCESSORS = 512
SNP_ACTIVE = 0x1


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the measurements as JSON."""
    options = parser().parse_args(arguments)
    print(json.dumps(measurements(options), indent=2))


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    result = argparse.ArgumentParser(description="Compute the launch measurement of an SEV-SNP guest.")
    result.add_argument("--firmware", type=Path, required=True, help="the guest's firmware (OVMF), built for SEV-SNP")
    result.add_argument("--kernel", type=Path, help="the kernel that the host hands to the firmware, with its hash")
    result.add_argument("--initrd", type=Path, help="the initial file system, handed over likewise")
    result.add_argument("--append", default="", help="the kernel's command line, exactly")
    result.add_argument(
        "--vcpus", type=_processors, action="append", help="virtual processors; repeatable [default: 1]"
    )
    result.add_argument(
        "--vcpu-type", default="EPYC-v4", help="QEMU's name of the processor (default: EPYC-v4, Kata's)"
    )
    result.add_argument(
        "--guest-features",
        type=lambda text: int(text, 0),
        default=SNP_ACTIVE,
        help="the guest's SEV_FEATURES (default: 0x1; 0x21 where the host's kernel switches DebugSwap on)",
    )
    return result


def measurements(options: argparse.Namespace) -> dict[str, Any]:
    """Return the measurements, each with what it is for.

    Raises:
        SystemExit: The package is not installed, a file cannot be read, or the firmware is not built for SEV-SNP.
    """
    try:
        from sevsnpmeasure import guest  # noqa: PLC0415 - what this script is for may be missing
        from sevsnpmeasure.sev_mode import SevMode  # noqa: PLC0415
        from sevsnpmeasure.vcpu_types import CPU_SIGS  # noqa: PLC0415
    except ImportError:
        sys.exit("the package sev-snp-measure is not installed: pip install sev-snp-measure")
    if options.vcpu_type not in CPU_SIGS:
        sys.exit(f"{options.vcpu_type} is not a processor of QEMU's; known are {', '.join(sorted(CPU_SIGS))}")
    if (options.initrd or options.append) and options.kernel is None:
        sys.exit("initial file system and command line are measured together with a kernel: give --kernel")
    found = []
    for count in sorted(set(options.vcpus or [1])):
        try:
            digest = guest.calc_launch_digest(
                SevMode.SEV_SNP,
                count,
                CPU_SIGS[options.vcpu_type],
                str(options.firmware),
                str(options.kernel) if options.kernel else "",
                str(options.initrd) if options.initrd else "",
                options.append,
                options.guest_features,
            )
        except OSError as error:
            sys.exit(f"{error.filename} cannot be read: {error.strerror}")
        except (RuntimeError, ValueError) as error:
            sys.exit(f"{options.firmware.name} cannot be measured: {error}")
        found.append({"vcpus": count, "measurement": digest.hex()})
    return {"tee": "snp", "claim": "x-ms-sevsnpvm-launchmeasurement", "measurements": found}


def _processors(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= MOST_PROCESSORS:
        raise argparse.ArgumentTypeError(f"a number from 1 to {MOST_PROCESSORS}")
    return int(text)


if __name__ == "__main__":
    main()
