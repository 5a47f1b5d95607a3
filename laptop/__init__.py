"""The whole flow on one machine."""
