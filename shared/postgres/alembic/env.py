"""Alembic's environment for all services; it uses the connection of `shared.postgres.migrations`."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=False)
with context.begin_transaction():
    context.run_migrations()
