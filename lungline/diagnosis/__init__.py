"""From an image to a diagnosis, and from an upload to a saved result."""
