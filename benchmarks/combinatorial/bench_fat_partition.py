"""Races of polygonal treemaps against squarified rectangles, and of ultrametric embeddings against scaling."""

import sys
from collections.abc import Iterator

import numpy as np
from scipy.cluster.hierarchy import cophenet, linkage
from scipy.spatial.distance import pdist, squareform

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.combinatorial import PolygonalTreemap, UltrametricEmbedding


def races() -> Iterator[Race]:
    heavy = np.random.default_rng(0).pareto(1.0, 10**5) + 1e-3
    dust = np.concatenate([[1.0], np.full(9_999, 1e-12)])
    few = np.random.default_rng(0).pareto(0.5, 10**3) + 1e-3
    yield _treemap("1,000 siblings of Pareto(0.5) weights", few, "within 5 times squarify's time")
    yield _treemap("10,000 siblings of Pareto(1) weights", heavy[:10_000], "within 5 times squarify's time")
    yield _treemap("10,000 siblings, one huge and the rest dust", dust, "10 times squarify's largest aspect ratio less")
    yield _treemap("100,000 siblings of Pareto(1) weights", heavy, "under 2 s, mean aspect ratio of greedy at most 4")
    yield _embedding()


def _treemap(title: str, weights: np.ndarray, aim: str) -> Race:
    tree = (np.concatenate([[-1], np.zeros(len(weights), dtype=int)]), weights)

    def squarified() -> np.ndarray:
        import squarify

        sizes = squarify.normalize_sizes(sorted(weights.tolist(), reverse=True), 1.0, 1.0)
        limit = sys.getrecursionlimit()
        # squarify calls itself once a row.
        sys.setrecursionlimit(10**6)
        try:
            boxes = squarify.squarify(sizes, 0.0, 0.0, 1.0, 1.0)
        except ZeroDivisionError:
            raise NotHere("squarify divides by zero") from None
        finally:
            sys.setrecursionlimit(limit)
        with np.errstate(divide="ignore", invalid="ignore"):
            sides = np.array([(box["dx"], box["dy"]) for box in boxes])
            return (sides**2).sum(1) / sides.prod(1)

    return Race(
        f"treemap of {title}",
        Contestant("paperworks, greedy", lambda: PolygonalTreemap("greedy").fit(tree).aspect_ratios_),
        [
            Contestant("paperworks, angular", lambda: PolygonalTreemap("angular").fit(tree).aspect_ratios_),
            Contestant("squarify", squarified),
        ],
        "largest diameter^2 / area",
        lambda ratios: float(np.nanmax(ratios)),
        aim=aim,
        repeats=3,
    )


def _embedding() -> Race:
    X = np.random.default_rng(0).normal(size=(400, 8))
    tree = linkage(X, "average")
    distances = squareform(cophenet(tree))

    def smacof() -> np.ndarray:
        from sklearn.manifold import MDS

        return MDS(2, metric="precomputed", n_init=1, init="random", random_state=0).fit_transform(distances)

    def classical() -> np.ndarray:
        from sklearn.manifold import ClassicalMDS

        return ClassicalMDS(2, metric="precomputed").fit_transform(distances)

    def distortion(points: np.ndarray) -> float:
        ratios = pdist(points) / squareform(distances)
        return float(ratios.max() / max(ratios.min(), 1e-300))

    return Race(
        "average linkage of 400 points, embedded in the plane",
        Contestant("paperworks", lambda: UltrametricEmbedding(2).fit_transform(tree)),
        [
            Contestant("scikit-learn MDS (SMACOF)", smacof),
            Contestant("scikit-learn ClassicalMDS", classical),
        ],
        "distortion",
        distortion,
        aim="a tenth of their distortion",
        repeats=3,
    )
