"""Tasks: which images a system takes, what it looks for in them, and everything that follows from that."""
