"""Nested convex polygons and boxes for weighted trees, and ultrametrics in Euclidean space.

Mark de Berg, Krzysztof Onak and Anastasios Sidiropoulos, "Fat Polygonal Partitions with Applications to Visualization
and Embeddings", arXiv 1009.1866.
"""

from paperworks.combinatorial.fat_partition.drawing import plot_treemap
from paperworks.combinatorial.fat_partition.polygonal import (
    PolygonalTreemap,
    aspect_ratio,
    cut_polygon,
    polygonal_partition,
)
from paperworks.combinatorial.fat_partition.rectangular import RectangularTreemap
from paperworks.combinatorial.fat_partition.ultrametric import UltrametricEmbedding

__all__ = [
    "PolygonalTreemap",
    "RectangularTreemap",
    "UltrametricEmbedding",
    "aspect_ratio",
    "cut_polygon",
    "plot_treemap",
    "polygonal_partition",
]
