"""Runs applications inside one Spark session and prints when things happened: the same script on both sides.

    spark-submit --py-files count.py,report.py timed.py INPUT OUTPUT count=10+15 report=1+1

The applications are not changed: each is run as `__main__`, as often as asked to warm up (numbers up to 0) and then to
be measured (from 1 on), and gets the session that is already there. What they print stays as it is; lines of this
script start with `timed `.
"""

import json
import runpy
import sys
import time
from datetime import UTC, datetime

from pyspark import SparkContext
from pyspark.sql import SparkSession

_POLL_S = 0.02
_WRITES = frozenset({"report"})


def main() -> None:
    """Start, tell when the first task ran and when the cluster was complete, then run the applications."""
    source, target, *wanted = sys.argv[1:]
    session = SparkSession.builder.getOrCreate()
    context = session.sparkContext
    # Counted in Java: no Python worker has to start for it.
    context.parallelize([0], 1)._jrdd.count()  # noqa: SLF001 - the way to Java that PySpark has
    _say(event="first-task")
    _wait_for_executors(context)
    _say(event="ready")
    stop = SparkSession.stop
    SparkSession.stop = _stay  # an application ends; the session waits for the next
    for item in wanted:
        application, _, times = item.partition("=")
        warm_ups, _, measured = times.partition("+")
        for number in range(1 - int(warm_ups), int(measured) + 1):
            _run(application, number, source=source, target=f"{target}/{application}-{number}")
    stop(session)


def _run(application: str, number: int, *, source: str, target: str) -> None:
    sys.argv = [application, source, *([target] if application in _WRITES else [])]
    start = time.perf_counter()
    runpy.run_module(application, run_name="__main__", alter_sys=True)
    _say(event="ran", application=application, number=number, seconds=round(time.perf_counter() - start, 3))


def _wait_for_executors(context: SparkContext) -> None:
    configuration = context.getConf()
    instances = configuration.get("spark.executor.instances")  # on Kubernetes; a standalone cluster counts in cores
    cores = int(configuration.get("spark.cores.max") or 1)
    executors = int(instances) if instances else cores // int(configuration.get("spark.executor.cores") or 1)
    spark = context._jsc.sc()  # noqa: SLF001 - the way to Java that PySpark has
    while spark.getExecutorMemoryStatus().size() - 1 < executors:  # the driver counts as one
        time.sleep(_POLL_S)


def _stay(_session: SparkSession) -> None:
    sys.stdout.flush()


def _say(**event: str | float) -> None:
    print("timed " + json.dumps({**event, "at": datetime.now(tz=UTC).timestamp()}), flush=True)


if __name__ == "__main__":
    main()
