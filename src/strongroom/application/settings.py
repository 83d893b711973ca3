"""Which Spark settings and environment variables an application may choose.

Everything is refused that does not stand here: a setting may load code, name a path or an address, show data to the
operator, or weaken encryption. Sizes and counts of processes are not the application's: they differ from machine to
machine under one approval.
"""

import itertools
import re
from collections.abc import Mapping
from typing import Final

from strongroom.base.errors import Mismatch, RefusedError
from strongroom.base.workflow import Step

_BOOLEAN: Final = r"true|false"
_COUNT: Final = r"[0-9]{1,9}"
_NUMBER: Final = r"-?[0-9]{1,9}"
_FRACTION: Final = r"[0-9]{1,9}(\.[0-9]{1,9})?"
_SIZE: Final = r"-?[0-9]{1,12}[kKmMgG]?[bB]?"
_TIME: Final = r"-?[0-9]{1,9}(us|ms|s|m|min|h|d)?"
_REBASE: Final = r"EXCEPTION|CORRECTED|LEGACY"
_JAVA_OPTION: Final = (
    r"-Xss[0-9]{1,9}[kKmMgG]?"
    r"|-XX:(\+UseG1GC|[+-](AlwaysPreTouch|ParallelRefProcEnabled|UseStringDeduplication|UseCompressedOops)"
    r"|TieredStopAtLevel=[1-4]|(MaxGCPauseMillis|InitiatingHeapOccupancyPercent|(Parallel|Conc)GCThreads)=[0-9]{1,9}"
    r"|(MaxMetaspaceSize|MetaspaceSize|MaxDirectMemorySize|ReservedCodeCacheSize)=[0-9]{1,9}[kKmMgG]?)"
)
_JAVA_OPTIONS: Final = rf"({_JAVA_OPTION})( +({_JAVA_OPTION}))*"
"""Options of Java that only concern time and memory."""

