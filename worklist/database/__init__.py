"""What the worklist stores, in SQLite or PostgreSQL."""
