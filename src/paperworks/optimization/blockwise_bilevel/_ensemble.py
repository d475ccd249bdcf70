"""Classification with a learned weight a sample: logistic regressions of many temperatures, judged on clean samples."""

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import train_test_split
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_X_y, validate_data

from paperworks._random import RandomState, integer_seed, numpy_generator
from paperworks._validation import check_integer, check_number
from paperworks.optimization.blockwise_bilevel._estimators import Gamma, weight_of_correction
from paperworks.optimization.blockwise_bilevel._minimize import Method, minimize_blockwise_bilevel
from paperworks.optimization.blockwise_bilevel._problem import BlockwiseBilevel

Array = NDArray[np.float64]


class ImportanceWeightedEnsemble(ClassifierMixin, BaseEstimator):
    r"""Logistic regressions of many temperatures on samples whose weights are learned from a validation set.

    .. math:: \min_p \frac1m \sum_{i=1}^m L_i(w_i^*(p)), \qquad
        w_i^*(p) = \operatorname{argmin}_w \frac1n \sum_j s(p_j) \log(1 + e^{-y_j w^\top x_j / \sigma_i})
        + \frac\lambda2 \|w\|^2,

    with the sigmoid s, one number p a training sample, and :math:`L_i` the unweighted loss of temperature
    :math:`\sigma_i` on the validation set. Samples with wrong labels, or of a distribution that the validation set does
    not have, lose their weight. Features should be standardised, as for any method of gradients.

    Parameters
    ----------
    n_temperatures : int, default 100
        Number m of members.
    temperatures : array_like of shape (m,), optional
        Temperatures, positive; evenly from 1 to 11 if not given, the range of the authors.
    validation_fraction : float, default 0.2
        Share of the samples that is held out for validation where `fit` is given none.
    method : {"v1", "v2", "rsvrb"}, default "v2"
        Which algorithm of `minimize_blockwise_bilevel`.
    n_steps : int, default 3000
        Steps.
    blocks_per_step : int, default 10
        Members moved a step, all of them if there are fewer.
    batch_size : int, default 32
        Samples of each.
    upper_lr : float, optional
        Step size of p; if not given, one by which the weight of a sample can vanish within the steps that are made.
    lower_lr : float or array_like of shape (m,), optional
        Step size of the members' weights; if not given, each member's own, by the curvature of its loss.
    alpha, gamma, beta
        As in `minimize_blockwise_bilevel`.
    regularization : float, default 1e-5
        lambda.
    vector_bound : float, default 10
        Radius of the ball of the linear systems' solutions.
    random_state : None, int, Generator or RandomState
        Source of the validation set, blocks and samples.
    progress : bool, default False
        Whether to show a bar of steps.

    Attributes
    ----------
    sample_weight_ : ndarray of shape (n_samples,)
        Learned weights of the samples, from 0 to 1; NaN for those that were held out.
    coef_ : ndarray of shape (m, n_features)
        Weights of the members, divided by their temperatures.
    intercept_ : ndarray of shape (m,)
        Their constants, likewise.
    temperatures_ : ndarray of shape (m,)
        Temperatures.
    classes_ : ndarray of shape (2,)
        The classes.
    history_ : dict of ndarray
        The solver's history.
    n_iter_ : int
        Steps made.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Quanqi Hu, Zi-Hao Qiu, Zhishuai Guo, Lijun Zhang, Tianbao Yang. "Blockwise Stochastic Variance-Reduced Methods with
    Parallel Speedup for Multi-Block Bilevel Optimization". ICML 2023. arXiv:2305.18730.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import ImportanceWeightedEnsemble
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(300, 2))
    >>> clean = (X[:, 0] > 0).astype(int)
    >>> y = np.where(np.arange(300) < 40, 1 - clean, clean)  # the first forty labels are wrong
    >>> model = ImportanceWeightedEnsemble(5, n_steps=1500, random_state=0)
    >>> model = model.fit(X[:200], y[:200], X[200:], y[200:])
    >>> bool(model.sample_weight_[:40].mean() < model.sample_weight_[40:].mean())
    True
    """

    _estimator_checks: ClassVar = {"parameters": {"n_temperatures": 3, "n_steps": 300, "random_state": 0}}

    def __init__(
        self,
        n_temperatures: int = 100,
        temperatures: Any = None,
        validation_fraction: float = 0.2,
        method: Method = "v2",
        n_steps: int = 3000,
        blocks_per_step: int = 10,
        batch_size: int = 32,
        upper_lr: float | None = None,
        lower_lr: Any = None,
        alpha: float = 0.1,
        gamma: Gamma = "theory",
        beta: float = 0.9,
        regularization: float = 1e-5,
        vector_bound: float = 10.0,
        random_state: RandomState = None,
        progress: bool = False,
    ) -> None:
        self.n_temperatures = n_temperatures
        self.temperatures = temperatures
        self.validation_fraction = validation_fraction
        self.method = method
        self.n_steps = n_steps
        self.blocks_per_step = blocks_per_step
        self.batch_size = batch_size
        self.upper_lr = upper_lr
        self.lower_lr = lower_lr
        self.alpha = alpha
        self.gamma = gamma
        self.beta = beta
        self.regularization = regularization
        self.vector_bound = vector_bound
        self.random_state = random_state
        self.progress = progress

    def fit(self, X: Any, y: Any, X_validation: Any = None, y_validation: Any = None) -> "ImportanceWeightedEnsemble":
        """Learn the weights of samples and members.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Samples.
        y : array_like of shape (n_samples,)
            Labels of two classes.
        X_validation : array_like of shape (n_validation, n_features), optional
            Samples whose labels can be trusted.
        y_validation : array_like of shape (n_validation,), optional
            Their labels.

        Returns
        -------
        ImportanceWeightedEnsemble
            Itself.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) != 2:
            raise ValueError(
                f"Only binary classification is supported. y must hold two classes, got {len(self.classes_)} class(es)"
            )
        generator = numpy_generator(self.random_state)
        kept, validation = self._split(X, y, X_validation, y_validation, generator)
        problem = WeightedLogistic(
            X[kept],
            self._signs(y[kept], "y"),
            *validation,
            temperatures=self._temperatures(),
            regularization=check_number("regularization", self.regularization, at_least=0.0),
        )
        found = self._solve(problem, generator)
        self.sample_weight_ = np.full(len(X), np.nan)
        self.sample_weight_[kept] = expit(found.x)
        self.temperatures_ = problem.temperatures
        effective = found.lower_solution / problem.temperatures[:, None]
        self.coef_, self.intercept_ = effective[:, :-1], effective[:, -1]
        self.history_, self.n_iter_ = found.history, found.nit
        return self

    def predict_proba(self, X: Any) -> Array:
        """Mean of the members' probabilities.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Probabilities of both classes.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        second = expit(X @ self.coef_.T + self.intercept_).mean(1)
        return np.column_stack([1 - second, second])

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes of samples.

        Parameters
        ----------
        X : array_like of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The class of larger probability.
        """
        second = self.predict_proba(X)[:, 1] > 0.5
        return np.asarray(self.classes_[second.astype(int)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags

    def _temperatures(self) -> Array:
        if self.temperatures is None:
            return np.linspace(1.0, 11.0, check_integer("n_temperatures", self.n_temperatures))
        given = np.atleast_1d(np.asarray(self.temperatures, dtype=np.float64))
        if given.ndim != 1 or not len(given) or not np.isfinite(given).all() or not (given > 0).all():
            raise ValueError(f"temperatures must be positive numbers, got {self.temperatures!r}")
        return given

    def _signs(self, y: NDArray[Any], name: str) -> Array:
        if not np.isin(y, self.classes_).all():
            raise ValueError(f"{name} holds {np.setdiff1d(y, self.classes_)[0]}, which is none of {self.classes_}")
        return np.where(y == self.classes_[1], 1.0, -1.0)

    def _split(
        self, X: Array, y: NDArray[Any], X_validation: Any, y_validation: Any, generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], tuple[Array, Array]]:
        """Indices of the samples for training, and the validation set."""
        if X_validation is not None or y_validation is not None:
            if X_validation is None or y_validation is None:
                raise ValueError("X_validation and y_validation must be given together")
            held, labels = check_X_y(X_validation, y_validation, dtype=np.float64)
            if held.shape[1] != X.shape[1]:
                raise ValueError(f"X_validation must have {X.shape[1]} features, got {held.shape[1]}")
            return np.arange(len(X)), (held, self._signs(labels, "y_validation"))
        share = check_number("validation_fraction", self.validation_fraction, above=0.0)
        if share >= 1:
            raise ValueError(f"validation_fraction must be less than 1, got {share}")
        counts = np.unique(y, return_counts=True)[1]
        stratify = y if counts.min() >= 2 and share * len(y) >= 2 <= (1 - share) * len(y) else None
        if len(y) < 2:
            raise ValueError(f"at least 2 samples are needed to hold some out, got {len(y)} (n_samples={len(y)})")
        kept, held = train_test_split(
            np.arange(len(X)), test_size=share, stratify=stratify, random_state=integer_seed(generator)
        )
        return np.sort(kept), (X[held], self._signs(y[held], "y"))

    def _solve(self, problem: "WeightedLogistic", generator: np.random.Generator) -> Any:
        m, n = len(problem.temperatures), problem.n_samples
        blocks = min(check_integer("blocks_per_step", self.blocks_per_step), m)
        steps = check_integer("n_steps", self.n_steps)
        lower: Any = self.lower_lr
        if lower is None:
            gamma = weight_of_correction(self.gamma, m, blocks, check_number("alpha", self.alpha, above=0.0))
            lower = 1.0 / (max(1.0, gamma) * problem.curvatures)
        # The derivative by a sample's number is about a tenth of 1 / n: so it can move by three within the steps.
        upper = 30.0 * n / steps if self.upper_lr is None else self.upper_lr
        return minimize_blockwise_bilevel(
            problem.as_bilevel(samplewise=self.method != "rsvrb"),
            np.zeros(n),
            np.zeros((m, problem.X.shape[1])),
            method=self.method,
            blocks_per_step=blocks,
            batch_size=self.batch_size,
            upper_lr=upper,
            lower_lr=lower,
            alpha=self.alpha,
            gamma=self.gamma,
            beta=self.beta,
            vector_bound=self.vector_bound,
            n_steps=steps,
            random_state=generator,
            progress=self.progress,
        )


class WeightedLogistic:
    """Lower losses weighted by sigmoids of x, and upper ones that are not; a temperature a block, a constant appended.

    Parameters
    ----------
    X, y : ndarray of shape (n, d) and (n,)
        Training samples and their signs.
    X_upper, y_upper : ndarray of shape (k, d) and (k,)
        Validation samples and their signs.
    temperatures : ndarray of shape (m,)
        sigma.
    regularization : float
        lambda.
    """

    def __init__(
        self, X: Array, y: Array, X_upper: Array, y_upper: Array, temperatures: Array, regularization: float
    ) -> None:
        self.X, self.X_upper = (np.column_stack([each, np.ones(len(each))]) for each in (X, X_upper))
        self.y, self.y_upper = y, y_upper
        self.temperatures, self.regularization = temperatures, regularization
        self.n_samples = len(y)

    @property
    def curvatures(self) -> Array:
        """Bounds of the blocks' Hessians at equal weights of one half."""
        second = self.X.T @ self.X / len(self.X)
        return np.linalg.eigvalsh(second)[-1] / 8 / self.temperatures**2 + self.regularization

    def as_bilevel(self, *, samplewise: bool = True) -> BlockwiseBilevel:
        """The problem for the solver; with derivatives by all of x, if it is not to be samplewise."""

        def mixed(x: Array, w: Array, v: Array, blocks: Any, batch: Any) -> NDArray[Any]:
            found = self._at(x, w, blocks, batch).mixed(v)
            return found if samplewise else np.bincount(batch.ravel(), found.ravel(), len(x))

        return BlockwiseBilevel(
            lower_gradient=lambda x, w, blocks, batch: self._at(x, w, blocks, batch).gradient(),
            upper_gradients=self._upper_gradients,
            mixed_vector=mixed,
            n_samples=self.n_samples,
            lower_hessian_vector=lambda x, w, v, blocks, batch: self._at(x, w, blocks, batch).product(v),
            lower_hessian=lambda x, w, blocks, batch: self._at(x, w, blocks, batch).hessian(),
            lower_derivatives=self._derivatives if samplewise else None,
            mixed_jacobian=lambda x, w, blocks, batch: self._at(x, w, blocks, batch).jacobian(batch, len(x)),
            n_upper_samples=len(self.y_upper),
            samplewise=samplewise,
        )

    def upper_loss(self, w: Array) -> float:
        """Mean loss over blocks and validation samples."""
        margins = self.y_upper * (w @ self.X_upper.T) / self.temperatures[:, None]
        return float(-log_expit(margins).mean())

    def _at(self, x: Array, w: Array, blocks: Any, batch: Any) -> "_Batch":
        return _Batch(self.X[batch], self.y[batch], x[batch], w, self.temperatures[blocks], self.regularization)

    def _derivatives(self, x: Array, w: Array, v: Array, blocks: Any, batch: Any) -> tuple[Array, Array, Array]:
        here = self._at(x, w, blocks, batch)
        return here.gradient(), here.product(v), here.mixed(v)

    def _upper_gradients(self, x: Array, w: Array, blocks: Any, batch: Any) -> tuple[float, Array]:
        rows, scale = self.X_upper[batch], self.y_upper[batch] / self.temperatures[blocks][:, None]
        slopes = -expit(-scale * _dot(rows, w)) * scale / batch.shape[1]
        return 0.0, _combine(slopes, rows)


