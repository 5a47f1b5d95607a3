"""Import KServe's server without its cluster client.

`import kserve` also imports the Kubernetes client with a class for each resource, and pandas: half a second and 120 MB
that a predictor never uses. So its submodules are imported without running its `__init__`, and pandas is replaced by a
stub: the modules that we use mention it only in annotations and type checks.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType


class _Stub(ModuleType):
    """A stand-in for a module; its classes exist, and nothing is an instance of them."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = type(name, (), {})
        setattr(self, name, cls)
        return cls


@contextmanager
def lean_kserve() -> Generator[None]:
    """Import KServe's submodules inside this context; a KServe or pandas that is already imported stays as it is."""
    spec = find_spec("kserve")
    if spec is None or "kserve" in sys.modules:
        yield
        return
    # A package without its __init__: the same path, the same submodules.
    bare = module_from_spec(ModuleSpec("kserve", None, is_package=True))
    bare.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["kserve"] = bare
    stubbed = "pandas" not in sys.modules
    if stubbed:
        sys.modules["pandas"] = _Stub("pandas")
    try:
        yield
    finally:
        if stubbed:
            del sys.modules["pandas"]
