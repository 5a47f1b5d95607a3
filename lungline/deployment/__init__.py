"""Promotion on Kubernetes: the InferenceService, its canary, and what a cluster must have."""
