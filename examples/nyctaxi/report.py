"""Report on New York taxi trips: who pays how much, when and where.

    spark-submit report.py INPUT OUTPUT

Plain PySpark. INPUT and OUTPUT are any paths that Spark knows: folders, or `strongroom://trips` and
`strongroom://report` in a protected run. The script is the same, and so are its results: amounts are summed in whole
cents and ties are broken, so that no figure depends on the order in which executors finish.

Source of the code tables: TLC, Data Dictionary - Yellow Taxi Trip Records.
"""

import argparse
from decimal import Decimal

import pandas as pd
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F  # noqa: N812 - the name that PySpark's own documentation uses
from pyspark.sql.types import StringType

PAYMENT_TYPES = [
    (0, "Flex Fare trip"),
    (1, "Credit card"),
    (2, "Cash"),
    (3, "No charge"),
    (4, "Dispute"),
    (5, "Unknown"),
    (6, "Voided trip"),
]
RATE_CODES = [
    (1, "Standard rate"),
    (2, "JFK"),
    (3, "Newark"),
    (4, "Nassau or Westchester"),
    (5, "Negotiated fare"),
    (6, "Group ride"),
    (99, "Null or unknown"),
]
NOT_RECORDED = "Not recorded"
BUSIEST_PAIRS = 25


def main() -> None:
    """Read the trips, write each table below OUTPUT, print a short summary."""
    parser = argparse.ArgumentParser(description="Report on New York taxi trips.")
    parser.add_argument("input", help="Parquet with the columns of trips.py")
    parser.add_argument("output", help="where the tables are written")
    options = parser.parse_args()

    # A taxi's clock has no time zone in these files; UTC keeps Spark from applying one.
    builder = SparkSession.builder.appName("nyctaxi-report").config("spark.sql.session.timeZone", "UTC")
    spark = builder.getOrCreate()
    trips = spark.read.parquet(options.input)
    tables = report(spark, trips)
    for name, table in tables.items():
        table.write.mode("overwrite").parquet(f"{options.output}/{name}")
    print_summary({name: spark.read.parquet(f"{options.output}/{name}") for name in tables})
    spark.stop()


def report(spark: SparkSession, trips: DataFrame) -> dict[str, DataFrame]:
    """Return the tables of the report by name, each in one partition with its rows in a fixed order."""
    payment_types = spark.createDataFrame(PAYMENT_TYPES, "payment_type int, payment string")
    rate_codes = spark.createDataFrame(RATE_CODES, "rate_code_id int, rate string")
    return {
        "by_month": by(trips.withColumn("month", F.trunc("pickup_datetime", "month")), "month"),
        "by_hour": by(trips.withColumn("hour", F.hour("pickup_datetime")), "hour"),
        "by_pickup_zone": by(trips, "pickup_location_id"),
        "by_payment_type": by(with_names(trips, payment_types), "payment_type", "payment"),
        "by_speed": by(with_speed(trips), "speed"),
        "by_part_of_week": by_part_of_week(trips),
        "busiest_pairs": busiest_pairs(trips),
        "price_percentiles": price_percentiles(with_names(trips, rate_codes)),
    }


def by(trips: DataFrame, *keys: str) -> DataFrame:
    """Return trips, revenue in dollars and tip rate (tips divided by fares) for each value of the keys."""
    totals = trips.groupBy(*keys).agg(
        F.count("*").alias("trips"),
        F.sum(cents("total_amount")).alias("revenue"),
        F.sum(cents("tip_amount")).alias("tips"),
        F.sum(cents("fare_amount")).alias("fares"),
    )
    return in_order(totals.select(*keys, "trips", dollars("revenue"), tip_rate()), *keys)


def by_part_of_week(trips: DataFrame) -> DataFrame:
    """Return trips and revenue of each part of the week."""
    hours = trips.groupBy(F.weekday("pickup_datetime").alias("weekday"), F.hour("pickup_datetime").alias("hour")).agg(
        F.count("*").alias("trips"), F.sum(cents("total_amount")).alias("revenue")
    )
    parts = hours.groupBy(part_of_week("weekday", "hour").alias("part_of_week"))
    totals = parts.agg(F.sum("trips").alias("trips"), F.sum("revenue").alias("revenue"))
    return in_order(totals.select("part_of_week", "trips", dollars("revenue")), "part_of_week")


