"""Who put which model where, why, and from what: runs, promotions and their history."""
