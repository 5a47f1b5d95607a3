"""The model package: card, weights, prediction."""