_ALLOWED: Final[Mapping[str, str]] = {
    "spark.broadcast.compress": _BOOLEAN,
    "spark.default.parallelism": _COUNT,
    "spark.driver.extraJavaOptions": _JAVA_OPTIONS,
    "spark.driver.maxResultSize": _SIZE,
    "spark.executor.extraJavaOptions": _JAVA_OPTIONS,
    "spark.io.compression.codec": r"lz4|lzf|snappy|zstd",
    "spark.kryo.referenceTracking": _BOOLEAN,
    "spark.kryoserializer.buffer": _SIZE,
    "spark.kryoserializer.buffer.max": _SIZE,
    "spark.locality.wait": _TIME,
    "spark.memory.fraction": _FRACTION,
    "spark.memory.storageFraction": _FRACTION,
    "spark.python.worker.memory": _SIZE,
    "spark.python.worker.reuse": _BOOLEAN,
    "spark.rdd.compress": _BOOLEAN,
    "spark.reducer.maxSizeInFlight": _SIZE,
    "spark.scheduler.mode": r"FIFO|FAIR",
    "spark.serializer": r"org\.apache\.spark\.serializer\.(Kryo|Java)Serializer",
    "spark.shuffle.compress": _BOOLEAN,
    "spark.shuffle.file.buffer": _SIZE,
    "spark.shuffle.sort.bypassMergeThreshold": _COUNT,
    "spark.shuffle.spill.compress": _BOOLEAN,
    "spark.speculation": _BOOLEAN,
    "spark.speculation.multiplier": _FRACTION,
    "spark.speculation.quantile": _FRACTION,
    "spark.sql.adaptive.advisoryPartitionSizeInBytes": _SIZE,
    "spark.sql.adaptive.autoBroadcastJoinThreshold": _SIZE,
    "spark.sql.adaptive.coalescePartitions.enabled": _BOOLEAN,
    "spark.sql.adaptive.coalescePartitions.initialPartitionNum": _COUNT,
    "spark.sql.adaptive.coalescePartitions.minPartitionSize": _SIZE,
    "spark.sql.adaptive.coalescePartitions.parallelismFirst": _BOOLEAN,
    "spark.sql.adaptive.enabled": _BOOLEAN,
    "spark.sql.adaptive.forceOptimizeSkewedJoin": _BOOLEAN,
    "spark.sql.adaptive.localShuffleReader.enabled": _BOOLEAN,
    "spark.sql.adaptive.maxShuffledHashJoinLocalMapThreshold": _SIZE,
    "spark.sql.adaptive.optimizeSkewsInRebalancePartitions.enabled": _BOOLEAN,
    "spark.sql.adaptive.rebalancePartitionsSmallPartitionFactor": _FRACTION,
    "spark.sql.adaptive.skewJoin.enabled": _BOOLEAN,
    "spark.sql.adaptive.skewJoin.skewedPartitionFactor": _FRACTION,
    "spark.sql.adaptive.skewJoin.skewedPartitionThresholdInBytes": _SIZE,
    "spark.sql.ansi.enabled": _BOOLEAN,
    "spark.sql.autoBroadcastJoinThreshold": _SIZE,
    "spark.sql.broadcastTimeout": _TIME,
    "spark.sql.caseSensitive": _BOOLEAN,
    "spark.sql.cbo.enabled": _BOOLEAN,
    "spark.sql.cbo.joinReorder.enabled": _BOOLEAN,
    "spark.sql.codegen.wholeStage": _BOOLEAN,
    "spark.sql.crossJoin.enabled": _BOOLEAN,
    "spark.sql.debug.maxToStringFields": _COUNT,
    "spark.sql.decimalOperations.allowPrecisionLoss": _BOOLEAN,
    "spark.sql.execution.arrow.maxRecordsPerBatch": _NUMBER,
    "spark.sql.execution.arrow.pyspark.enabled": _BOOLEAN,
    "spark.sql.execution.arrow.pyspark.fallback.enabled": _BOOLEAN,
    "spark.sql.execution.pythonUDF.arrow.enabled": _BOOLEAN,
    "spark.sql.files.maxPartitionBytes": _SIZE,
    "spark.sql.files.maxRecordsPerFile": _NUMBER,
    "spark.sql.files.minPartitionNum": _COUNT,
    "spark.sql.files.openCostInBytes": _SIZE,
    "spark.sql.inMemoryColumnarStorage.batchSize": _COUNT,
    "spark.sql.inMemoryColumnarStorage.compressed": _BOOLEAN,
    "spark.sql.join.preferSortMergeJoin": _BOOLEAN,
    "spark.sql.legacy.timeParserPolicy": _REBASE,
    "spark.sql.mapKeyDedupPolicy": r"EXCEPTION|LAST_WIN",
    "spark.sql.optimizer.dynamicPartitionPruning.enabled": _BOOLEAN,
    "spark.sql.optimizer.runtime.bloomFilter.enabled": _BOOLEAN,
    "spark.sql.parquet.aggregatePushdown": _BOOLEAN,
    "spark.sql.parquet.binaryAsString": _BOOLEAN,
    "spark.sql.parquet.columnarReaderBatchSize": _COUNT,
    "spark.sql.parquet.compression.codec": r"none|uncompressed|snappy|gzip|lz4|lz4_raw|zstd",
    "spark.sql.parquet.datetimeRebaseModeInRead": _REBASE,
    "spark.sql.parquet.datetimeRebaseModeInWrite": _REBASE,
    "spark.sql.parquet.enableVectorizedReader": _BOOLEAN,
    "spark.sql.parquet.filterPushdown": _BOOLEAN,
    "spark.sql.parquet.inferTimestampNTZ.enabled": _BOOLEAN,
    "spark.sql.parquet.int96RebaseModeInRead": _REBASE,
    "spark.sql.parquet.int96RebaseModeInWrite": _REBASE,
    "spark.sql.parquet.mergeSchema": _BOOLEAN,
    "spark.sql.parquet.outputTimestampType": r"INT96|TIMESTAMP_MICROS|TIMESTAMP_MILLIS",
    "spark.sql.parquet.writeLegacyFormat": _BOOLEAN,
    "spark.sql.pivotMaxValues": _COUNT,
    "spark.sql.session.timeZone": r"[A-Za-z0-9_+:/-]{1,64}",
    "spark.sql.shuffle.partitions": _COUNT,
    "spark.sql.sources.partitionColumnTypeInference.enabled": _BOOLEAN,
    "spark.sql.sources.partitionOverwriteMode": r"(?i:static|dynamic)",
    "spark.sql.storeAssignmentPolicy": r"ANSI|LEGACY|STRICT",
    "spark.sql.timestampType": r"TIMESTAMP_LTZ|TIMESTAMP_NTZ",
    "spark.task.cpus": _COUNT,
    "spark.task.maxFailures": _COUNT,
}
"""Every allowed setting, with the pattern of its values."""

_CODE: Final = "it loads code into Spark that is not the measured application"
_FILES: Final = "files are measured with the application: use --py-files, --files and --archives"
_CHANNEL: Final = "it protects what passes between Spark's processes, and Strongroom sets it"
_DISK: Final = "it decides how Spark writes to disk, and Strongroom sets it"
_WRITE: Final = "it decides how results are encrypted and committed, and Strongroom sets it"
_HADOOP: Final = "Hadoop's configuration could replace the file system and the encryption"
_SHOWN: Final = "it could show data to the operator"
_PYTHON: Final = "the Python interpreter is the measured one"
_PLACE: Final = "paths and addresses differ from machine to machine"
_START: Final = "Strongroom decides how Spark's processes are started"
_SIZE_OF_TEES: Final = "sizes and counts of processes are not part of the application: use "

