"""What happens between a prepared data set and a model package."""
