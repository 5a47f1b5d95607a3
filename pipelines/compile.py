"""Compile the training pipeline to the YAML that a Kubeflow Pipelines server takes."""

# kfp types a pipeline as its function.
# pyright: reportArgumentType=false

import re
import tempfile
from pathlib import Path

from components import IMAGE
from lungline.settings import Settings


def compile_pipeline(path: Path, settings: Settings) -> None:
    """Write the pipeline to a file, with the image and the resources of the settings.

    The same settings give the same file.
    """
    from kfp.compiler import Compiler

    from pipelines.resources import cluster_pipeline

    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary) / "pipeline.yaml"
        Compiler().compile(cluster_pipeline(settings), str(draft))
        text = draft.read_text()
    # The header's comment lists each block's defaults in an order that changes by chance; the body has them sorted.
    text = re.sub(r"^(#    \w+: dict) \[Default: .*\]$", r"\1", text, flags=re.MULTILINE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.replace(f"image: {IMAGE}\n", f"image: {settings.kfp_image}\n"))
