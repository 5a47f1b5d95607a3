"""From a prepared data set to a model package."""
