"""Build the SGX enclaves of driver and executors, inside a copy of the Spark image that has the tools in it.

    python3 build.py gramine --key enclave-key.pem --out /strongroom/enclave [--application DIGEST]
    python3 build.py occlum  --key enclave-key.pem --out /strongroom/enclave

Prints the enclaves' measurements as JSON: the reference values of evidence policies. Needs Gramine 1.8 or newer
(gramine-manifest, gramine-manifest-check, gramine-sgx-sign, gramine-sgx-sigstruct-view), or Occlum 0.30 or newer
(occlum, copy_bom) in hardware mode; no SGX hardware and no network. The same files and options give the same
measurements.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

MANIFEST: Final = Path(__file__).parent / "gramine" / "agent.manifest.template"
BOM: Final = Path(__file__).parent / "occlum" / "bom.yaml"
OCCLUM_TEMPLATES: Final = "/opt/occlum/etc/template"
OCCLUM_PROGRAM: Final = "/bin/strongroom-agent"
OCCLUM_ENVIRONMENT: Final = (
    "LANG=C.UTF-8",
    "LC_ALL=C.UTF-8",
    "PATH=/usr/bin:/bin",
    # What Python's option -I is for: no folder of a user's, and none of the script's, before the measured code.
    "PYTHONNOUSERSITE=1",
    "PYTHONSAFEPATH=1",
)
PRODUCT: Final = 1
"""ISVPRODID of Strongroom's agent, as in `strongroom.attestation.evidence.simulated`."""
ROLES: Final = ("driver", "executor")
HOST_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "driver": (
        "SPARK_APPLICATION_ID",
        "SPARK_DRIVER_BIND_ADDRESS",
        "STRONGROOM_POD_NAME",
    ),
    "executor": (
        "SPARK_APPLICATION_ID",
        "SPARK_DRIVER_URL",
        "SPARK_EXECUTOR_CORES",
        "SPARK_EXECUTOR_ID",
        "SPARK_EXECUTOR_MEMORY",
        "SPARK_EXECUTOR_POD_IP",
        "SPARK_EXECUTOR_POD_NAME",
        "SPARK_RESOURCE_PROFILE_ID",
        "STRONGROOM_DRIVER_KEY",
    ),
}
"""What an agent reads of its environment. It checks the form of each; none of them loads code."""
HOST_FOLDERS: Final = (
    "/strongroom/run",
    "/strongroom/package",
    "/strongroom/token",
    "/var/run/secrets/kubernetes.io/serviceaccount",
)
"""What the host hands in: descriptor, package (its copy is measured), tokens."""
MEMORY: Final = "/strongroom/memory"
PROGRAMS: Final = ("/bin/sh",)
"""What runs beside Python and what lies in the measured folders: `bin/java` of the image is a script."""
_FOLDER: Final = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._+-]+)+")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_SIZE: Final = re.compile(r"[1-9][0-9]{0,5}[MG]B?")


def main(arguments: Sequence[str] | None = None) -> None:
    """Build the enclaves and print their measurements."""
    options = parser().parse_args(arguments)
    measured = build_gramine(options) if options.flavour == "gramine" else build_occlum(options)
    print(json.dumps({"sgx": measured}, indent=2))


def parser() -> argparse.ArgumentParser:
    """Return the options; the folders are those of the Spark image."""
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--key", type=Path, required=True, help="the RSA-3072 key (exponent 3) that signs the enclaves")
    both.add_argument("--out", type=Path, required=True, help="where the enclaves go")
    both.add_argument("--size", type=_matching(_SIZE), default="16G", help="the most memory of an enclave")
    both.add_argument("--threads", type=int, default=1024, help="how many threads an enclave may have at once")
    both.add_argument(
        "--security-version", type=int, default=1, help="raise it when older images must not run any more"
    )
    both.add_argument(
        "--storage",
        action="append",
        type=_matching(_FOLDER),
        default=[],
        help="a folder at which datasets' storage is mounted; repeatable",
    )
    result = argparse.ArgumentParser(description="Build the SGX enclaves of driver and executors.")
    flavours = result.add_subparsers(dest="flavour", required=True)
    gramine = flavours.add_parser("gramine", parents=[both], help="two enclaves under Gramine, one a role")
    gramine.add_argument("--application", type=_matching(_DIGEST), help="for one application: its digest")
    gramine.add_argument(
        "--interpreter", type=_matching(_FOLDER), default="/usr/bin/python3.11", help="Python's program"
    )
    gramine.add_argument("--python", type=_matching(_FOLDER), default="/opt/strongroom/venv/bin/python3")
    gramine.add_argument("--libraries", type=_matching(_FOLDER), default="/lib/x86_64-linux-gnu")
    gramine.add_argument(
        "--code",
        action="append",
        type=_matching(_FOLDER),
        help="a folder of the image, all of it measured; repeatable (default: those of the Spark image)",
    )
    flavours.add_parser("occlum", parents=[both], help="one enclave under Occlum, for both roles")
    return result


