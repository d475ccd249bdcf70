"""Shortcut partitions of minor-free graphs, and what they are good for.

Hsien-Chih Chang, Jonathan Conroy, Hung Le, Lazar Milenković, Shay Solomon and Cuong Than, "Shortcut Partitions in
Minor-Free Graphs: Steiner Point Removal, Distance Oracles, Tree Covers, and More", arXiv 2308.00555.
"""

from paperworks.combinatorial.shortcut_partition.cop_decomposition import (
    BufferedCopDecomposition,
    buffered_cop_decomposition,
)
from paperworks.combinatorial.shortcut_partition.oracle import DistanceOracle
from paperworks.combinatorial.shortcut_partition.partition import ShortcutPartition, shortcut_partition
from paperworks.combinatorial.shortcut_partition.steiner import steiner_point_removal
from paperworks.combinatorial.shortcut_partition.tree_cover import TreeCover

__all__ = [
    "BufferedCopDecomposition",
    "DistanceOracle",
    "ShortcutPartition",
    "TreeCover",
    "buffered_cop_decomposition",
    "shortcut_partition",
    "steiner_point_removal",
]
