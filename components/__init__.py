"""Kubeflow components, one per file: each imports the core, calls it, and writes its outputs.

A component ships only its function's source to the cluster; the code that it calls is in the image.
"""

from lungline.settings import Settings

IMAGE: str = Settings.model_fields["kfp_image"].default
"""The image of every step; `pipelines.compile` writes the one that the settings name."""
