"""Optimisation: solvers of sums, inclusions, bilevel problems and black boxes."""

from paperworks._families import lazy_family

__getattr__, __dir__ = lazy_family("optimization")
