"""Labelled data sets: where their images come from, how they are laid out, split, prepared and drawn."""
