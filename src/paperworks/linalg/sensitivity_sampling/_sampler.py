"""Samples of rows: independent or of a fixed size, at once or merged from a stream."""

import warnings
from math import ceil, log, log2
from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_floating, check_integer, check_number
from paperworks.linalg.sensitivity_sampling._rows import Rows, Vector
from paperworks.linalg.sensitivity_sampling._scores import (
    COMPUTATIONS,
    EXACT_ROWS,
    Computation,
    check_p,
    lewis,
    probabilities,
    sensitivities,
)

Rule = Literal["auto", "sensitivity", "root_leverage", "combined", "leverage", "lewis", "uniform"]
RULES = ("auto", "sensitivity", "root_leverage", "combined", "leverage", "lewis", "uniform")


def sampling_probabilities(scores: ArrayLike, n_samples: float) -> NDArray[np.float64]:
    r"""Probabilities in proportion to scores, capped at one.

    .. math:: q_i = \min(1, c\, s_i), \qquad \sum_i q_i = m.

    Parameters
    ----------
    scores : array_like of shape (n,)
        Scores :math:`s_i`, nonnegative floating-point numbers, not all zero.
    n_samples : float
        Expected number m of samples; if there are no more positive scores than that, all of them have q = 1.

    Returns
    -------
    ndarray of shape (n,)
        Probabilities; zero where the score is.

    Raises
    ------
    ValueError
        If scores are negative, all zero, empty, NaN or infinite, or n_samples is not positive.
    TypeError
        If scores are not floating-point numbers.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> from paperworks.linalg import sampling_probabilities
    >>> sampling_probabilities([1.0, 0.25, 0.25, 0.0], 2.0)
    array([1. , 0.5, 0.5, 0. ])
    """
    checked = check_floating("scores", scores, ndim=1).astype(np.float64)
    if checked.min() < 0:
        raise ValueError(f"scores must not be negative, got {checked.min():g} at index {int(checked.argmin())}")
    if not checked.any():
        raise ValueError("scores must not all be zero")
    return probabilities(checked, check_number("n_samples", n_samples, above=0.0))


