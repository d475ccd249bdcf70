"""Lazy families: ``paperworks.transport.sinkhorn_newton`` finds its module through the cards."""

from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_family(family: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the ``__getattr__`` and ``__dir__`` of a family's package, answered from the cards of its papers.

    Parameters
    ----------
    family : str
        Name of the family, which is the name of its package.
    """

    def modules() -> dict[str, str]:
        from paperworks.catalog import cards

        return {name: card.module for card in cards(family=family) for name in card.public}

    def __getattr__(name: str) -> Any:
        # Names with an underscore are never public; asking the cards for them would recurse through the import system.
        module = None if name.startswith("_") else modules().get(name)
        if module is None:
            raise AttributeError(f"module 'paperworks.{family}' has no attribute {name!r}")
        return getattr(import_module(module), name)

    def __dir__() -> list[str]:
        return sorted(modules())

    return __getattr__, __dir__
