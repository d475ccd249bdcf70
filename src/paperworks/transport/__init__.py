"""Optimal transport: distances, plans, maps, and what is built on them."""

from paperworks._families import lazy_family

__getattr__, __dir__ = lazy_family("transport")
