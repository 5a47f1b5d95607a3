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
