"""The hub as it runs for a large fleet, as plain processes: two replicas, PostgreSQL, S3, and a proxy with TLS."""
