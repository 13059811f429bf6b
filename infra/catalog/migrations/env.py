"""Alembic's entry point: runs migrations on the connection that ``upgrade`` hands over, in its transaction."""

from alembic import context

from infra.catalog.models import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    compare_type=True,
    render_as_batch=True,  # SQLite alters a table by copying it
    transactional_ddl=True,  # true of SQLite as well, once it is told to BEGIN, which the service does
)
context.run_migrations()
