"""What is asked of a model before it may be registered, and the report that answers."""