class _Batch:
    """Derivatives of the lower loss over a batch (I, B) of samples."""

    def __init__(self, rows: Array, signs: Array, p: Array, w: Array, temperatures: Array, regularization: float):
        self._rows, self._p, self._w, self._penalty = rows, p, w, regularization
        self._scale = signs / temperatures[:, None]
        self._wrong = expit(-self._scale * _dot(rows, w))
        self._weights = expit(p) / p.shape[1]

    def gradient(self) -> Array:
        return _combine(-self._weights * self._wrong * self._scale, self._rows) + self._penalty * self._w

    def product(self, v: Array) -> Array:
        return _combine(self._second() * _dot(self._rows, v), self._rows) + self._penalty * v

    def hessian(self) -> Array:
        weighted = self._rows * self._second()[..., None]
        return weighted.swapaxes(1, 2) @ self._rows + self._penalty * np.eye(self._rows.shape[2])

    def mixed(self, v: Array) -> Array:
        """Derivatives by x[batch], of shape (I, B)."""
        return self._first() * _dot(self._rows, v)

    def jacobian(self, batch: NDArray[np.integer], n: int) -> Array:
        """Mixed derivatives by all of x, of shape (I, n, d)."""
        found = np.zeros((len(batch), n, self._rows.shape[2]))
        np.add.at(found, (np.arange(len(batch))[:, None], batch), self._first()[..., None] * self._rows)
        return found

    def _second(self) -> Array:
        return self._weights * self._wrong * (1 - self._wrong) * self._scale**2

    def _first(self) -> Array:
        return -self._weights * expit(-self._p) * self._wrong * self._scale


def _dot(rows: Array, w: Array) -> Array:
    """Products of every block's rows (I, B, d) with its own vector (I, d)."""
    return (rows @ w[..., None])[..., 0]


def _combine(weights: Array, rows: Array) -> Array:
    """Sums over the batch of rows (I, B, d) with weights (I, B)."""
    return (weights[:, None, :] @ rows)[:, 0]
