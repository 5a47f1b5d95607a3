"""Whether the world has moved away from what the model was validated on, and how well it does there."""
