"""Datasets: encrypted Parquet files, the manifests that list them, and a run's view of them."""
