"""Putting a version into service, with a canary first where wanted."""
