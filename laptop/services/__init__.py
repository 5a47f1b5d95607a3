"""The services of the stack, one process each: how each is started, and when it is ready."""