# --- Gramine ---------------------------------------------------------------------------------------------------------


def build_gramine(options: argparse.Namespace) -> dict[str, Any]:
    """Render and sign the manifests of both roles; return the measurements by role."""
    options.out.mkdir(parents=True, exist_ok=True)
    for role in ROLES:
        for command in gramine_commands(role, gramine_variables(options, role), out=options.out, key=options.key):
            run(command)
    return {role: gramine_reference(_shown(options.out / f"{role}.sig")) for role in ROLES}


def gramine_variables(options: argparse.Namespace, role: str) -> dict[str, str]:
    """Return what the manifest's template is rendered with.

    Raises:
        SystemExit: A folder of the host's lies within the measured code, or the reverse.
    """
    code = options.code or [
        "/opt/strongroom",
        "/usr/lib/python3.11",
        options.libraries,
        f"/usr{options.libraries}",
    ]
    host_folders = [*HOST_FOLDERS, *options.storage]
    for inner, outer in _nested([*code, options.interpreter, *PROGRAMS, MEMORY], host_folders):
        sys.exit(f"{inner} lies in {outer}: a folder is measured, or it is the host's, never both")
    return {
        "role": role,
        "application": options.application or "",
        "interpreter": options.interpreter,
        "python": options.python,
        "libraries": options.libraries,
        "code": ",".join(code),
        "programs": ",".join([options.interpreter, *PROGRAMS]),
        "host_folders": ",".join(host_folders),
        "host_words": ",".join(HOST_WORDS[role]),
        "enclave_size": options.size.removesuffix("B"),
        "max_threads": str(options.threads),
        "product": str(PRODUCT),
        "security_version": str(options.security_version),
    }


def gramine_commands(role: str, variables: Mapping[str, str], *, out: Path, key: Path) -> list[list[str]]:
    """Return Gramine's commands for one enclave, in order."""
    manifest = str(out / f"{role}.manifest")
    defined = [f"-D{name}={value}" for name, value in variables.items()]
    return [
        ["gramine-manifest", *defined, str(MANIFEST), manifest],
        ["gramine-manifest-check", manifest],
        ["gramine-sgx-sign", "--key", str(key), "--manifest", manifest, "--output", f"{manifest}.sgx"],
    ]


def gramine_reference(sigstruct: str) -> dict[str, str | int]:
    """Return what evidence policies compare, out of a signature structure as Gramine shows it.

    Raises:
        SystemExit: It is a debug enclave's, or not as expected.
    """
    shown = json.loads(sigstruct)
    if shown.get("debug_enclave") is not False:
        sys.exit("this is a debug enclave: whoever runs the machine reads it")
    try:
        return {
            "mrenclave": shown["mr_enclave"],
            "mrsigner": shown["mr_signer"],
            "isv_prod_id": shown["isv_prod_id"],
            "isv_svn": shown["isv_svn"],
        }
    except KeyError as missing:
        sys.exit(f"gramine-sgx-sigstruct-view does not say {missing}")


def _shown(sigstruct: Path) -> str:
    return run(["gramine-sgx-sigstruct-view", "--output-format", "json", str(sigstruct)])


def _nested(code: Sequence[str], host: Sequence[str]) -> Iterator[tuple[str, str]]:
    for first in code:
        for second in host:
            if f"{first}/".startswith(f"{second}/"):
                yield first, second
            elif f"{second}/".startswith(f"{first}/"):
                yield second, first


# --- Occlum ----------------------------------------------------------------------------------------------------------


