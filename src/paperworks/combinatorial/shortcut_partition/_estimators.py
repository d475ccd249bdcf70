"""What the two estimators share: parameters, graphs and scikit-learn's tags."""

from typing import Any

import scipy.sparse as sp
from sklearn.utils.validation import _check_feature_names, check_array

from paperworks._validation import check_integer
from paperworks.combinatorial.shortcut_partition._lengths import Roads, check_lengths
from paperworks.combinatorial.shortcut_partition.cop_decomposition import check_minor_size

CHECKS: dict[str, Any] = {
    "parameters": {"epsilon": 1.0, "progress": False},
    "expected_failures": {
        "check_estimators_nan_inf": "its matrix is not square, which is refused before its NaN are looked for",
        "check_positive_only_tag_during_fit": "negative lengths are refused in words of our own, with their place",
    },
}


def check_fitting(estimator: Any) -> int | None:
    """Check the parameters that both share, and return r."""
    if not isinstance(estimator.length, str):
        raise TypeError(f"length must be the name of an edge attribute, got {estimator.length!r}")
    if estimator.n_jobs not in (None, -1):
        check_integer("n_jobs", estimator.n_jobs)
    return check_minor_size(estimator.minor_size)


def fitted_graph(estimator: Any, graph: Any) -> tuple[Roads, list[Any] | None]:
    """Put a table through scikit-learn's checks, other graphs only through ours, and note the number of vertices."""
    if sp.issparse(graph) or isinstance(graph, tuple) or not hasattr(graph, "__array__"):
        estimator.__dict__.pop("feature_names_in_", None)
    else:
        _check_feature_names(estimator, graph, reset=True)
        graph = check_array(graph, input_name="graph", estimator=estimator, ensure_all_finite=False, dtype="numeric")
    roads, nodes = check_lengths("graph", graph, estimator.length)
    estimator.n_features_in_ = roads.n
    return roads, nodes


def graph_tags(tags: Any) -> Any:
    """Say that the input is a square, nonnegative and perhaps sparse matrix."""
    tags.input_tags.pairwise = True
    tags.input_tags.sparse = True
    tags.input_tags.positive_only = True
    return tags
