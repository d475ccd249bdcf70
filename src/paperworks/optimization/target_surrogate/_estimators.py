"""The method on linear models, as scikit-learn estimators."""

from typing import Any, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets

from paperworks._random import RandomState
from paperworks._validation import check_choice
from paperworks.optimization.target_surrogate._linear import (
    Array,
    Batch,
    LinearTargetSurrogate,
    Loss,
    half_squared_error,
    log_cosh,
    logistic,
    softmax_cross_entropy,
)
from paperworks.optimization.target_surrogate._schedules import Schedule


class TargetSurrogateClassifier(ClassifierMixin, LinearTargetSurrogate):
    r"""Linear classifier that makes many updates of its weights for every gradient of the loss.

    .. math:: \min_W \; \frac1n \sum_{i=1}^n \ell_i(x_i^\top W), \qquad
        W_{t+1} \approx \operatorname*{argmin}_W \sum_{i \in B_t} \langle g_i, x_i^\top (W - W_t) \rangle
        + \frac{1}{2 \eta_t} \|x_i^\top (W - W_t)\|^2,

    with the gradients :math:`g_i` of the losses at the outputs :math:`x_i^\top W_t` of a batch. Inner steps are taken
    on the Gram matrix of the batch, where that is cheaper. There is no penalty: use few passes, or scaled features.

    Parameters
    ----------
    loss : {"log", "squared"}, default "log"
        Logistic loss of two classes and softmax cross-entropy of more; or half the squared distance to -1 and 1, or to
        the classes' unit vectors.
    inner_steps : int, default 20
        Updates of the weights a gradient.
    batch_size : int, optional
        Rows a step, in a new random order each pass; all when None.
    step_size : float, optional
        eta; 1 / L when None: 4 for logistic, 2 for softmax, 1 for squared. Beyond it a step of all rows is not sure to
        lower the loss.
    schedule : {"constant", "inverse_sqrt", "exponential"}, default "constant"
        How eta falls: not at all, as :math:`1 / \sqrt t`, or as :math:`T^{-t/T}` over all steps T of the fit.
    line_search : bool, default False
        Whether eta is searched for by backtracking on the loss in the space of outputs.
    inner : {"armijo", "exact"}, default "armijo"
        Gradient descent with backtracking, or the surrogate's minimiser by eigenvectors of the Gram matrix.
    max_iter : int, default 100
        Passes over the rows at most.
    tol : float, default 1e-4
        Largest entry of the gradient of the mean loss to stop at, looked at after each pass.
    fit_intercept : bool, default True
        Whether to append a constant to the features.
    warm_start : bool, default False
        Whether `fit` goes on from the weights of the last one.
    random_state : None, int, Generator or RandomState
        Source of the order of batches.
    progress : bool, default True
        Whether to show a bar.
    verbose : bool, default False
        Whether to print a line a pass.

    Attributes
    ----------
    coef_ : ndarray of shape (n_outputs, n_features)
        Weights: one output for two classes, else one a class.
    intercept_ : ndarray of shape (n_outputs,)
        Constants.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    n_iter_ : int
        Passes made.
    n_target_gradients_, n_inner_steps_ : int
        Steps, each on one gradient of the loss, and updates of the weights.
    converged_ : bool
        Whether the gradient came down to ``tol``.
    history_ : dict of ndarray
        ``target_gradients``, ``seconds``, ``loss`` and ``gradient`` (its largest entry) on all rows after each pass.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates
    for Stochastic Optimization". ICML 2023. arXiv:2302.02607.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from paperworks.optimization import TargetSurrogateClassifier
    >>> X, y = load_iris(return_X_y=True)
    >>> classifier = TargetSurrogateClassifier(tol=2e-2, max_iter=200).fit(X, y)
    >>> classifier.score(X, y) > 0.95, classifier.n_target_gradients_ < classifier.n_inner_steps_ / 15
    (True, True)
    """

    _estimator_checks: ClassVar = {"parameters": {"max_iter": 20, "progress": False}}

    def __init__(
        self,
        loss: Literal["log", "squared"] = "log",
        inner_steps: int = 20,
        batch_size: int | None = None,
        step_size: float | None = None,
        schedule: Schedule = "constant",
        line_search: bool = False,
        inner: Literal["armijo", "exact"] = "armijo",
        max_iter: int = 100,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        warm_start: bool = False,
        random_state: RandomState = None,
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.loss = loss
        self.inner_steps = inner_steps
        self.batch_size = batch_size
        self.step_size = step_size
        self.schedule = schedule
        self.line_search = line_search
        self.inner = inner
        self.max_iter = max_iter
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start
        self.random_state = random_state
        self.progress = progress
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Go over the rows until the gradient is small, or ``max_iter`` times.

        An interrupt (Ctrl-C) leaves the last complete step, from which `partial_fit` or ``warm_start`` goes on.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.
        y : array_like of shape (n_samples,)
            Their classes.

        Returns
        -------
        Self
            The estimator.
        """
        self._check_parameters()
        X, y = self._rows(X, y, reset=True)
        check_classification_targets(y)
        classes = np.unique(y)
        keep = bool(self.warm_start) and hasattr(self, "_weights")
        if keep and not np.array_equal(classes, self.classes_):
            raise ValueError(f"y must hold the classes of the last fit with warm_start, {self.classes_}, got {classes}")
        self._set_classes(classes)
        target, loss = self._target(y, X.dtype)
        self._start(X, target.shape[1], keep)
        self._fit(X, target, loss)
        return self

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Self:
        """Take one step, on one gradient of the loss of a batch.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples of the batch.
        y : array_like of shape (n_samples,)
            Their classes.
        classes : array_like of shape (n_classes,), optional
            All classes, needed at the first call.

        Returns
        -------
        Self
            The estimator.
        """
        self._check_parameters()
        first = not hasattr(self, "_weights")
        X, y = self._rows(X, y, reset=first)
        check_classification_targets(y)
        if first:
            if classes is None:
                raise ValueError("classes must be passed on the first call to partial_fit")
            self._set_classes(np.unique(np.asarray(classes)))
        target, loss = self._target(y, X.dtype)
        self._start(X, target.shape[1], not first)
        self._step(Batch(X, self.inner_steps), target, loss, 1)
        return self

    def decision_function(self, X: Any) -> Array:
        """Outputs of the model.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes one output, positive for the second; else one a class.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if len(self.classes_) == 2 else outputs

    def predict(self, X: Any) -> NDArray[Any]:
        """Classes of samples.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            The classes of the largest output.
        """
        scores = self.decision_function(X)
        return np.asarray(self.classes_[scores.argmax(1) if scores.ndim == 2 else (scores > 0).astype(int)])

    @available_if(lambda self: self.loss == "log")
    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, of the loss "log" alone.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows that sum to one.
        """
        scores = self.decision_function(X)
        return softmax(scores, axis=1) if scores.ndim == 2 else np.column_stack([expit(-scores), expit(scores)])

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("loss", self.loss, ("log", "squared"))

    def _set_classes(self, classes: NDArray[Any]) -> None:
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got {len(classes)} class: {classes}")
        self.classes_ = classes

    def _target(self, y: NDArray[Any], dtype: Any) -> tuple[Array, Loss]:
        """Labels -1 and 1 in a column, or unit vectors, and the loss that takes them."""
        unknown = np.setdiff1d(y, self.classes_)
        if len(unknown):
            raise ValueError(f"y holds classes that are not among {self.classes_}: {unknown}")
        if len(self.classes_) == 2:
            target = np.where(y == self.classes_[1], 1, -1).astype(dtype)[:, None]
            return target, logistic if self.loss == "log" else half_squared_error
        target = (y[:, None] == self.classes_).astype(dtype)
        return target, softmax_cross_entropy if self.loss == "log" else half_squared_error


class TargetSurrogateRegressor(RegressorMixin, LinearTargetSurrogate):
    r"""Linear regression that makes many updates of its weights for every gradient of the loss.

    It is `TargetSurrogateClassifier` with the loss of a residual r, either :math:`r^2 / 2` or :math:`\log \cosh r`,
    which bends to the absolute value and so heeds outliers less. With the squared loss and ``inner="exact"`` one step
    solves the least-squares problem.

    Parameters
    ----------
    loss : {"squared", "log_cosh"}, default "squared"
        The loss of a residual.
    inner_steps : int, default 20
        Updates of the weights a gradient.
    batch_size : int, optional
        Rows a step, in a new random order each pass; all when None.
    step_size : float, optional
        eta; 1, which is 1 / L, when None. Beyond it a step of all rows is not sure to lower the loss.
    schedule : {"constant", "inverse_sqrt", "exponential"}, default "constant"
        How eta falls: not at all, as :math:`1 / \sqrt t`, or as :math:`T^{-t/T}` over all steps T of the fit.
    line_search : bool, default False
        Whether eta is searched for by backtracking on the loss in the space of outputs.
    inner : {"armijo", "exact"}, default "armijo"
        Gradient descent with backtracking, or the surrogate's minimiser by eigenvectors of the Gram matrix.
    max_iter : int, default 100
        Passes over the rows at most.
    tol : float, default 1e-4
        Largest entry of the gradient of the mean loss to stop at, looked at after each pass.
    fit_intercept : bool, default True
        Whether to append a constant to the features.
    warm_start : bool, default False
        Whether `fit` goes on from the weights of the last one.
    random_state : None, int, Generator or RandomState
        Source of the order of batches.
    progress : bool, default True
        Whether to show a bar.
    verbose : bool, default False
        Whether to print a line a pass.

    Attributes
    ----------
    coef_ : ndarray of shape (n_targets, n_features)
        Weights.
    intercept_ : ndarray of shape (n_targets,)
        Constants.
    n_iter_, n_target_gradients_, n_inner_steps_, converged_, history_, n_features_in_
        As of `TargetSurrogateClassifier`.

    References
    ----------
    Jonathan Wilder Lavington, Sharan Vaswani, Reza Babanezhad, Mark Schmidt, Nicolas Le Roux. "Target-based Surrogates
    for Stochastic Optimization". ICML 2023. arXiv:2302.02607.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.optimization import TargetSurrogateRegressor
    >>> X = np.arange(12.0).reshape(6, 2) % 5
    >>> regressor = TargetSurrogateRegressor(inner="exact").fit(X, X @ [2.0, -1.0] + 3.0)
    >>> regressor.coef_.round(6), regressor.n_target_gradients_
    (array([[ 2., -1.]]), 1)
    """

    _estimator_checks: ClassVar = {"parameters": {"max_iter": 20, "progress": False}}

    def __init__(
        self,
        loss: Literal["squared", "log_cosh"] = "squared",
        inner_steps: int = 20,
        batch_size: int | None = None,
        step_size: float | None = None,
        schedule: Schedule = "constant",
        line_search: bool = False,
        inner: Literal["armijo", "exact"] = "armijo",
        max_iter: int = 100,
        tol: float = 1e-4,
        fit_intercept: bool = True,
        warm_start: bool = False,
        random_state: RandomState = None,
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.loss = loss
        self.inner_steps = inner_steps
        self.batch_size = batch_size
        self.step_size = step_size
        self.schedule = schedule
        self.line_search = line_search
        self.inner = inner
        self.max_iter = max_iter
        self.tol = tol
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start
        self.random_state = random_state
        self.progress = progress
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Go over the rows until the gradient is small, or ``max_iter`` times.

        An interrupt (Ctrl-C) leaves the last complete step, from which `partial_fit` or ``warm_start`` goes on.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.
        y : array_like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.

        Returns
        -------
        Self
            The estimator.
        """
        self._check_parameters()
        X, y = self._rows(X, y, reset=True, y_numeric=True, multi_output=True)
        target = self._columns(X, y)
        keep = bool(self.warm_start) and hasattr(self, "_weights")
        self._check_outputs(target, keep)
        self._start(X, target.shape[1], keep)
        self._fit(X, target, self._row_loss)
        return self

    def partial_fit(self, X: Any, y: Any) -> Self:
        """Take one step, on one gradient of the loss of a batch.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples of the batch.
        y : array_like of shape (n_samples,) or (n_samples, n_targets)
            Their targets.

        Returns
        -------
        Self
            The estimator.
        """
        self._check_parameters()
        first = not hasattr(self, "_weights")
        X, y = self._rows(X, y, reset=first, y_numeric=True, multi_output=True)
        target = self._columns(X, y)
        self._check_outputs(target, not first)
        self._start(X, target.shape[1], not first)
        self._step(Batch(X, self.inner_steps), target, self._row_loss, 1)
        return self

    def predict(self, X: Any) -> Array:
        """Targets of samples.

        Parameters
        ----------
        X : array_like or SciPy CSR of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_targets)
            Outputs of the model, in the shape of what it was fitted to.
        """
        outputs = self._outputs(X)
        return outputs[:, 0] if self._one_target else outputs

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    @property
    def _row_loss(self) -> Loss:
        return half_squared_error if self.loss == "squared" else log_cosh

    def _check_parameters(self) -> None:
        super()._check_parameters()
        check_choice("loss", self.loss, ("squared", "log_cosh"))

    def _check_outputs(self, target: Array, keep: bool) -> None:
        if keep and target.shape[1] != self._weights.shape[1]:
            raise ValueError(f"y must hold {self._weights.shape[1]} targets a sample as before, got {target.shape[1]}")

    def _columns(self, X: Any, y: NDArray[Any]) -> Array:
        self._one_target = y.ndim == 1
        return np.asarray(y.reshape(len(y), -1), dtype=X.dtype)
