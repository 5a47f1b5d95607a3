"""Imports KServe's server without its cluster client.

`import kserve` also imports the client for Kubernetes with a class for each resource, and pandas: half a second and
120 MB that a predictor never uses. So the package is entered by its submodules, its own `__init__` left unrun, and
pandas stands in as a name: the modules that we use mention it only in annotations and type checks.
"""

import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec, module_from_spec
from types import ModuleType


class _Absent(ModuleType):
    """A module that is not imported; its classes exist, and nothing is an instance of them."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        cls = type(name, (), {})
        setattr(self, name, cls)
        return cls


@contextmanager
def lean_kserve() -> Generator[None]:
    """Import KServe's submodules inside this context; where KServe or pandas is already there, nothing is changed."""
    spec = find_spec("kserve")
    if spec is None or "kserve" in sys.modules:
        yield
        return
    # A package without its __init__: the same place, the same submodules.
    bare = module_from_spec(ModuleSpec("kserve", None, is_package=True))
    bare.__path__ = list(spec.submodule_search_locations or [])
    sys.modules["kserve"] = bare
    absent = "pandas" not in sys.modules
    if absent:
        sys.modules["pandas"] = _Absent("pandas")
    try:
        yield
    finally:
        if absent:
            del sys.modules["pandas"]
