"""Alembic's environment, the same for every service: on the connection that `shared.postgres.migrations` gives."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
