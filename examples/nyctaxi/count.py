"""Count the rows of a Parquet dataset and print how long that took.

    spark-submit count.py INPUT

INPUT is any path that Spark reads: a folder, or `strongroom://trips` in a protected run. The script is the same.
"""

import argparse
import time

from pyspark.sql import SparkSession


def main() -> None:
    """Read, count, print."""
    parser = argparse.ArgumentParser(description="Count the rows of a Parquet dataset.")
    parser.add_argument("input")
    options = parser.parse_args()

    spark = SparkSession.builder.appName("nyctaxi-count").getOrCreate()
    started = time.perf_counter()
    rows = spark.read.parquet(options.input).count()
    duration_ms = round((time.perf_counter() - started) * 1000)
    print(f"Input DataFrame Count: {rows}")
    print(f"Aggregation duration: {duration_ms} ms")
    spark.stop()


if __name__ == "__main__":
    main()
