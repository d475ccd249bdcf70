"""Linear algebra: sampling of rows, and sequences of linear systems."""

from paperworks._families import lazy_family

__getattr__, __dir__ = lazy_family("linalg")
