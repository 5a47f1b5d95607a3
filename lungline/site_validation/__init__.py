"""Whether a model fits a site: metrics, share of positives, and a version with prior and thresholds of its own."""
