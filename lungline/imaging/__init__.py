"""Decodes image files to grey levels, with one module for each file format and codec."""
