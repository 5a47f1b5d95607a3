"""Where labelled images come from, and how they are laid out, split and drawn."""