def busiest_pairs(trips: DataFrame) -> DataFrame:
    """Return the pairs of zones with the most trips between them, the busiest first."""
    zones = ("pickup_location_id", "dropoff_location_id")
    pairs = trips.groupBy(*zones).agg(F.count("*").alias("trips"), F.sum(cents("total_amount")).alias("revenue"))
    busiest = pairs.orderBy(F.desc("trips"), *zones).limit(BUSIEST_PAIRS)
    return busiest.select(*zones, "trips", dollars("revenue"))


def price_percentiles(trips: DataFrame) -> DataFrame:
    """Return the exact median, 90th and 99th percentile of what a trip cost, for each rate."""
    points = {"median": 0.5, "percentile_90": 0.9, "percentile_99": 0.99}
    figures = [F.percentile("total_amount", point).alias(name) for name, point in points.items()]
    table = trips.groupBy("rate_code_id", "rate").agg(F.count("*").alias("trips"), *figures)
    return in_order(table, "rate_code_id")


def with_names(trips: DataFrame, names: DataFrame) -> DataFrame:
    """Return the trips with the name of their code; codes that are missing or unknown are `NOT_RECORDED`."""
    code, name = names.columns
    return trips.join(F.broadcast(names), code, "left").fillna(NOT_RECORDED, name)


def with_speed(trips: DataFrame) -> DataFrame:
    """Return the trips with their class of average speed."""
    seconds = F.unix_timestamp("dropoff_datetime") - F.unix_timestamp("pickup_datetime")
    return trips.withColumn("speed", speed_class("trip_distance", seconds))


@F.pandas_udf(StringType())
def speed_class(miles: pd.Series, seconds: pd.Series) -> pd.Series:
    """Sort trips by average speed in miles per hour."""
    mph = miles * 3600 / seconds.where(seconds > 0)
    classes = pd.cut(mph, [0, 7, 12, 20, 80], labels=["crawling", "slow", "flowing", "fast"]).astype(object)
    return classes.where(classes.notna(), "implausible")


@F.udf(returnType=StringType(), useArrow=False)
def part_of_week(weekday: int | None, hour: int | None) -> str:
    """Name the part of the week; `weekday` counts from Monday, 0."""
    if weekday is None or hour is None:
        return NOT_RECORDED
    friday, saturday = 4, 5
    if weekday >= saturday or (weekday == friday and hour >= 18):  # noqa: PLR2004 - when the weekend starts
        return "weekend"
    if 6 <= hour < 18:  # noqa: PLR2004 - from 6 to 18 o'clock
        return "working day"
    return "week night"


def cents(amount: str) -> Column:
    """Return an amount in whole cents: sums of whole numbers are the same in any order."""
    return F.rint(F.col(amount) * 100).cast("long")


def dollars(total: str) -> Column:
    """Return a total of cents in dollars, under the same name."""
    return (F.col(total).cast("decimal(18,0)") * F.lit(Decimal("0.01"))).cast("decimal(18,2)").alias(total)


def tip_rate() -> Column:
    """Return tips divided by fares; null where the fares add up to nothing."""
    return F.try_divide("tips", "fares").alias("tip_rate")


def in_order(table: DataFrame, *keys: str) -> DataFrame:
    """Return a small table as one partition, sorted."""
    return table.repartition(1).sortWithinPartitions(*keys)


def print_summary(tables: dict[str, DataFrame]) -> None:
    """Print a few figures of the report; never a trip."""
    payments = tables["by_payment_type"].collect()
    trips = sum(row.trips for row in payments)
    busiest = tables["busiest_pairs"].orderBy(F.desc("trips"), "pickup_location_id", "dropoff_location_id").first()
    print(f"{trips:,} trips brought in {sum(row.revenue for row in payments):,} dollars")
    for row in payments:
        print(f"  {row.payment:<16}{row.trips:>12,} trips")
    if busiest is not None:
        print(f"Busiest: from zone {busiest.pickup_location_id} to zone {busiest.dropoff_location_id}")


if __name__ == "__main__":
    main()
