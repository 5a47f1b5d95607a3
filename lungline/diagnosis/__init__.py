"""Diagnose an image; diagnose an upload and save its result."""
