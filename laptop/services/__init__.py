"""The services of the stack, one process each: how each is started, and how it says that it is ready."""
