"""What happened to one upload, and what a promotion changed: signed pages that stand alone, and the same as JSON."""
