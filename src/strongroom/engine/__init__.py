"""Apache Spark behind a seam: built once, started inside a TEE, with the settings that protection needs."""
