"""The KServe predictor: `python -m serving`."""
