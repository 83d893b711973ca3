"""The settings that protection rests on.

`enforced_settings` go into the properties of every protected Spark process; an application may not choose them. A
script can still set them again in `SparkSession.builder.config`, so the Java part compares `guarded_settings` with what
is really set before it asks for any key. What the host may choose on Kubernetes is in `pod_settings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step

_CHANNEL = {
    # Every message between driver, executors, master and workers is authenticated and encrypted.
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
    "spark.network.crypto.cipher": "AES/GCM/NoPadding",
    "spark.network.crypto.authEngineVersion": "2",
    "spark.network.crypto.saslFallback": "false",
    # Data between Java and Python stays off the network stack.
    "spark.python.unix.domain.socket.enabled": "true",
}
_DISK = {
    # The second layer under protected scratch.
    "spark.io.encryption.enabled": "true",
    "spark.io.encryption.keySizeBits": "256",
    # By Java's own ciphers. Else each stream begins with a look for the host's OpenSSL, which nobody measured.
    "spark.io.encryption.commons.config.cipher.classes": "org.apache.commons.crypto.cipher.JceCipher",
    "spark.io.encryption.commons.config.secure.random.classes": "org.apache.commons.crypto.random.JavaCryptoRandom",
    "spark.io.encryption.commons.config.secure.random.java.algorithm": "NativePRNG",
    # Shuffle files are written by Spark's own code, which encrypts them, and served by the executor itself.
    "spark.shuffle.manager": "sort",
    "spark.shuffle.service.enabled": "false",
    "spark.decommission.enabled": "false",
}
_FIXED_EXECUTORS = {"spark.dynamicAllocation.enabled": "false"}
_CHANGING_EXECUTORS = {
    "spark.dynamicAllocation.enabled": "true",
    # Without a shuffle service: executors stay while somebody may want what they shuffled.
    "spark.dynamicAllocation.shuffleTracking.enabled": "true",
}
_PODS = {
    # Nothing of the driver's configuration becomes an object of Kubernetes, and no code of others makes pods.
    "spark.kubernetes.executor.disableConfigMap": "true",
    "spark.kubernetes.allocation.pods.allocator": "direct",
    # The driver's service account may make pods and nothing else.
    "spark.kubernetes.driver.service.deleteOnTermination": "false",
    "spark.kubernetes.driver.ownPersistentVolumeClaim": "false",
    "spark.kubernetes.driver.reusePersistentVolumeClaim": "false",
    "spark.kubernetes.executor.securityContext.allowPrivilegeEscalation": "false",
    "spark.kubernetes.trust.certificates": "false",
}
_UNSET_FOR_PODS = (
    "spark.kubernetes.context",
    "spark.kubernetes.driver.master",
    "spark.kubernetes.executor.pod.featureSteps",
    "spark.kubernetes.hadoop.configMapName",
)
_DATASETS = {
    "spark.hadoop.fs.strongroom.impl": "strongroom.StrongroomFileSystem",
    "spark.hadoop.parquet.crypto.factory.class": "strongroom.CryptoFactory",
    "spark.sql.sources.commitProtocolClass": "strongroom.CommitProtocol",
}
_SILENCE = {
    # What shows or sends data to somebody else.
    "spark.ui.enabled": "false",
    "spark.eventLog.enabled": "false",
    "spark.driver.log.persistToDfs.enabled": "false",
    "spark.api.mode": "classic",
}
_UNSET = (
    "spark.driver.log.dfsDir",
    "spark.metrics.conf",
    "spark.plugins",
    "spark.python.unix.domain.socket.dir",
    "spark.remote",
    "spark.shuffle.sort.io.plugin.class",
    "spark.storage.decommission.fallbackStorage.path",
)
_AT_LAUNCH = {
    "spark.master.rest.enabled": "false",
    "spark.ui.filters": "strongroom.DenyFilter",
    "spark.ui.showConsoleProgress": "false",
    # Only the driver's agent lists datasets; Spark would otherwise list many folders from executors.
    "spark.sql.sources.parallelPartitionDiscovery.threshold": str(2**31 - 1),
}
_G1_REGION = "8m"
_PLAIN_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-/+,")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Who gives the driver its executors, and whether their number changes while it runs.

    Attributes:
        manager: Spark's own standalone master, or Kubernetes.
        dynamic_allocation: Whether Spark asks for executors, and lets them go, as it needs them.
    """

    manager: Literal["standalone", "kubernetes"] = "standalone"
    dynamic_allocation: bool = False


