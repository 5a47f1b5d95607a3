"""Import KServe's server without its clients.

`import kserve` also imports the Kubernetes client with a class for each resource, and pandas: half a second and 120 MB
that a predictor never uses. So its submodules are imported without running its `__init__`, and pandas, gRPC, the
clients for other predictors and the server with several processes are replaced by stubs: the modules that we use
mention them in annotations, type checks, and code for what we do not enable.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType

from pydantic import BaseModel, ConfigDict

_STUBBED = (
    "pandas",
    "grpc",
    "httpx",
    "kserve.inference_client",
    "kserve.protocol.grpc.server",
    "kserve.protocol.rest.multiprocess.server",
)


class _Stub(ModuleType):
    """A stand-in for a module; its classes exist, and nothing is an instance of them.

    They are exceptions, because some of them are named in `except`.
    """

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = type(name, (Exception,), {})
        setattr(self, name, cls)
        return cls


@contextmanager
def lean_kserve() -> Generator[None]:
    """Import KServe's submodules inside this context; what is already imported stays as it is."""
    spec = find_spec("kserve")
    if spec is None or "kserve" in sys.modules:
        yield
        return
    # A package without its __init__: the same path, the same submodules.
    bare = module_from_spec(ModuleSpec("kserve", None, is_package=True))
    bare.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["kserve"] = bare
    stubbed = [name for name in _STUBBED if name not in sys.modules]
    sys.modules.update((name, _Stub(name)) for name in stubbed)
    try:
        yield
    finally:
        for name in stubbed:
            del sys.modules[name]


@contextmanager
def models_built_at_first_use() -> Generator[None]:
    """Build the Pydantic models of what is imported in this context when they are used, not when they are defined.

    Those that FastAPI describes its routes with take a fifteenth of a start, and are used when somebody reads /docs.
    """
    config = BaseModel.model_config
    BaseModel.model_config = ConfigDict(defer_build=True)
    try:
        yield
    finally:
        BaseModel.model_config = config


def without_pydantic_1() -> None:
    """Keep Pydantic's old version, which comes inside the new one, out of this process.

    FastAPI imports it to see whether a model is one of those, and takes it that none is where it cannot.
    """
    sys.modules.setdefault("pydantic.v1", None)  # pyright: ignore[reportArgumentType] - as Python's import documents
