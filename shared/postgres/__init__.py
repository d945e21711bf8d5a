"""PostgreSQL infrastructure: connection pools, migrations, positions and outbox."""
