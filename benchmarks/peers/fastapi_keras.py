"""The common way: a FastAPI service that calls `keras.Model.predict` for each request.

One uvicorn worker (with uvloop and httptools), TensorFlow's default threads. Pillow decodes the image at the same
reduced scale as the predictor, and the same few steps prepare it.
"""

import argparse
import base64
from pathlib import Path
from typing import Any

import keras
import numpy as np
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.peers.preparing import prepare


class Body(BaseModel):
    """Images as base64 text, as for TensorFlow Serving."""

    instances: list[dict[str, str]]


def service(model: Any) -> FastAPI:
    """The service around a Keras model."""
    app = FastAPI()
    size = model.input_shape[1]

    @app.get("/health")
    def health() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/predict")
    def predict(body: Body) -> dict[str, Any]:
        images = np.stack([prepare(base64.b64decode(instance["b64"]), size) for instance in body.instances])
        logits = model.predict(images, verbose=0)["logit"].ravel()
        risks = 1 / (1 + np.exp(-logits))
        return {"predictions": [{"probability": float(risk)} for risk in risks]}

    return app


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--port", type=int, required=True)
    arguments = parser.parse_args()
    model: Any = keras.models.load_model(arguments.model)
    model.predict(np.zeros((1, *model.input_shape[1:]), np.float32), verbose=0)
    uvicorn.run(service(model), host="127.0.0.1", port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main()
