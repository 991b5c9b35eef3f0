"""The contract between core, models and backends: everything that a plugin author needs to import."""
