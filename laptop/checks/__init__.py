"""The checks of `lungline doctor` and `lungline status`, by what they look at."""