STANDALONE: Final = Scheduling()


def enforced_settings(scheduling: Scheduling = STANDALONE) -> dict[str, str]:
    """Return the settings of every protected Spark process; no secret, no path."""
    return _CHANNEL | _DISK | _scheduled(scheduling) | _DATASETS | _SILENCE | _AT_LAUNCH


def guarded_settings(scheduling: Scheduling = STANDALONE) -> dict[str, str]:
    """Return what must be in force before a key is asked for; an empty value means: not set, or empty."""
    unset = _UNSET if scheduling.manager == "standalone" else (*_UNSET, *_UNSET_FOR_PODS)
    return _CHANNEL | _DISK | _scheduled(scheduling) | _DATASETS | _SILENCE | dict.fromkeys(unset, "")


def _scheduled(scheduling: Scheduling) -> dict[str, str]:
    executors = _CHANGING_EXECUTORS if scheduling.dynamic_allocation else _FIXED_EXECUTORS
    return executors if scheduling.manager == "standalone" else executors | _PODS


def check_application_settings(chosen: Mapping[str, str], scheduling: Scheduling = STANDALONE) -> None:
    """Refuse settings of an application that would weaken protection.

    Args:
        chosen: The application's own Spark settings.
        scheduling: Who gives the driver its executors.

    Raises:
        RefusedError: Some of them are not the application's to choose; all are listed.
    """
    required = enforced_settings(scheduling) | guarded_settings(scheduling)
    mismatches = tuple(
        Mismatch(name=name, expected=required[name] or "not set", actual=value)
        for name, value in sorted(chosen.items())
        if name in required and value != required[name]
    )
    if mismatches:
        raise RefusedError(
            "the application chooses settings that would weaken protection: " + "; ".join(map(str, mismatches)),
            action="remove these settings from the application and approve it again",
            step=Step.COMPUTE,
            mismatches=mismatches,
        )


def application_jvm_options(chosen: Mapping[str, str], *, role: Literal["driver", "executor"]) -> tuple[str, ...]:
    """Return the options that an application chooses for a JVM.

    Args:
        chosen: The application's own Spark settings; `application.settings` says which options there may be.
        role: Whose JVM it is.
    """
    return tuple(chosen.get(f"spark.{role}.extraJavaOptions", "").split())


def properties_text(settings: Mapping[str, str]) -> str:
    """Return settings as a Java properties file (ASCII; every special character escaped)."""
    return "".join(f"{_escaped(name)}={_escaped(value)}\n" for name, value in sorted(settings.items()))


def jvm_options(*, scratch: Path, log_settings: Path, aot_cache: Path | None) -> tuple[str, ...]:
    """Return the options of every Spark JVM on one node.

    Args:
        scratch: The node's folder on protected memory; nothing is written elsewhere.
        log_settings: Log4j's configuration.
        aot_cache: The ahead-of-time cache, or None to start without one.
    """
    cache = () if aot_cache is None else (f"-XX:AOTCache={aot_cache}",)
    return (
        *cache,
        # Java's own messages would otherwise go to the application's standard output.
        "-Xlog:disable",
        "-Xlog:all=error:stderr",
        "-XX:+UseG1GC",
        f"-XX:G1HeapRegionSize={_G1_REGION}",
        "-XX:-UsePerfData",
        "-XX:+DisableAttachMechanism",
        "-XX:-HeapDumpOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        f"-XX:ErrorFile={scratch}/log/java-%p.log",
        f"-Djava.io.tmpdir={scratch / 'tmp'}",
        f"-Dlog4j2.configurationFile={log_settings}",
        f"-Dstrongroom.log={scratch}/log",
    )


def argument_file_text(options: tuple[str, ...]) -> str:
    """Return options as a file for `java @FILE`."""
    return "".join('"' + option.replace("\\", "\\\\").replace('"', '\\"') + '"\n' for option in options)


def _escaped(text: str) -> str:
    return "".join(character if character in _PLAIN_CHARACTERS else _escape(character) for character in text)


def _escape(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{int.from_bytes(units[i : i + 2]):04x}" for i in range(0, len(units), 2))
