"""`strongroom submit --compat bigdl`: the words of BigDL PPML's `bigdl-ppml-submit.sh`, in Strongroom's.

Each of its own flags is here, and what becomes of it; the page `docs/how-to/from-bigdl.md` shows this list. What is not
here goes on as it is, as that script gave it to Spark.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import click

from strongroom.cluster.kubernetes.settings import (
    DRIVER_OVERHEAD,
    DRIVER_TEMPLATE,
    EXECUTOR_OVERHEAD,
    EXECUTOR_TEMPLATE,
    IMAGE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What becomes of a flag, a setting or a variable.

    Attributes:
        becomes: What takes its place; empty where nothing does.
        why: What a person should know, in a few words.
        refused: Whether a command line with it is refused.
    """

    becomes: str
    why: str
    refused: bool = False


FLAGS: Final[Mapping[str, Fate]] = {
    "--master": Fate(becomes="--master", why="k8s://… as it is; local and local[N] run on this machine"),
    "--deploy-mode": Fate(
        becomes="--deploy-mode", why="cluster; client is refused on a cluster: the driver needs a TEE"
    ),
    "--sgx-enabled": Fate(becomes="", why="true: always so; false is refused: use spark-submit; --tee says which kind"),
    "--sgx-driver-jvm-memory": Fate(
        becomes="--driver-memory", why=f"the heap; the rest of BigDL's --driver-memory becomes {DRIVER_OVERHEAD}"
    ),
    "--sgx-executor-jvm-memory": Fate(
        becomes="--executor-memory", why=f"the heap; the rest of BigDL's --executor-memory becomes {EXECUTOR_OVERHEAD}"
    ),
    "--driver-template": Fate(becomes=f"--conf {DRIVER_TEMPLATE}", why="merged with what the agent needs"),
    "--executor-template": Fate(becomes=f"--conf {EXECUTOR_TEMPLATE}", why="merged with what the agent needs"),
    "--driver-cores": Fate(becomes="--driver-cores", why="on a cluster; on this machine the driver uses what it needs"),
    "--verbose": Fate(becomes="", why="every step is shown anyway"),
    "--log-file": Fate(becomes="", why="send the output where you want it: strongroom submit … > FILE", refused=True),
    "--key-store": Fate(becomes="", why="the keys of the channel are made in the TEEs: leave it out", refused=True),
    "--sgx-driver-memory": Fate(
        becomes="", why=f"the pod's memory counts: --driver-memory and --conf {DRIVER_OVERHEAD}", refused=True
    ),
    "--sgx-executor-memory": Fate(
        becomes="", why=f"the pod's memory counts: --executor-memory and --conf {EXECUTOR_OVERHEAD}", refused=True
    ),
    "--sgx-log-level": Fate(becomes="", why="what agents tell is fixed, and holds no data: leave it out", refused=True),
}
"""The script's own flags, those of older versions included."""

SETTINGS: Final[Mapping[str, Fate]] = {
    "spark.cores.max": Fate(becomes="", why="--num-executors times --executor-cores"),
    "spark.kubernetes.file.upload.path": Fate(becomes="", why="the packed application travels by itself"),
    "spark.bigdl.": Fate(
        becomes="", why="keys are their owners': name data with --dataset, a vault's key with --vault", refused=True
    ),
    "spark.kubernetes.sgx.": Fate(becomes="", why="every run is in TEEs: leave it out", refused=True),
    "spark.hadoop.io.compression.codecs": Fate(
        becomes="", why="encrypted data is read as strongroom://NAME, with no codec", refused=True
    ),
}
"""Settings that BigDL's pages give with --conf; a name that ends in a point stands for all that begin so."""

