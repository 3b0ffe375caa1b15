"""Run by Alembic, on the connection that `service.store.database` hands over."""

from alembic import context

from service.store.tables import metadata

# Batches: SQLite alters a table by writing it anew.
context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
