"""Data hyper-cleaning as a scikit-learn classifier."""

from copy import deepcopy
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.special import softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted, validate_data
from torch import Tensor, nn

from paperworks._random import RandomState, integer_seed, numpy_generator
from paperworks._training import start_training
from paperworks._validation import check_integer, check_number
from paperworks.optimization.unbounded_smooth_bilevel._classifiers import (
    ModuleClassifier,
    SoftmaxRegression,
    TokenClassifier,
)
from paperworks.optimization.unbounded_smooth_bilevel._cleaning import begin, default_upper_lr, go_on
from paperworks.optimization.unbounded_smooth_bilevel._hypergradient import Products
from paperworks.optimization.unbounded_smooth_bilevel._iteration import Schedule, Settings, check_products

Array = NDArray[np.floating[Any]]
# Rows that a network predicts at once.
CHUNK = 1024
# Steps of y and of z for networks, whose curvature is not known.
LOWER_LR, LINEAR_SYSTEM_LR = 0.05, 0.01


class LabelCleaner(ClassifierMixin, BaseEstimator):
    r"""Classifier that learns which labels to trust, from a few samples whose labels are known to be right.

    .. math:: \min_x \; \frac{1}{|V|} \sum_{i \in V} \mathrm{CE}_i(y^*(x)), \qquad
        y^*(x) = \operatorname*{argmin}_y \frac1n \sum_{i=1}^n \sigma(x_i)\, \mathrm{CE}_i(y) + c \|y\|^2,

    with clean samples V. A step of BO-REP costs what its batches cost, however many samples there are.

    Parameters
    ----------
    estimator : "softmax", "lstm" or Module, default "softmax"
        Softmax regression on features; an LSTM on token ids, of shape (n_samples, length) with 0 for no token; or a
        network with ``model(rows)`` of shape (rows, n_classes), of which a copy is trained.
    clean_X : array_like or SciPy CSR of shape (n_clean, n_features), optional
        Samples with right labels. When None, all samples take their place, so that a label is judged by what most
        others say.
    clean_y : array_like of shape (n_clean,), optional
        Their labels.
    n_steps : int, default 1500
        Steps.
    batch_size : int, default 128
        Samples of each batch.
    upper_lr : float, optional
        :math:`\eta_0`, the distance by which all logits x together move; 0.01 times the root of their number when None.
    lower_lr, linear_system_lr : float, optional
        Steps of y and of z; when None, 1 over a bound of the curvature for "softmax", 0.05 and 0.01 for networks.
    momentum : float, default 0.9
        Share of the old momentum in the new.
    period, lower_steps : int, default 2 and 3
        ``lower_steps`` gradient steps on y in every ``period``-th step.
    refinement_epochs, refinement_steps : int, default 5 and 20
        Epochs of descent on y before the first step, and the steps of the first of them, which double.
    penalty : float, default 1e-4
        c.
    schedule : {"inverse_sqrt", "constant"}, default "inverse_sqrt"
        Whether steps fall.
    decay_start : float, optional
        Where they begin to; a tenth of ``n_steps`` when None.
    hvp : {"autograd", "finite_difference"}, default "autograd"
        How a network's products with second derivatives are taken; differences are faster for recurrent networks.
    fit_intercept : bool, default True
        Whether softmax regression has constants.
    warm_start : bool, default False
        Whether `fit` goes on from the last one, on the same samples.
    device : str or torch.device, default "auto"
        Where a network is trained; ``"auto"`` takes a GPU when there is one.
    random_state : None, int, Generator or RandomState
        Source of the batches and of the LSTM's start.
    progress : bool, default True
        Whether to show a bar.
    verbose : bool, default False
        Whether to print a line a step.

    Attributes
    ----------
    sample_weight_ : ndarray of shape (n_samples,)
        Weights of the samples, in (0, 1).
    suspect_score_ : ndarray of shape (n_samples,)
        1 - ``sample_weight_``: the larger, the likelier is the label wrong.
    classes_ : ndarray of shape (n_classes,)
        The classes.
    coef_ : ndarray of shape (n_classes, n_features)
        Weights of softmax regression.
    intercept_ : ndarray of shape (n_classes,)
        Its constants.
    model_ : Module
        The trained network.
    n_iter_ : int
        Steps made.
    n_lower_gradients_, n_hessian_vector_, n_mixed_ : int
        What was evaluated.
    history_ : dict of ndarray
        ``upper_loss`` on batches, ``momentum_norm``, ``passes`` over the samples and ``seconds``, an entry a step.
    n_features_in_ : int
        Number of features.

    References
    ----------
    Jie Hao, Xiaochuan Gong, Mingrui Liu. "Bilevel Optimization under Unbounded Smoothness: A New Algorithm and
    Convergence Analysis". ICLR 2024. arXiv:2401.09587.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from paperworks.optimization import LabelCleaner
    >>> X, y = load_iris(return_X_y=True)
    >>> noisy = y.copy()
    >>> noisy[::4] = (y[::4] + 1) % 3
    >>> cleaner = LabelCleaner(clean_X=X[1::10], clean_y=y[1::10], n_steps=500, random_state=0).fit(X, noisy)
    >>> wrong = noisy != y
    >>> bool(cleaner.suspect_score_[wrong].mean() > cleaner.suspect_score_[~wrong].mean() + 0.3)
    True
    """

    classes_: NDArray[Any]
    sample_weight_: Array
    _estimator_checks: ClassVar = {"parameters": {"n_steps": 60, "refinement_epochs": 2, "progress": False}}

    def __init__(
        self,
        estimator: Literal["softmax", "lstm"] | nn.Module = "softmax",
        clean_X: Any = None,
        clean_y: Any = None,
        n_steps: int = 1500,
        batch_size: int = 128,
        upper_lr: float | None = None,
        lower_lr: float | None = None,
        linear_system_lr: float | None = None,
        momentum: float = 0.9,
        period: int = 2,
        lower_steps: int = 3,
        refinement_epochs: int = 5,
        refinement_steps: int = 20,
        penalty: float = 1e-4,
        schedule: Schedule = "inverse_sqrt",
        decay_start: float | None = None,
        hvp: Products = "autograd",
        fit_intercept: bool = True,
        warm_start: bool = False,
        device: str | torch.device = "auto",
        random_state: RandomState = None,
        progress: bool = True,
        verbose: bool = False,
    ) -> None:
        self.estimator = estimator
        self.clean_X = clean_X
        self.clean_y = clean_y
        self.n_steps = n_steps
        self.batch_size = batch_size
        self.upper_lr = upper_lr
        self.lower_lr = lower_lr
        self.linear_system_lr = linear_system_lr
        self.momentum = momentum
        self.period = period
        self.lower_steps = lower_steps
        self.refinement_epochs = refinement_epochs
        self.refinement_steps = refinement_steps
        self.penalty = penalty
        self.schedule = schedule
        self.decay_start = decay_start
        self.hvp = hvp
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start
        self.device = device
        self.random_state = random_state
        self.progress = progress
        self.verbose = verbose

    def fit(self, X: Any, y: Any) -> Self:
        """Find the weights of the samples, and the model that they give.

        An interrupt (Ctrl-C) leaves the last complete step, from which ``warm_start`` goes on.

        Parameters
        ----------
        X : array_like, SciPy CSR or Tensor of shape (n_samples, n_features)
            Samples; token ids for "lstm".
        y : array_like of shape (n_samples,)
            Their labels, some of which are wrong.

        Returns
        -------
        Self
            The estimator.
        """
        steps, size = check_integer("n_steps", self.n_steps), check_integer("batch_size", self.batch_size)
        check_number("penalty", self.penalty, at_least=0.0)
        check_products(self.hvp)
        keep = bool(self.warm_start) and hasattr(self, "_run")
        X, targets = self._samples(X, y, keep)
        clean_X, clean_targets = self._clean_samples(X, targets)
        generator = numpy_generator(self.random_state)
        if self.estimator == "softmax":
            problem: Any = SoftmaxRegression(
                X, targets, clean_X, clean_targets, len(self.classes_), float(self.penalty)
            )
            rate = 1 / problem.smoothness()
            settings = self._settings(X.shape[0], steps, rate, rate)
        else:
            problem = self._network(X, targets, clean_X, clean_targets, generator, keep)
            settings = self._settings(len(X), steps, LOWER_LR, LINEAR_SYSTEM_LR)
        if not keep:
            self._run = begin(problem, settings.momentum)
        try:
            go_on(problem, self._run, settings, steps, size, generator, self.progress, bool(self.verbose))
        finally:
            self._publish(problem)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """The likeliest classes.

        Parameters
        ----------
        X : array_like, SciPy CSR or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,)
            Their classes.
        """
        outputs = self._outputs(X)
        return self.classes_[outputs.argmax(1)]

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes.

        Parameters
        ----------
        X : array_like, SciPy CSR or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples, n_classes)
            Rows that sum to one.
        """
        return np.asarray(softmax(self._outputs(X), axis=1))

    def decision_function(self, X: Any) -> Array:
        """Outputs of the model.

        Parameters
        ----------
        X : array_like, SciPy CSR or Tensor of shape (n_samples, n_features)
            Samples.

        Returns
        -------
        ndarray of shape (n_samples,) or (n_samples, n_classes)
            Of two classes the difference of their outputs, positive for the second; else one output a class.
        """
        outputs = self._outputs(X)
        return np.asarray(outputs[:, 1] - outputs[:, 0] if len(self.classes_) == 2 else outputs)

    def _samples(self, X: Any, y: Any, keep: bool) -> tuple[Any, NDArray[np.int64]]:
        """Checked samples, with a constant for softmax regression, and numbers of their classes."""
        if self.estimator == "softmax":
            X, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
        else:
            X, y = validate_data(self, _on_cpu(X), y, dtype=None, allow_nd=True)
            X = self._network_input("X", X)
        check_classification_targets(y)
        classes, targets = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise ValueError(f"y must hold at least two classes, got one class, {classes[0]!r}")
        if keep and (not np.array_equal(classes, self.classes_) or len(y) != len(self.sample_weight_)):
            raise ValueError("X and y must be the samples of the last fit with warm_start=True")
        self.classes_ = classes
        return self._with_constant(X), targets.astype(np.int64)

    def _clean_samples(self, X: Any, targets: NDArray[np.int64]) -> tuple[Any, NDArray[np.int64]]:
        if (self.clean_X is None) != (self.clean_y is None):
            raise ValueError("clean_X and clean_y must be given together, got one of them")
        if self.clean_X is None:
            return X, targets
        if self.estimator == "softmax":
            clean_X = check_array(self.clean_X, accept_sparse="csr", dtype=np.float64, input_name="clean_X")
            if sparse.issparse(clean_X) != sparse.issparse(X):
                clean_X = sparse.csr_array(clean_X) if sparse.issparse(X) else clean_X.toarray()
            clean_X = self._with_constant(clean_X)
        else:
            clean_X = check_array(_on_cpu(self.clean_X), dtype=None, allow_nd=True, input_name="clean_X")
            clean_X = self._network_input("clean_X", clean_X)
        if clean_X.shape[1:] != X.shape[1:]:
            constant = int(self.estimator == "softmax" and bool(self.fit_intercept))
            raise ValueError(
                f"clean_X must have {X.shape[1] - constant} features, as X has, got {clean_X.shape[1] - constant}"
            )
        clean_y = np.asarray(self.clean_y)
        if clean_y.shape != clean_X.shape[:1]:
            raise ValueError(f"clean_y must have one entry a clean sample, {clean_X.shape[0]}, got {clean_y.shape}")
        strange = np.setdiff1d(clean_y, self.classes_)
        if len(strange):
            raise ValueError(f"clean_y holds {strange[0]!r}, which is no class of y")
        return clean_X, np.searchsorted(self.classes_, clean_y)

    def _with_constant(self, X: Any) -> Any:
        if self.estimator != "softmax":
            return X
        if sparse.issparse(X):
            X = sparse.csr_array(X)
        if not self.fit_intercept:
            return X
        constant = np.ones((X.shape[0], 1), dtype=X.dtype)
        return sparse.hstack([X, constant], format="csr") if sparse.issparse(X) else np.hstack([X, constant])

    def _network_input(self, name: str, X: NDArray[Any]) -> NDArray[Any]:
        if isinstance(self.estimator, nn.Module):
            return X
        if self.estimator != "lstm":
            raise ValueError(f"estimator must be 'softmax', 'lstm' or a torch module, got {self.estimator!r}")
        if X.dtype.kind not in "iu":
            raise TypeError(f"{name} must hold token ids, integers, for estimator='lstm', got {X.dtype}")
        if X.ndim != 2 or (X < 0).any():
            raise ValueError(f"{name} must hold token ids from 0, of shape (n_samples, length), got shape {X.shape}")
        return X.astype(np.int64)

    def _network(
        self, X: Any, targets: Any, clean_X: Any, clean_targets: Any, generator: np.random.Generator, keep: bool
    ) -> ModuleClassifier:
        if not keep:
            if isinstance(self.estimator, nn.Module):
                self.model_ = deepcopy(self.estimator)
            else:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(integer_seed(generator))
                    self.model_ = TokenClassifier(int(max(X.max(), clean_X.max())) + 1, len(self.classes_))
        _, place, _ = start_training(self.device, self.model_)
        arrays = (X, targets, clean_X, clean_targets)
        tensors = [torch.from_numpy(np.ascontiguousarray(each)).to(place) for each in arrays]
        return ModuleClassifier(self.model_, *tensors, penalty=float(self.penalty), hvp=self.hvp)

    def _settings(self, n: int, steps: int, lower_lr: float, linear_system_lr: float) -> Settings:
        return Settings(
            upper_lr=default_upper_lr(self.upper_lr, n),
            lower_lr=lower_lr if self.lower_lr is None else self.lower_lr,
            linear_system_lr=linear_system_lr if self.linear_system_lr is None else self.linear_system_lr,
            momentum=self.momentum,
            period=self.period,
            lower_steps=self.lower_steps,
            refinement_epochs=self.refinement_epochs,
            refinement_steps=self.refinement_steps,
            schedule=self.schedule,
            decay_start=max(1.0, steps / 10) if self.decay_start is None else self.decay_start,
        )

    def _publish(self, problem: Any) -> None:
        """Set the learned attributes from the run, whether it went to its end or not."""
        run = self._run
        if run.n_steps == 0:
            return
        result = run.result()
        self.sample_weight_, self.suspect_score_ = result.sample_weight, result.suspect_score
        self.history_, self.n_iter_ = result.history, result.nit
        for name in ("lower_gradients", "hessian_vector", "mixed"):
            setattr(self, f"n_{name}_", result[f"n_{name}"])
        if isinstance(problem, ModuleClassifier):
            problem.write(run.y)
            return
        W = run.y
        constants = W[-1] if self.fit_intercept else np.zeros(W.shape[1])
        self.coef_, self.intercept_ = W[: self.n_features_in_].T, constants

    def _outputs(self, X: Any) -> Array:
        check_is_fitted(self, "sample_weight_")
        if self.estimator == "softmax":
            X = validate_data(self, X, accept_sparse="csr", dtype=np.float64, reset=False)
            return np.asarray(X @ self.coef_.T + self.intercept_)
        X = validate_data(self, _on_cpu(X), dtype=None, allow_nd=True, reset=False)
        X = self._network_input("X", X)
        if isinstance(self.model_, TokenClassifier) and X.max() >= self.model_.embedding.num_embeddings:
            known = self.model_.embedding.num_embeddings - 1
            raise ValueError(f"X holds token {X.max()}, but fit saw none above {known}")
        place = next(self.model_.parameters()).device
        with torch.no_grad():
            chunks = [
                self.model_(part.to(place)).cpu() for part in torch.from_numpy(np.ascontiguousarray(X)).split(CHUNK)
            ]
        return np.asarray(torch.cat(chunks).double().numpy())

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = self.estimator == "softmax"
        return tags


def _on_cpu(X: Any) -> Any:
    return X.detach().cpu().numpy() if isinstance(X, Tensor) else X