_REASONS_BY_WORD: Final[Mapping[str, str]] = dict.fromkeys(
    ("javaoptions", "class", "librarypath", "listener", "plugin", "registrator", "extension"), _CODE
)
"""Why a setting is refused that has this word in its name, whatever its case."""
_REASONS_BY_PREFIX: Final[Mapping[str, str]] = {
    "spark.app.name": "use --name",
    "spark.log.": "the log level is a part of the application of its own",
    "spark.executorEnv.": "environment variables are a part of the application of their own",
    "spark.driver.memory": _SIZE_OF_TEES + "--driver-memory",
    "spark.driver.cores": _SIZE_OF_TEES + "--driver-memory",
    "spark.executor.memory": _SIZE_OF_TEES + "--executor-memory",
    "spark.memory.offHeap": _SIZE_OF_TEES + "--executor-memory",
    "spark.executor.cores": _SIZE_OF_TEES + "--executor-cores",
    "spark.executor.instances": _SIZE_OF_TEES + "--num-executors",
    "spark.cores.max": _SIZE_OF_TEES + "--num-executors",
    "spark.dynamicAllocation.": _SIZE_OF_TEES + "--num-executors",
    "spark.acls.": _CHANNEL,
    "spark.authenticate": _CHANNEL,
    "spark.network.": _CHANNEL,
    "spark.rpc.": _CHANNEL,
    "spark.security.": _CHANNEL,
    "spark.ssl.": _CHANNEL,
    "spark.io.encryption.": _DISK,
    "spark.shuffle.": _DISK,
    "spark.storage.": _DISK,
    "spark.archives": _FILES,
    "spark.files": _FILES,
    "spark.jars": _FILES,
    "spark.submit.": _FILES,
    "spark.sql.catalog": _WRITE,
    "spark.sql.hive.": _WRITE,
    "spark.sql.parquet.": _WRITE,
    "spark.sql.sources.": _WRITE,
    "spark.sql.warehouse.": _WRITE,
    "spark.hadoop.": _HADOOP,
    "spark.driver.log.": _SHOWN,
    "spark.eventLog.": _SHOWN,
    "spark.executor.logs.": _SHOWN,
    "spark.history.": _SHOWN,
    "spark.metrics.": _SHOWN,
    "spark.redaction.": _SHOWN,
    "spark.ui.": _SHOWN,
    "spark.pyspark.": _PYTHON,
    "spark.python.": _PYTHON,
    "spark.blockManager.": _PLACE,
    "spark.driver.": _PLACE,
    "spark.local.": _PLACE,
    "spark.port.": _PLACE,
    "spark.api.": _START,
    "spark.deploy.": _START,
    "spark.kubernetes.": _START,
    "spark.master": _START,
    "spark.remote": _START,
    "spark.worker.": _START,
    "spark.yarn.": _START,
}
"""Why a setting is refused whose name begins so; the first one counts."""
_UNKNOWN: Final = "it is not among the settings that an application may choose"

_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_TAKEN_VARIABLE: Final = re.compile(
    r"_?(JAVA|JDK|LD|SPARK|PYSPARK|HADOOP|STRONGROOM|GLIBC|MALLOC|OPENSSL|SSL|BASH|LC)_.*|PYTHON.*"
    r"|PATH|HOME|TMP|TEMP|TMPDIR|SHELL|ENV|IFS|LANG|LANGUAGE|TZ|USER|LOGNAME|PWD|CLASSPATH|.*_PROXY|.*_proxy"
)


def check_settings(chosen: Mapping[str, str]) -> None:
    """Refuse Spark settings that an application may not choose.

    Args:
        chosen: Settings by name.

    Raises:
        RefusedError: Some are refused; the message names each one and says why, and never shows a refused one's value.
    """
    _refuse({name: reason for name, value in sorted(chosen.items()) if (reason := _fault(name, value))}, "setting")


def check_environment(chosen: Mapping[str, str]) -> None:
    """Refuse environment variables that an application may not choose.

    Args:
        chosen: Variables by name.

    Raises:
        RefusedError: Some are refused; the message names each one and says why.
    """
    faults: dict[str, str] = {}
    for name in sorted(chosen):
        if _VARIABLE.match(name) is None:
            faults[name] = "a name has letters, digits and underscores"
        elif _TAKEN_VARIABLE.fullmatch(name):
            faults[name] = "it would change how Python, Java or Spark work, and Strongroom sets what they need"
    _refuse(faults, "environment variable")


def _fault(name: str, value: str) -> str | None:
    pattern = _ALLOWED.get(name)
    if pattern is not None:
        return None if re.fullmatch(pattern, value) else f"{value!r} is not a value for it"
    by_word = (why for word, why in _REASONS_BY_WORD.items() if word in name.lower())
    by_prefix = (why for prefix, why in _REASONS_BY_PREFIX.items() if name.startswith(prefix))
    return next(itertools.chain(by_word, by_prefix), _UNKNOWN)


def _refuse(faults: Mapping[str, str], what: str) -> None:
    if faults:
        raise RefusedError(
            "; ".join(f"{what} {name}: {why}" for name, why in faults.items()),
            action=f"remove the {what}{'s' if len(faults) > 1 else ''} from the application",
            step=Step.SUBMIT,
            mismatches=tuple(
                Mismatch(name=name, expected="not set", actual=f"set; {why}") for name, why in faults.items()
            ),
        )
