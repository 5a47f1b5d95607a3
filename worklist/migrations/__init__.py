"""Alembic migrations of the worklist's tables; `worklist.database.migrate` runs them."""
