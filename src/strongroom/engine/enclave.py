"""What Spark and its Java need in an SGX enclave, under a library operating system (Gramine, Occlum).

Nothing here protects anything: an enclave without these settings is slow, or does not start.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from strongroom.wire.descriptor import DeviceKind

_DEVICES: Final[frozenset[DeviceKind]] = frozenset({"gramine", "occlum"})
ENCLAVE_SETTINGS: Final[Mapping[str, str]] = MappingProxyType(
    {
        # Spark's Python daemon forks its workers. Occlum cannot fork, and Gramine makes an enclave of each fork.
        "spark.python.use.daemon": "false",
        # The encrypted and the memory file systems of both cannot map files into memory.
        "spark.storage.memoryMapThreshold": "2047m",
        # Netty's own event loops load a library from scratch, and want timers of Linux's that Gramine does not have.
        "spark.io.mode.default": "NIO",
    }
)


def is_enclave_device(kind: DeviceKind) -> bool:
    """Return whether a device quotes enclaves of a library operating system.

    The kind is the host's word. A wrong one yields no evidence, so no key: nothing that protects keys or data may be
    left out by this word before the device has answered and keys were released.
    """
    return kind in _DEVICES


def enclave_jvm_options(*, cores: int) -> tuple[str, ...]:
    """Return Java's options in an enclave, beside those of every node.

    Java otherwise sizes its areas and its threads by the machine's memory and processors, of which the library
    operating system shows as many as the host says; an enclave has the size and the threads that it was signed with.

    Args:
        cores: Processors that Java may count with.
    """
    return (
        f"-XX:ActiveProcessorCount={cores}",
        # Compressed pointers want one large range of addresses, wherever the enclave's lies.
        "-XX:-UseCompressedOops",
        "-XX:CompressedClassSpaceSize=128m",
        "-XX:MaxMetaspaceSize=512m",
        "-XX:ReservedCodeCacheSize=128m",
        f"-Dio.netty.availableProcessors={cores}",
        # Without fork: a small program of Java's own starts others.
        "-Djdk.lang.Process.launchMechanism=POSIX_SPAWN",
    )
