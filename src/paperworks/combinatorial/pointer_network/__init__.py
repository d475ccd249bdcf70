"""Pointer networks: sequences of positions of the input, learned from examples.

Oriol Vinyals, Meire Fortunato and Navdeep Jaitly, "Pointer Networks", arXiv 1506.03134.
"""

from paperworks.combinatorial.pointer_network.geometry import (
    christofides,
    held_karp,
    make_geometry_dataset,
    tour_length,
    two_opt,
)
from paperworks.combinatorial.pointer_network.metrics import (
    ConvexHullMetrics,
    DelaunayMetrics,
    convex_hull_metrics,
    delaunay_metrics,
)
from paperworks.combinatorial.pointer_network.network import PointerNetwork
from paperworks.combinatorial.pointer_network.sequence_to_sequence import SequenceToSequence
from paperworks.combinatorial.pointer_network.solver import PointerSolver

__all__ = [
    "ConvexHullMetrics",
    "DelaunayMetrics",
    "PointerNetwork",
    "PointerSolver",
    "SequenceToSequence",
    "christofides",
    "convex_hull_metrics",
    "delaunay_metrics",
    "held_karp",
    "make_geometry_dataset",
    "tour_length",
    "two_opt",
]
