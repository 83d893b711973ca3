"""The databases that the store can be in, behind one seam: SQLite in a file, PostgreSQL by URL.

Statements are written once, in the words that both know: question marks for values, `ON CONFLICT`, row values. Tables
are declared in SQLite's words, and `postgres` puts them into its own.
"""

from strongroom.keys.store.databases.opening import is_postgres_url, open_database, open_for_reading
from strongroom.keys.store.databases.seam import Database, Readable, Writer

__all__ = ["Database", "Readable", "Writer", "is_postgres_url", "open_database", "open_for_reading"]
