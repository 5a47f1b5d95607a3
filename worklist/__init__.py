"""The worklist: shows results, sends notices, collects readings for training."""
