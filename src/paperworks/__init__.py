"""Papers that work: published methods as one import, with claims that anyone can re-check.

Families of methods (``paperworks.transport``, ...) load when they are first touched, so that ``import paperworks``
costs a few milliseconds.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paperworks.claims import check

__version__ = "0.1.0"
__all__ = ["__version__", "check"]

_LAZY = {"check": "paperworks.claims"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if not name.startswith("_"):
        try:
            return import_module(f"paperworks.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"paperworks.{name}":
                raise
    raise AttributeError(f"module 'paperworks' has no attribute {name!r}")


def __dir__() -> list[str]:
    from paperworks.catalog import families

    return sorted({*__all__, *families(), "catalog", "claims", "datasets"})
