"""The folder that holds all state of a stack: ports, credentials, lock."""
