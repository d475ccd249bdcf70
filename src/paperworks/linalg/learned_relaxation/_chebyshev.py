"""Contextual bandit by Chebyshev regression of each arm's cost on the context."""

from typing import Any

import numpy as np
from numba import njit

from paperworks._random import RandomState
from paperworks._validation import check_integer
from paperworks.linalg.learned_relaxation._bandits import Array, Bandit, Contexts

__all__ = ["ChebyshevContextualBandit"]

# Eigenvalues of a normal matrix below this part of the largest are rounding.
RANK = 1e-13


class ChebyshevContextualBandit(Bandit):
    r"""Contextual bandit that regresses the cost of each arm on Chebyshev polynomials of the context (ChebCB).

    The cost of arm i in context c, mapped to [-1, 1], is predicted as :math:`\hat y_i = \theta_i \cdot (T_0(c), \dots,
    T_m(c))`, by least squares over the rounds in which i was drawn, with coefficients in boxes that hold those of every
    function as Lipschitz as the costs appear to be. The arm with the least prediction is drawn most,

    .. math:: p_j = \frac{1}{d + \eta_t (\hat y_j - \min \hat y)}, \qquad j \neq \arg\min \hat y,

    the others by the inverse of their gap, and :math:`\eta_t` grows as predictions become reliable. A round takes time
    independent of the rounds before.

    Parameters
    ----------
    arms : array_like of shape (n_arms,), optional
        What to choose from; 20 relaxations from 1 to 1.95 if not given.
    context_range : tuple of two floats, optional
        Least and greatest context; needed before the first `suggest`. A context outside is clipped, with one warning.
    degree : int, default 5
        Degree m of the polynomials.
    random_state : None, int, numpy Generator or RandomState, or torch.Generator, default None
        Source of the draws.
    least_cost : float, default 1.0
        The least that anything can cost: 1 for iterations, 0 for seconds.

    Attributes
    ----------
    arms : ndarray of shape (n_arms,)
        What it chooses from.
    probabilities_ : ndarray of shape (n_arms,) or None
        What the last `suggest` drew from.

    Raises
    ------
    ValueError
        If an argument is out of range.
    TypeError
        If an argument is no number.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.
    Dylan J. Foster, Alexander Rakhlin. "Beyond UCB: Optimal and Efficient Contextual Bandits with Regression Oracles".
    arXiv:2002.04926.

    Examples
    --------
    >>> import numpy as np
    >>> from paperworks.linalg import ChebyshevContextualBandit
    >>> bandit = ChebyshevContextualBandit([0.0, 0.5, 1.0], context_range=(0, 1), degree=2, random_state=0)
    >>> rng = np.random.default_rng(0)
    >>> for context in rng.random(500):
    ...     bandit.update(1 + 100 * (bandit.suggest(context) - context) ** 2)
    >>> [float(bandit.arms[bandit.predict(context).argmin()]) for context in (0.1, 0.5, 0.9)]
    [0.0, 0.5, 1.0]
    """

    def __init__(
        self,
        arms: Any = None,
        context_range: tuple[float, float] | None = None,
        degree: int = 5,
        random_state: RandomState = None,
        least_cost: float = 1.0,
    ) -> None:
        super().__init__(arms, least_cost, random_state)
        self.contexts = Contexts(context_range)
        self.degree = check_integer("degree", degree, at_least=0)
        d, m = len(self.arms), degree + 1
        # Losses are kept as they are: theta predicts them, and whatever needs a scale divides by it.
        self._theta = np.zeros((d, m))
        self._gram, self._moment, self._squares = np.zeros((d, m, m)), np.zeros((d, m)), np.zeros(d)
        self._free = np.zeros((d, m))
        self._rounds, self._least, self._most, self._scale, self._eta = 0, np.inf, -np.inf, 1.0, 0.0
        self._decay = 1 / np.maximum(np.arange(m), 1)
        # Sums of (prediction)^2, prediction * cost and cost^2, predictions over the scale of their time.
        self._sums = np.zeros(3)

    def predict(self, context: float) -> Array:
        """Predict the cost of each arm.

        Parameters
        ----------
        context : float
            What is known of a system.

        Returns
        -------
        ndarray of shape (n_arms,)
            Predicted costs.
        """
        return self.least_cost + self._theta @ self._features(context)

    def _features(self, context: Any) -> Array:
        return _chebyshev(2 * self.contexts.place(context) - 1, self.degree + 1)

    def _probabilities(self, context: Any) -> tuple[Array, Array]:
        features = self._features(context)
        return _inverse_gaps(self._theta @ features / self._scale, self._eta), features

    def _learn(self, arm: int, loss: float, probability: float, known: Array) -> None:
        prediction, cost = self._theta[arm] @ known / self._scale, loss + 1
        self._sums += prediction**2, prediction * cost, cost**2
        self._gram[arm] += np.outer(known, known)
        self._moment[arm] += loss * known
        self._squares[arm] += loss**2
        self._free[arm] = _least_squares(self._gram[arm], self._moment[arm])
        self._rounds += 1
        widened = cost > self._most or cost < self._least
        self._most, self._least = max(cost, self._most), min(cost, self._least)
        self._scale, bound = self._scale_and_bound()
        left = 0.0
        for i in range(len(self.arms)) if widened else (arm,):
            left = self._fit(i, bound) or left
        self._eta = self._rate(left)

    def _scale_and_bound(self) -> tuple[float, Array]:
        """Return the scale K N of the losses, and how large a coefficient may be, in units of the losses."""
        spread, m = self._most - self._least, self.degree + 1
        N = 2 + 4 * spread / self._most * (1 + np.log(m))
        # 1 / N and 2 (b - a) Lip / (scale j), times the scale; (b - a) Lip is the spread.
        bound = 2 * spread * self._decay
        bound[0] = self._most
        return self._most * N, bound

    def _fit(self, arm: int, bound: Array) -> float:
        """Fit one arm; return the squared residual if its coefficients had to be kept in their boxes, else 0."""
        free = self._free[arm]
        if (np.abs(free) <= bound).all():
            self._theta[arm] = free
            return 0.0
        # From the fit of the round before, of which mostly the same coefficients are at their bounds.
        start = self._theta[arm].clip(-bound, bound)
        theta = self._theta[arm] = _boxed_least_squares(self._gram[arm], self._moment[arm], bound, start)
        return float(max(self._squares[arm] + theta @ (self._gram[arm] @ theta - 2 * self._moment[arm]), 0.0))

    def _rate(self, left: float) -> float:
        """Return eta, from how far the predictions have been off."""
        t, d, m = self._rounds, len(self.arms), self.degree + 1
        alpha = (np.pi + 2 / np.pi * np.log(2 * m + 1)) / (2 * self._scale * (m + 1)) * (self._most - self._least)
        off = self._sums[0] - 2 * self._sums[1] / self._scale + self._sums[2] / self._scale**2
        error = off - left / self._scale**2 + 2 * alpha**2 * t
        # The residual of one arm's fit is all but always below the errors of all predictions.
        return float(2 * t * np.sqrt(d * t / max(error, np.finfo(float).tiny * t**3 * d)))


