"""The pages and routes of the worklist."""
