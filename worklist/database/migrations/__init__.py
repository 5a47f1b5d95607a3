"""Alembic migrations of the worklist's tables; `worklist.database.session.migrate` runs them."""
