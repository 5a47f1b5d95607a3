"""KServe with a TensorFlow SavedModel, called by its signature.

One worker, REST only, the same decoding as the other peer, no Python lists. `--threads` is TensorFlow's intra-op number
of threads. Requests run on a pool of as many threads as there are cores, because KServe would otherwise run predictions
on its event loop and block it.
"""

import argparse
import asyncio
import base64
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import tensorflow as tf
from kserve import Model, ModelServer

from benchmarks.peers.preparing import prepare


class SavedModel(Model):
    """A SavedModel behind KServe's V1 protocol."""

    def __init__(self, name: str, folder: str) -> None:
        super().__init__(name)
        self._module: Any = tf.saved_model.load(folder)
        self._call = self._module.signatures["serving_default"]
        self._size = self._call.structured_input_signature[1]["image"].shape[1]
        self._pool = ThreadPoolExecutor(os.cpu_count())
        self._predict_images([np.zeros((self._size, self._size, 1), np.float32)])
        self.ready = True

    async def predict(self, payload: Any, headers: Any = None, response_headers: Any = None) -> Any:  # noqa: ARG002
        """Probabilities of the images of a V1 request."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._answer, payload)

    def _answer(self, payload: Any) -> dict[str, Any]:
        images = [prepare(base64.b64decode(instance["b64"]), self._size) for instance in payload["instances"]]
        return {"predictions": [{"probability": float(risk)} for risk in self._predict_images(images)]}

    def _predict_images(self, images: list[np.ndarray]) -> np.ndarray:
        logits = self._call(image=tf.constant(np.stack(images)))["logit"].numpy().ravel()
        return 1 / (1 + np.exp(-logits))


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = SavedModel("pneumonia", arguments.model)
    server = ModelServer(http_port=arguments.port, enable_grpc=False, workers=1)
    server.start([model])


if __name__ == "__main__":
    main()