class LpRowSampler(TransformerMixin, BaseEstimator):
    r"""Keep a few reweighted rows of a tall matrix that preserve l_p norms.

    .. math:: \|S A x\|_p^p = (1 \pm \varepsilon)\, \|A x\|_p^p \quad \text{for all } x,

    where S keeps row i with probability :math:`q_i` and multiplies it by :math:`q_i^{-1/p}`.

    Parameters
    ----------
    p : float, default 1
        Exponent, at least 1.
    rule : {"auto", "sensitivity", "root_leverage", "combined", "leverage", "lewis", "uniform"}, default "auto"
        What q is in proportion to. ``"sensitivity"``: the l_p sensitivities. ``"root_leverage"``: leverage scores to
        the power p / 2, for p < 2, sampled again and again until it shrinks no further. ``"combined"``: for p > 2,
        sensitivities and leverage scores, half of the samples each (see ``mix``). ``"leverage"`` and ``"lewis"``:
        leverage scores, Lewis weights. ``"uniform"``: all rows alike. ``"auto"`` is ``"leverage"`` for p = 2 and
        ``"sensitivity"`` otherwise.
    epsilon : float, default 0.2
        Accuracy that sets the number of samples when ``n_samples`` is None.
    n_samples : int, optional
        Expected number of samples; the exact number with replacement. When None,
        :math:`\varepsilon^{-2} \log(d + 2)` times :math:`S^{2/p}` for sensitivities with p < 2 and
        :math:`S^{2 - 2/p}` with p > 2; times d for root leverage, leverage and Lewis weights with p <= 2,
        :math:`d^{p/2}` for Lewis weights with p > 2, :math:`d^{2/p} S^{2 - 4/p}` combined.
    oversampling : float, default 1
        Factor on the number of samples.
    replacement : bool, default False
        Whether to draw a fixed number of samples with replacement.
    mix : float, default 0.5
        Share of the samples that ``"combined"`` gives to leverage scores, in [0, 1].
    method : {"auto", "exact", "approximate", "sampled"}, default "auto"
        How sensitivities are computed; see `lp_sensitivities`.
    random_state : None, int, Generator or RandomState
        Source of the samples.

    Attributes
    ----------
    sample_indices_ : ndarray of shape (m,)
        Rows that are kept, ascending without replacement; after `partial_fit`, of the whole stream.
    weights_ : ndarray of shape (m,)
        What they are multiplied by: :math:`q^{-1/p}`.
    probabilities_ : ndarray of shape (n,)
        q; with replacement the probability of each draw. Not after `partial_fit`.
    scores_ : ndarray of shape (n,)
        The scores that q is in proportion to. Not after `partial_fit`.
    total_sensitivity_ : float
        S, or the sum of the scores that stand for sensitivities.
    coreset_ : ndarray of shape (m, d)
        The reweighted rows.
    n_seen_ : int
        Rows seen.
    n_features_in_ : int
        Number of columns.

    Warns
    -----
    UserWarning
        If as many samples as rows are asked for: all rows are kept then.

    References
    ----------
    David P. Woodruff, Taisuke Yasuda. "Sharper Bounds for ell_p Sensitivity Sampling". ICML 2023. arXiv:2306.00732.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import LpRowSampler
    >>> A = np.random.default_rng(0).normal(size=(5000, 4))
    >>> sampler = LpRowSampler(p=1.0, n_samples=400, random_state=0)
    >>> small = sampler.fit_transform(A)
    >>> x = np.ones(4)
    >>> bool(abs(np.abs(small @ x).sum() / np.abs(A @ x).sum() - 1) < 0.1)
    True
    """

    _estimator_checks: ClassVar[dict[str, Any]] = {
        "parameters": {"n_samples": 15, "random_state": 0},
        "expected_failures": {
            "check_fit2d_1sample": "one row is a sample of itself",
            "check_fit_idempotent": "only the matrix that was sampled can be transformed",
            "check_transformer_general": "a sample has fewer rows than the matrix",
            "check_transformer_data_not_an_array": "a sample has fewer rows than the matrix",
            "check_methods_sample_order_invariance": "which rows are kept depends on their order",
            "check_methods_subset_invariance": "rows are sampled all together",
        },
    }

    def __init__(
        self,
        p: float = 1.0,
        rule: Rule = "auto",
        epsilon: float = 0.2,
        n_samples: int | None = None,
        oversampling: float = 1.0,
        replacement: bool = False,
        mix: float = 0.5,
        method: Computation = "auto",
        random_state: RandomState = None,
    ) -> None:
        self.p = p
        self.rule = rule
        self.epsilon = epsilon
        self.n_samples = n_samples
        self.oversampling = oversampling
        self.replacement = replacement
        self.mix = mix
        self.method = method
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Choose rows.

        Parameters
        ----------
        X : array_like, SciPy CSR or dask array of shape (n, d)
            The matrix. Integers are taken as floating-point numbers.
        y : ignored
            Not used.

        Returns
        -------
        Self
            The sampler.
        """
        p = self._check_parameters()
        rows = self._rows(X)
        self._levels: list[tuple[NDArray[np.float64], Vector, NDArray[np.int64]]] = []
        chosen, weights, q, self.scores_ = self._sample(rows, p, numpy_generator(self.random_state))
        self.total_sensitivity_ = float(self.scores_.sum())
        self.sample_indices_, self.weights_, self.probabilities_ = chosen, weights, q
        self.n_seen_ = rows.shape[0]
        self.coreset_ = rows.take(chosen) * weights[:, None].astype(rows.matrix.dtype)
        return self

    def transform(self, X: Any) -> NDArray[np.floating]:
        """Return the reweighted rows.

        Parameters
        ----------
        X : array_like, SciPy CSR or dask array of shape (n, d)
            The matrix that was fitted.

        Returns
        -------
        ndarray of shape (m, d)
            ``weights_`` times the rows at ``sample_indices_``.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        if rows.shape[0] != self.n_seen_:
            raise ValueError(f"X must have the {self.n_seen_} rows that were sampled, got {rows.shape[0]}")
        return np.asarray(rows.take(self.sample_indices_) * self.weights_[:, None].astype(rows.matrix.dtype))

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """Merge more rows of a stream into the sample, and reduce it.

        Samples are kept at levels, as bits of a counter: two of one level are put together and sampled again, so that
        n batches go through log2(n) samplings, whose errors add up. Each is made with the number of samples that is
        set, which must be given.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n, d)
            The next rows.
        y : ignored
            Not used.

        Returns
        -------
        Self
            The sampler, with ``coreset_``, ``sample_indices_`` and ``weights_`` of all rows seen.
        """
        p = self._check_parameters()
        if self.n_samples is None:
            raise ValueError("n_samples must be given for partial_fit")
        first = not hasattr(self, "_levels") or not self._levels
        rows = self._rows(X, reset=first)
        if first:
            self._levels, self.n_seen_, self._stream = [], 0, numpy_generator(self.random_state)
        kept = np.arange(self.n_seen_, self.n_seen_ + rows.shape[0])
        block = np.concatenate([each for _, each in rows.blocks()])
        self.n_seen_ += rows.shape[0]
        new = self._reduced((block, np.ones(len(block)), kept), p)
        level = 0
        while level < len(self._levels) and len(self._levels[level][0]):
            old = self._levels[level]
            joined = tuple(np.concatenate(pair) for pair in zip(old, new, strict=True))
            self._levels[level] = (block[:0], np.zeros(0), kept[:0])
            new = self._reduced((joined[0], joined[1], joined[2]), p)
            level += 1
        self._levels[level : level + 1] = [new]
        held = [np.concatenate([each[i] for each in self._levels[::-1]]) for i in range(3)]
        self.coreset_, self.weights_, self.sample_indices_ = held
        return self

    def _reduced(
        self, sample: tuple[NDArray[np.float64], Vector, NDArray[np.int64]], p: float
    ) -> tuple[NDArray[np.float64], Vector, NDArray[np.int64]]:
        """Sample reweighted rows again, unless there are few enough."""
        block, weights, indices = sample
        assert self.n_samples is not None
        if len(block) <= self.n_samples * self.oversampling or not block.any():
            return sample
        chosen, again, _, scores = self._sample(Rows(block), p, self._stream)
        self.total_sensitivity_ = float(scores.sum())
        return block[chosen] * again[:, None], weights[chosen] * again, indices[chosen]

    def _sample(
        self, rows: Rows, p: float, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], Vector, Vector, Vector]:
        """Indices, weights, probabilities, and scores."""
        rule = self._rule(p)
        if rule == "root_leverage":
            return self._by_root_leverage(rows, p, generator)
        scores = self._scores(rows, p, rule, generator)
        size = self._size(rows, p, rule, float(scores.sum()))
        if self.replacement:
            q = scores / scores.sum()
            chosen = generator.choice(len(q), size=min(size, 2**62), p=q)
            return chosen, (len(chosen) * q[chosen]) ** (-1 / p), q, scores
        q = self._mixed(scores, rows, size) if rule == "combined" else probabilities(scores, size)
        return (*_kept(q, p, generator), q, scores)

    def _mixed(self, scores: Vector, rows: Rows, size: int) -> Vector:
        leverage = np.minimum(rows.norms_after(rows.basis()), 1.0)
        both = (1 - self.mix) * scores / scores.sum() + self.mix * leverage / leverage.sum()
        return probabilities(both, size)

    def _by_root_leverage(
        self, rows: Rows, p: float, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], Vector, Vector, Vector]:
        """Rounds of sampling by l^(p/2), each on the sample before, until there is no more than asked for.

        The scores sum to as much as n^(1 - p/2) d^(p/2): one round goes from n to the root or so, and a few to d.
        """
        n = rows.shape[0]
        target = self._size(rows, p, "root_leverage", 0.0)
        n_rounds = max(1, ceil(log2(max(2.0, log2(max(2.0, n / target))))) + 1)
        chosen, weights, q = np.arange(n), np.ones(n), np.ones(n)
        for step in range(n_rounds):
            scores = np.minimum(rows.norms_after(rows.basis()), 1.0) ** (p / 2)
            if step == 0:
                first = scores
            # Geometrically fewer rows each time: log n goes down by the same factor.
            size = target if step == n_rounds - 1 else target * (n / target) ** (0.5 ** (step + 1))
            here = probabilities(scores, size)
            kept, again = _kept(here, p, generator)
            chosen, weights = chosen[kept], weights[kept] * again
            q[chosen] *= here[kept]
            rows = Rows(rows.take(kept).astype(np.float64) * again[:, None])
            if len(chosen) <= target:
                break
        return chosen, weights, q, first

    def _scores(self, rows: Rows, p: float, rule: str, generator: np.random.Generator) -> Vector:
        if rule == "uniform":
            return np.ones(rows.shape[0])
        if rule in {"sensitivity", "combined"}:
            method = self.method
            if method == "auto":
                method = "exact" if rows.shape[0] <= EXACT_ROWS else "approximate"
            return sensitivities(rows, p, method, 1e-3, generator)
        if rule == "lewis":
            return lewis(rows, rows.basis(), p)
        return np.minimum(rows.norms_after(rows.basis()), 1.0)

    def _size(self, rows: Rows, p: float, rule: str, total: float) -> int:
        n, d = rows.shape
        if self.n_samples is not None:
            size = self.n_samples * self.oversampling
        else:
            growth = {
                "sensitivity": total ** (2 / p if p < 2 else 2 - 2 / p),
                "combined": d ** (2 / p) * total ** (2 - 4 / p),
                "lewis": d ** max(1.0, p / 2),
                "uniform": n,
            }.get(rule, d)
            size = self.oversampling * growth * log(d + 2) / self.epsilon**2
        if size >= n and self.n_samples is not None:
            warnings.warn(f"n_samples={size:g} of {n} rows: all are kept", stacklevel=4)
        return max(1, ceil(min(size, n)))

    def _rule(self, p: float) -> str:
        if self.rule == "auto":
            return "leverage" if p == 2 else "sensitivity"
        if self.rule == "root_leverage" and p >= 2:
            raise ValueError(f"rule='root_leverage' is for p < 2, got p={p:g}")
        if self.rule == "combined" and p <= 2:
            raise ValueError(f"rule='combined' is for p > 2, got p={p:g}")
        if self.replacement and self.rule in {"root_leverage", "combined"}:
            raise ValueError(f"rule={self.rule!r} draws without replacement")
        return self.rule

    def _check_parameters(self) -> float:
        p = check_p(self.p)
        check_choice("rule", self.rule, RULES)
        check_choice("method", self.method, COMPUTATIONS)
        check_number("epsilon", self.epsilon, above=0.0)
        check_number("oversampling", self.oversampling, above=0.0)
        check_number("mix", self.mix, at_least=0.0, at_most=1.0)
        if self.n_samples is not None:
            check_integer("n_samples", self.n_samples)
        self._rule(p)
        return p

    def _rows(self, X: Any, reset: bool = True) -> Rows:
        if type(X).__module__.split(".")[0] == "dask":
            rows = Rows.of("X", X)
            if reset:
                self.n_features_in_ = rows.shape[1]
            return rows
        checked = X if isinstance(X, np.memmap) else None
        validated = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)
        return Rows.of("X", validated if checked is None else checked)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _kept(q: Vector, p: float, generator: np.random.Generator) -> tuple[NDArray[np.int64], Vector]:
    """Rows that are kept, each on its own, and their weights q^(-1/p)."""
    kept = np.flatnonzero(generator.random(len(q)) < q)
    if not len(kept):
        kept = np.array([int(np.argmax(q))])
    return kept, q[kept] ** (-1 / p)
