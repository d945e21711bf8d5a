"""PostgreSQL infrastructure: connection pools, migrations, outbox and inbox."""