VARIABLES: Final[Mapping[str, Fate]] = {
    "RUNTIME_SPARK_MASTER": Fate(becomes="--master", why="where --master is not given"),
    "RUNTIME_K8S_SPARK_IMAGE": Fate(becomes=f"--conf {IMAGE}", why="where no image is given; by its digest"),
    "RUNTIME_DRIVER_MEMORY": Fate(becomes="--driver-memory", why="where --driver-memory is not given"),
    "RUNTIME_DRIVER_HOST": Fate(becomes="", why="not read: the driver is a pod"),
    "RUNTIME_DRIVER_PORT": Fate(becomes="", why="not read: the driver is a pod"),
    "LOCAL_IP": Fate(becomes="", why="not read: the driver is a pod"),
    "secure_password": Fate(becomes="", why="not read: no key has a password in the environment"),
    "ENCRYPTED_FSD": Fate(becomes="", why="not read: scratch is always protected"),
}
"""Variables that the script reads."""

_FLAGS_WITHOUT_VALUE: Final = frozenset(
    {"--verbose", "--wait", "--no-wait", "--allow-image-tag", "--supervise", "--load-spark-defaults", "-h", "--help"}
)
_LOCAL: Final = re.compile(r"local(?:\[(?P<cores>[0-9]+|\*)\])?")
_MEMORY: Final = re.compile(r"(?P<number>[0-9]+)(?P<unit>[kmgt]?)b?", re.IGNORECASE)
_MIB: Final[Mapping[str, float]] = {"k": 1 / 1024, "m": 1, "": 1, "g": 1024, "t": 1024 * 1024}
_IN_IMAGE: Final = "local://"
_IMAGE: Final = "image"
_OVERHEADS: Final[Mapping[str, str]] = {"driver": DRIVER_OVERHEAD, "executor": EXECUTOR_OVERHEAD}


@dataclass(slots=True, kw_only=True)
class _Words:
    """A command line of the script's, read.

    Attributes:
        options: Its own options that take part in the translation, by name.
        settings: Its --conf, but for those that have no meaning here.
        passed: Everything else before the application, as it is.
        application: The application and its arguments.
    """

    options: dict[str, str] = field(default_factory=dict)
    settings: list[str] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    application: list[str] = field(default_factory=list)


def translate(words: Sequence[str], *, variables: Mapping[str, str]) -> list[str]:
    """Return the arguments of `strongroom submit` for those of `bigdl-ppml-submit.sh`.

    Args:
        words: The script's arguments; options of `strongroom submit` may stand among them.
        variables: The environment's variables that the script reads (`VARIABLES`).

    Raises:
        click.UsageError: Something has no place here; what to do instead is said.
    """
    read = _read(words)
    options = {**_defaults(variables), **read.options}
    master = options.get("--master", "local")
    local = _LOCAL.fullmatch(master)
    _check_protection(options, is_local=local is not None)
    translated = ["--master", "local" if local else master]
    if local is None:
        roles = [word for role in _OVERHEADS for word in (*_memory_of_pod(role, options), *_template(role, options))]
        translated += [*roles, *_of_the_cluster(options, read.settings)]
    else:
        translated += [*_threads(local, read.passed), *(word for role in _OVERHEADS for word in _heap(role, options))]
    settings = [word for setting in read.settings for word in ("--conf", setting)]
    return [*translated, *settings, *read.passed, *read.application]


def _check_protection(options: Mapping[str, str], *, is_local: bool) -> None:
    if options.get("--sgx-enabled", "true") != "true":
        raise _refusal("--sgx-enabled false", FLAGS["--sgx-enabled"].why)
    if options.get("--deploy-mode") == "client" and not is_local:
        raise _refusal("--deploy-mode client", "the driver needs a TEE of the cluster's: --deploy-mode cluster")


def _threads(local: re.Match[str], passed: Sequence[str]) -> list[str]:
    """Return how many tasks an executor runs at once, where `local[N]` says it and nothing else does."""
    cores = local["cores"]
    is_said = any(word.partition("=")[0] == "--executor-cores" for word in passed)
    return [] if cores in {None, "*"} or is_said else ["--executor-cores", str(cores)]