@njit(cache=True)
def _chebyshev(c, m):
    values = np.ones(m)
    for j in range(1, m):
        values[j] = c if j == 1 else 2 * c * values[j - 1] - values[j - 2]
    return values


@njit(cache=True)
def _inverse_gaps(predictions, eta):
    best = predictions.argmin()
    p = 1 / (len(predictions) + eta * (predictions - predictions[best]))
    p[best] = 0.0
    p[best] = 1 - p.sum()
    return p


@njit(cache=True)
def _least_squares(gram, moment):
    """Return the solution of least norm."""
    if not len(moment):
        return moment
    values, vectors = np.linalg.eigh(gram)
    theta = np.zeros(len(moment))
    for k in range(len(values)):
        if values[k] > RANK * values[-1]:
            along = 0.0
            for j in range(len(moment)):
                along += vectors[j, k] * moment[j]
            theta += along / values[k] * vectors[:, k]
    return theta


@njit(cache=True)
def _boxed_least_squares(gram, moment, bound, theta):
    """Minimise the same with every coefficient within its bound, by active sets from a theta that is."""
    m = len(moment)
    held = np.abs(theta) >= bound
    for _ in range(10 * m):
        free = np.flatnonzero(~held)
        slope = gram @ theta - moment
        # Towards the minimum over the free ones, up to the first bound.
        move = _least_squares(gram[free][:, free], -slope[free])
        length, hit = 1.0, -1
        for k in range(len(free)):
            j, step = int(free[k]), move[k]
            if abs(theta[j] + length * step) > bound[j]:
                length, hit = max((np.sign(step) * bound[j] - theta[j]) / step, 0.0), j
        theta[free] += length * move
        if hit >= 0:
            theta[hit] = bound[hit] if theta[hit] > 0 else -bound[hit]
            held[hit] = True
            continue
        # There, let go the one that gains most by leaving its bound.
        gain = np.where(held, np.sign(theta) * (gram @ theta - moment), 0.0)
        best = gain.argmax()
        if gain[best] <= 1e-12 * np.abs(moment).max():
            break
        held[best] = False
    return theta
