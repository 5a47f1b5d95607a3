"""Kubeflow components: each imports the core, calls it, and writes its outputs."""