def _template(role: str, options: Mapping[str, str]) -> list[str]:
    template = options.get(f"--{role}-template")
    name = DRIVER_TEMPLATE if role == "driver" else EXECUTOR_TEMPLATE
    return [] if template is None else ["--conf", f"{name}={template}"]


def _of_the_cluster(options: Mapping[str, str], settings: Sequence[str]) -> list[str]:
    cores, image = options.get("--driver-cores"), options.get(_IMAGE)
    is_named = any(setting.startswith(f"{IMAGE}=") for setting in settings)
    return [
        *([] if cores is None else ["--driver-cores", cores]),
        *([] if image is None or is_named else ["--conf", f"{IMAGE}={image}"]),
    ]


def _heap(role: str, options: Mapping[str, str]) -> list[str]:
    heap = options.get(f"--sgx-{role}-jvm-memory", options.get(f"--{role}-memory"))
    return [] if heap is None else [f"--{role}-memory", heap]


def _memory_of_pod(role: str, options: Mapping[str, str]) -> list[str]:
    """Return the heap, and what else the pod gets: BigDL's `--driver-memory` is the whole pod's."""
    whole, heap = options.get(f"--{role}-memory"), options.get(f"--sgx-{role}-jvm-memory")
    if whole is None or heap is None:
        return _heap(role, options)
    beside_mb = _mib(whole, f"--{role}-memory") - _mib(heap, f"--sgx-{role}-jvm-memory")
    if beside_mb < 0:
        raise click.UsageError(f"--sgx-{role}-jvm-memory {heap} is more than --{role}-memory {whole}")
    return [f"--{role}-memory", heap, *(("--conf", f"{_OVERHEADS[role]}={beside_mb}m") if beside_mb else ())]


def _read(words: Sequence[str]) -> _Words:
    read, rest = _Words(), list(words)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-") or word == "-":
            read.application = [_application(word), *rest]
            break
        name, equals, value = word.partition("=")
        if name in FLAGS and FLAGS[name].refused:
            raise _refusal(name, FLAGS[name].why)
        if name in _FLAGS_WITHOUT_VALUE:
            if name != "--verbose":
                read.passed.append(word)
            continue
        if not equals:
            if not rest:
                raise click.UsageError(f"{name} has no value")
            value = rest.pop(0)
        if name in {"--conf", "-c"}:
            read.settings += _setting(value)
        elif name in FLAGS or name in {"--driver-memory", "--executor-memory"}:
            read.options[name] = value
        else:
            read.passed += [word] if equals else [name, value]
    return read


def _defaults(variables: Mapping[str, str]) -> dict[str, str]:
    names = {
        "--master": "RUNTIME_SPARK_MASTER",
        "--driver-memory": "RUNTIME_DRIVER_MEMORY",
        _IMAGE: "RUNTIME_K8S_SPARK_IMAGE",
    }
    return {option: variables[name] for option, name in names.items() if variables.get(name)}


def _setting(text: str) -> list[str]:
    name = text.partition("=")[0]
    for known, fate in SETTINGS.items():
        if name == known or (known.endswith(".") and name.startswith(known)):
            if fate.refused:
                raise _refusal(f"--conf {name}", fate.why)
            return []
    return [text]


def _mib(text: str, option: str) -> int:
    found = _MEMORY.fullmatch(text.strip())
    if found is None:
        raise click.UsageError(f"{option} {text} is no amount of memory; write 600m or 2g")
    return int(int(found["number"]) * _MIB[found["unit"].lower()])


def _application(word: str) -> str:
    path = word.removeprefix(_IN_IMAGE)
    if path.endswith(".jar"):
        raise _refusal(word, "only PySpark applications run yet: give Python code")
    return path


def _refusal(what: str, why: str) -> click.UsageError:
    return click.UsageError(f"{what} of BigDL PPML is not taken over: {why}")
