"""The iterations as a scikit-learn classifier."""

from collections.abc import Callable
from typing import Any, ClassVar
from warnings import warn

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import expit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_array, check_is_fitted, validate_data
from torch import Tensor

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_choice, check_integer, check_number
from paperworks.optimization.normalized_logistic_regression._passes import METHODS, Method, Rows, go_over
from paperworks.optimization.normalized_logistic_regression._separation import (
    Selection,
    chooser,
    iterates,
    remember,
    stepped,
)


class NormalizedLogisticRegression(ClassifierMixin, BaseEstimator):
    r"""Linear classifier of two classes that stops at the first direction with no training error.

    .. math:: y_i (a_i^\top w + b) > 0 \quad\text{for all } i, \qquad
        \theta \leftarrow \theta + \gamma \frac{\sum_i s(-m_i)\, y_i (a_i, 1)}{\sum_i s(-m_i)}, \quad \theta = (w, b),

    with margins m and the sigmoid s: gradient descent on the logistic loss whose step is divided by the mean of the
    sigmoids, so that its iterations are bounded by the margin and not by the number of samples. For more than two
    classes, use `sklearn.multiclass.OneVsRestClassifier`.

    Parameters
    ----------
    method : {"normalized_logistic", "logistic", "batch_perceptron", "normalized_batch_perceptron", "perceptron"}
        Which iteration; see `separate`.
    step_size : float, default 100
        gamma, of the two logistic methods.
    max_iter : int, default 10000
        Updates at most.
    fit_intercept : bool, default True
        Whether to append a constant to the samples.
    tol : float, default 0
        Margin over the norm of theta that all samples must exceed.
    keep_best : bool, default True
        Whether to keep the iterate of fewest errors where the updates run out, as the pocket perceptron does.
    record : bool, default False
        Whether to record ``history_``.
    selection : {"first", "random"}, default "first"
        Which mistake the perceptron takes.
    random_state : None, int, Generator or RandomState
        Source of random selections.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n_features)
        Weights w.
    intercept_ : ndarray of shape (1,)
        Constant b, zero without one.
    classes_ : ndarray of shape (2,)
        The classes; the second is where the decision function is positive.
    n_iter_ : int
        Updates made.
    converged_ : bool
        Whether all samples are on their side, beyond ``tol``.
    history_ : dict of ndarray
        ``loss``, ``gradient_norm``, ``accuracy`` and ``margin`` of each iterate, where they are recorded.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Alexander Tyurin. "From Logistic Regression to the Perceptron Algorithm: Exploring Gradient Descent with Large Step
    Sizes". AAAI 2025. arXiv:2412.08424.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from paperworks.optimization import NormalizedLogisticRegression
    >>> X, y = load_digits(n_class=2, return_X_y=True)
    >>> classifier = NormalizedLogisticRegression().fit(X / 16, y)
    >>> classifier.converged_, classifier.score(X / 16, y)
    (True, 1.0)
    """

    _estimator_checks: ClassVar = {"parameters": {"max_iter": 100}}

    def __init__(
        self,
        method: Method = "normalized_logistic",
        step_size: float = 100.0,
        max_iter: int = 10_000,
        fit_intercept: bool = True,
        tol: float = 0.0,
        keep_best: bool = True,
        record: bool = False,
        selection: Selection = "first",
        random_state: RandomState = None,
    ) -> None:
        self.method = method
        self.step_size = step_size
        self.max_iter = max_iter
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.keep_best = keep_best
        self.record = record
        self.selection = selection
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> "NormalizedLogisticRegression":
        """Iterate until no training error is left.

        Parameters
        ----------
        X : array_like, SciPy CSR or dask array of shape (n_samples, n_features)
            Samples. The blocks of a dask array are computed one by one in every pass.
        y : array_like of shape (n_samples,)
            Labels of two classes.
        sample_weight : array_like of shape (n_samples,), optional
            Weights of the samples' sigmoids, in numerator and denominator; not in the paper, and without effect on the
            perceptron.

        Returns
        -------
        NormalizedLogisticRegression
            Itself.
        """
        self._check_parameters()
        rows = self._rows(X, y, sample_weight)
        start = torch.zeros(rows.n_parameters, dtype=rows.labels.dtype)
        paths: dict[str, list[float]] = {"loss": [], "gradient_norm": [], "accuracy": [], "margin": []}
        fewest, best = np.inf, start
        choose = self._chooser()
        steps = iterates(rows, start, self.method, self.step_size, record=self.record, choose=choose)
        for n_iter, (theta, seen) in enumerate(steps):
            length = float(theta.norm())
            margin = float(seen.least_margin) / length if length else 0.0
            if self.record:
                remember(paths, rows, seen)
                paths["margin"].append(margin)
            if seen.errors < fewest:
                fewest, best = seen.errors, theta
            self.n_iter_, self.converged_ = n_iter, seen.errors == 0 and margin > self.tol
            self._store(theta)
            if self.converged_ or n_iter == self.max_iter:
                break
        if not self.converged_:
            if self.keep_best:
                self._store(best)
            left = f"{fewest if self.keep_best else seen.errors:g} errors left"
            warn(f"not separated after max_iter={self.max_iter} updates: {left}", ConvergenceWarning, stacklevel=2)
        if self.record:
            self.history_ = {name: np.array(path) for name, path in paths.items()}
        return self

    def partial_fit(
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> "NormalizedLogisticRegression":
        """Make one update on a batch.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples of the batch.
        y : array_like of shape (n_samples,)
            Their labels.
        classes : array_like of shape (2,), optional
            Both classes, needed at the first call.
        sample_weight : array_like of shape (n_samples,), optional
            As for `fit`.

        Returns
        -------
        NormalizedLogisticRegression
            Itself; ``converged_`` says whether the batch had no error before the update, which is then left out.
        """
        self._check_parameters()
        first = not hasattr(self, "coef_")
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            known = _two_classes(np.unique(np.asarray(classes)))
        else:
            known = self.classes_
        rows = self._rows(X, y, sample_weight, known, reset=first)
        theta = torch.zeros(rows.n_parameters, dtype=rows.labels.dtype) if first else self._theta().to(rows.labels)
        seen = go_over(rows, theta, self.method, False, self._chooser())
        self.converged_ = seen.errors == 0
        self.n_iter_ = getattr(self, "n_iter_", 0) if not first else 0
        if not self.converged_:
            factor = 0.5 if self.method == "batch_perceptron" and not bool(theta.any()) else self.step_size
            theta = stepped(theta, seen, rows, self.method, factor)
            self.n_iter_ += 1
        self._store(theta)
        return self

    def decision_function(self, X: Any) -> NDArray[np.floating]:
        """Scores of samples, positive for the second class.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            :math:`a^T w + b`.
        """
        check_is_fitted(self)
        X = validate_data(self, X, accept_sparse="csr", dtype=[np.float64, np.float32], reset=False)
        return np.asarray(X @ self.coef_[0].astype(X.dtype) + self.intercept_[0].astype(X.dtype))

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes of samples.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The second class where the decision function is positive.
        """
        positive = self.decision_function(X) > 0
        return np.asarray(self.classes_[positive.astype(int)])

    def predict_proba(self, X: Any) -> NDArray[np.floating]:
        """Sigmoids of the scores, which are not calibrated: theta is as long as its last step made it.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, 2)
            Sigmoids of the negative and of the positive score.
        """
        scores = self.decision_function(X)
        return np.column_stack([expit(-scores), expit(scores)])

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def _check_parameters(self) -> None:
        check_choice("method", self.method, METHODS)
        check_choice("selection", self.selection, ("first", "random"))
        check_number("step_size", self.step_size, above=0.0)
        check_integer("max_iter", self.max_iter)
        check_number("tol", self.tol, at_least=0.0)

    def _chooser(self) -> Callable[[Tensor], int] | None:
        return chooser(numpy_generator(self.random_state)) if self.selection == "random" else None

    def _rows(self, X: Any, y: Any, sample_weight: Any, classes: Any = None, reset: bool = True) -> Rows:
        """Check a batch; the classes are its own where none are given."""
        if type(X).__module__.split(".")[0] == "dask":
            if X.dtype.kind != "f" or X.ndim != 2:
                raise ValueError(f"X must be a dask array of floats with 2 dimensions, got {X.dtype} of {X.ndim}")
            X, y = X.rechunk({1: -1}), np.asarray(y)
            self.n_features_in_ = X.shape[1]
            dtype: Any = X.dtype
        else:
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=[np.float64, np.float32], reset=reset)
            dtype = X.dtype
        y = check_array(y, ensure_2d=False, dtype=None)
        check_classification_targets(y)
        if classes is None:
            classes = _two_classes(np.unique(y))
        self.classes_ = classes
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y holds classes that are not among {self.classes_}: {unknown}")
        labels = torch.as_tensor(np.where(y == self.classes_[1], 1.0, -1.0).astype(dtype))
        weights = None
        if sample_weight is not None:
            checked = _check_sample_weight(sample_weight, X, dtype=dtype, ensure_non_negative=True)
            weights = torch.as_tensor(checked)
        if not self.fit_intercept and not hasattr(X, "dask"):
            empty = np.flatnonzero(np.asarray(abs(X).sum(axis=1)).ravel() == 0)
            if len(empty):
                raise ValueError(f"row {empty[0]} of X is zero: without an intercept nothing separates it")
        if isinstance(X, np.ndarray):
            X = torch.from_numpy(np.ascontiguousarray(X))
        elif sparse.issparse(X):
            X = sparse.csr_array(X)
        return Rows(X, labels, weights, bool(self.fit_intercept))

    def _theta(self) -> Tensor:
        flat = self.coef_[0]
        return torch.from_numpy(np.append(flat, self.intercept_) if self.fit_intercept else flat.copy())

    def _store(self, theta: Tensor) -> None:
        values = theta.numpy()
        self.coef_ = (values[:-1] if self.fit_intercept else values)[None].copy()
        self.intercept_ = values[-1:].copy() if self.fit_intercept else np.zeros(1, dtype=values.dtype)


def _two_classes(classes: NDArray[Any]) -> NDArray[Any]:
    if len(classes) != 2:
        raise ValueError(
            f"Only binary classification is supported: y must hold exactly two classes, got {len(classes)} "
            f"class{'es' if len(classes) != 1 else ''}: {classes[:5]}; for several, use OneVsRestClassifier"
        )
    return classes
