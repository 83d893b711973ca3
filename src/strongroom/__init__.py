"""Strongroom: unmodified PySpark on data that only attested code can read.

The packages are the eight steps of a run; `docs/architecture.md` maps them.
"""

__version__ = "0.1.0"
