"""The loader that models name which were registered before `lungline.registry.mlflow_flavor` had its name.

MLflow imports it from the file MLmodel of such a model; nothing else does.
"""

from lungline.registry.mlflow_flavor import _load_pyfunc  # pyright: ignore[reportPrivateUsage, reportUnusedImport]  # noqa: F401
