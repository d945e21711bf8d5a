"""PostgreSQL plumbing: the connection pools, migrations, outbox and inbox."""