def build_occlum(options: argparse.Namespace) -> dict[str, Any]:
    """Make and sign an instance; return its measurement."""
    run(["occlum", "new", str(options.out)])
    shutil.rmtree(options.out / "image", ignore_errors=True)
    text = json.dumps(occlum_configuration(options), indent=2) + "\n"
    (options.out / "Occlum.json").write_text(text, encoding="utf-8")
    for command in occlum_commands(options.out, key=options.key):
        run(command, folder=options.out)
    printed = {name: run(["occlum", "print", name], folder=options.out) for name in ("mrenclave", "mrsigner")}
    return occlum_reference(printed, security_version=options.security_version)


def occlum_configuration(options: argparse.Namespace) -> dict[str, Any]:
    """Return Occlum's configuration (`Occlum.json`)."""
    words = dict.fromkeys(word for role in ROLES for word in HOST_WORDS[role])
    return {
        "resource_limits": {
            "user_space_size": "1GB",
            "user_space_max_size": f"{options.size.removesuffix('B')}B",
            "kernel_space_heap_size": "256MB",
            "kernel_space_heap_max_size": "1GB",
            "kernel_space_stack_size": "1MB",
            "init_num_of_threads": 64,
            "max_num_of_threads": options.threads,
        },
        "process": {"default_stack_size": "4MB", "default_heap_size": "64MB", "default_mmap_size": "1GB"},
        # The only program that `occlum run` starts. Its arguments are the host's; the agent reads its role there.
        "entry_points": [OCCLUM_PROGRAM],
        "env": {"default": list(OCCLUM_ENVIRONMENT), "untrusted": list(words)},
        "metadata": {
            "product_id": PRODUCT,
            "version_number": options.security_version,
            "debuggable": False,
            "disable_log": True,
            # With it the enclave has CONFIG_ID, where the application's digest stands.
            "enable_kss": True,
            "family_id": {"high": "0x0", "low": "0x0"},
            "ext_prod_id": {"high": "0x0", "low": "0x0"},
        },
        "feature": {"amx": 0, "pkru": 0, "io_uring": 0, "enable_edmm": True, "enable_posix_shm": False},
        "mount": [
            {
                "target": "/",
                "type": "unionfs",
                "options": {
                    "layers": [
                        {"target": "/", "type": "sefs", "source": "./build/mount/__ROOT", "options": {"MAC": ""}},
                        {"target": "/", "type": "sefs", "source": "./run/mount/__ROOT", "options": {"temporary": True}},
                    ]
                },
            },
            *({"target": each, "type": "hostfs", "source": each} for each in (*HOST_FOLDERS, *options.storage)),
            # One enclave holds all processes: what they share stays in its memory.
            {"target": MEMORY, "type": "ramfs"},
            {"target": "/tmp", "type": "ramfs"},  # noqa: S108 - in the enclave
        ],
    }


def occlum_commands(out: Path, *, key: Path) -> list[list[str]]:
    """Return Occlum's commands in the instance's folder, in order."""
    return [
        ["copy_bom", "-f", str(BOM), "--root", str(out / "image"), "--include-dir", OCCLUM_TEMPLATES],
        ["occlum", "build", "--sign-key", str(key.resolve()), "--enable-edmm", "Y"],
    ]


def occlum_reference(printed: Mapping[str, str], *, security_version: int) -> dict[str, str | int]:
    """Return what evidence policies compare.

    Raises:
        SystemExit: Occlum prints no measurements.
    """
    values = {name: text.strip().lower() for name, text in printed.items()}
    for name, value in values.items():
        if not _DIGEST.fullmatch(value):
            sys.exit(f"occlum print {name} printed no measurement")
    return {**values, "isv_prod_id": PRODUCT, "isv_svn": security_version}


# --- both ------------------------------------------------------------------------------------------------------------


def run(command: Sequence[str], *, folder: Path | None = None) -> str:
    """Run one of the tools' commands and return what it prints.

    Raises:
        SystemExit: It is not installed, or it failed.
    """
    try:
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder).stdout
    except FileNotFoundError:
        sys.exit(f"{command[0]} is not installed: build in an image with it")
    except subprocess.CalledProcessError as error:
        sys.exit(f"{command[0]} failed with status {error.returncode}")


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not of the form {pattern.pattern}")
        return text

    return check


if __name__ == "__main__":
    main()
