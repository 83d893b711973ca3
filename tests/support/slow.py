"""An application that has a middle, for tests of what happens while a run goes on."""


def slow_script(*, partitions: int) -> str:
    """Return a script that writes the number of trips in each of so many partitions; each takes a second.

    Its arguments are the folder of trips, and where the numbers go.
    """
    return f"""
import sys, time
from pyspark.sql import SparkSession

def counted(rows):
    time.sleep(1)
    yield (sum(1 for _ in rows),)

spark = SparkSession.builder.getOrCreate()
trips = spark.read.parquet(sys.argv[1]).select("pickup_location_id").repartition({partitions}).rdd
trips.mapPartitions(counted).toDF("trips int").write.mode("overwrite").parquet(sys.argv[2])
"""
