"""How a file becomes grey levels: one decoder, a module for each container and codec."""
