"""Bandits that choose among a grid of parameters: without a context, and with one that falls into bins."""

import warnings
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from paperworks._random import RandomState, numpy_generator
from paperworks._validation import check_finite, check_integer, check_number

__all__ = ["BinnedTsallisINF", "TsallisINF"]

Array = NDArray[np.float64]


class Bandit(ABC):
    """Suggest an arm, hear what it cost, and so on in turn."""

    def __init__(self, arms: Any, least_cost: float, random_state: RandomState) -> None:
        self.arms = default_arms() if arms is None else check_arms(arms)
        self.least_cost = check_number("least_cost", least_cost)
        self.random_state = random_state
        self.probabilities_: Array | None = None
        self._generator = numpy_generator(random_state)
        self._pending: tuple[int, Any] | None = None

    @abstractmethod
    def _probabilities(self, context: Any) -> tuple[Array, Any]:
        """Return the probabilities of the arms, and whatever `_learn` will need to know of the context."""

    @abstractmethod
    def _learn(self, arm: int, loss: float, probability: float, known: Any) -> None:
        """Take in that ``arm``, drawn with ``probability``, lost ``loss`` above the least cost."""

    def suggest(self, context: float | None = None) -> float:
        """Draw an arm.

        Parameters
        ----------
        context : float, optional
            What is known of the next system; a bandit without contexts does not look at it.

        Returns
        -------
        float
            The arm. The probabilities that it was drawn from are in ``probabilities_``.

        Raises
        ------
        RuntimeError
            If the cost of the arm before has not been told.
        ValueError
            If a context is needed and missing, or not finite.
        """
        if self._pending is not None:
            raise RuntimeError("suggest was called twice without a cost between; call update, or discard")
        probabilities, known = self._probabilities(context)
        cumulative = probabilities.cumsum()
        # Rounding may leave the sum just below one, which no draw must fall behind.
        arm = min(int(cumulative.searchsorted(self._generator.random() * cumulative[-1], "right")), len(self.arms) - 1)
        self.probabilities_ = probabilities
        self._pending = arm, known
        return float(self.arms[arm])

    def update(self, cost: float) -> None:
        """Learn what the suggested arm cost.

        Parameters
        ----------
        cost : float
            Iterations, or whatever is to be small; at least ``least_cost``.

        Raises
        ------
        RuntimeError
            If there is no suggestion that it could be the cost of.
        ValueError
            If it is not finite, or below ``least_cost``.
        """
        if self._pending is None or self.probabilities_ is None:
            raise RuntimeError("update was called without a suggestion before it; call suggest")
        loss = check_number("cost", cost, at_least=self.least_cost) - self.least_cost
        arm, known = self._pending
        self._learn(arm, loss, float(self.probabilities_[arm]), known)
        self._pending = None

    def discard(self) -> None:
        """Forget the last suggestion, whose cost will not be known."""
        self._pending = None


class TsallisINF(Bandit):
    r"""Bandit by mirror descent with Tsallis entropy, for costs whose bound is not known.

    Arm i is drawn with probability

    .. math:: p_i = \frac{4}{(\eta_t (k_i / s - x))^2}, \qquad \eta_t = \frac{2}{\sqrt t},

    with x below every k_i / s so that the probabilities sum to one. k_i sums the losses of arm i, each over the
    probability that it was drawn with, and s is the mean loss so far, so that no bound on the cost is asked for.

    Parameters
    ----------
    arms : array_like of shape (n_arms,), optional
        What to choose from; 20 relaxations from 1 to 1.95 if not given.
    random_state : None, int, numpy Generator or RandomState, or torch.Generator, default None
        Source of the draws.
    least_cost : float, default 1.0
        The least that anything can cost: 1 for iterations, 0 for seconds. Losses are costs above it.

    Attributes
    ----------
    arms : ndarray of shape (n_arms,)
        What it chooses from.
    probabilities_ : ndarray of shape (n_arms,) or None
        What the last `suggest` drew from.

    Raises
    ------
    ValueError
        If there are no arms, or an argument is not finite.
    TypeError
        If an argument is no number.

    References
    ----------
    Mikhail Khodak, Edmond Chow, Maria-Florina Balcan, Ameet Talwalkar. "Learning to Relax: Setting Solver Parameters
    Across a Sequence of Linear System Instances". arXiv:2310.02246.
    Julian Zimmert, Yevgeny Seldin. "Tsallis-INF: An Optimal Algorithm for Stochastic and Adversarial Bandits".
    arXiv:1807.07623.

    Examples
    --------
    >>> from paperworks.linalg import TsallisINF
    >>> bandit = TsallisINF([1.0, 1.5, 1.9], random_state=0)
    >>> costs = {1.0: 300, 1.5: 100, 1.9: 60}
    >>> for _ in range(1000):
    ...     bandit.update(costs[bandit.suggest()])
    >>> bandit.probabilities_.round(2).tolist()
    [0.0, 0.01, 0.99]
    """

    def __init__(self, arms: Any = None, random_state: RandomState = None, least_cost: float = 1.0) -> None:
        super().__init__(arms, least_cost, random_state)
        self._losses = np.zeros(len(self.arms))
        self._rounds, self._total = 0, 0.0

    def _probabilities(self, context: Any = None) -> tuple[Array, Any]:
        scale = self._total / self._rounds if self._total > 0 else 1.0
        return tsallis_probabilities(self._losses / scale, 2 / np.sqrt(self._rounds + 1)), None

    def _learn(self, arm: int, loss: float, probability: float, known: Any = None) -> None:
        self._losses[arm] += loss / probability
        self._rounds += 1
        self._total += loss


class BinnedTsallisINF(Bandit):
    """Contextual bandit with bins: a `TsallisINF` of its own for each of equal parts of the context's range.

    Parameters
    ----------
    arms : array_like of shape (n_arms,), optional
        What to choose from; 20 relaxations from 1 to 1.95 if not given.
    context_range : tuple of two floats, optional
        Least and greatest context; needed before the first `suggest`. A context outside is clipped, with one warning.
    n_bins : int, default 6
        Number of parts.
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

    Examples
    --------
    >>> from paperworks.linalg import BinnedTsallisINF
    >>> bandit = BinnedTsallisINF([1.0, 2.0], context_range=(0, 1), n_bins=2, random_state=0)
    >>> for t in range(400):
    ...     context = t % 2
    ...     bandit.update(1 if bandit.suggest(context) == 1.0 + context else 5)
    >>> [bandit.suggest(1.0), bandit.probabilities_.round(1).tolist()]
    [2.0, [0.0, 1.0]]
    """

    def __init__(
        self,
        arms: Any = None,
        context_range: tuple[float, float] | None = None,
        n_bins: int = 6,
        random_state: RandomState = None,
        least_cost: float = 1.0,
    ) -> None:
        super().__init__(arms, least_cost, random_state)
        self.contexts = Contexts(context_range)
        self.n_bins = check_integer("n_bins", n_bins)
        self._bins = [TsallisINF(self.arms, self._generator) for _ in range(n_bins)]

    def _probabilities(self, context: Any) -> tuple[Array, int]:
        # Of equal parts, the one that a context lies in has the nearest centre.
        part = min(int(self.contexts.place(context) * self.n_bins), self.n_bins - 1)
        return self._bins[part]._probabilities()[0], part

    def _learn(self, arm: int, loss: float, probability: float, known: int) -> None:
        self._bins[known]._learn(arm, loss, probability)


class Contexts:
    """The range of the contexts, and where in it one lies."""

    def __init__(self, limits: tuple[float, float] | None) -> None:
        self.limits = None if limits is None else check_range("context_range", limits)
        self._has_warned = False

    def place(self, context: Any) -> float:
        """Return where the context lies in its range, from 0 to 1; outside it is clipped, with one warning."""
        if self.limits is None:
            raise ValueError("context_range must be given: the least and the greatest context")
        if context is None:
            raise ValueError("context must be given to a contextual bandit, got None")
        low, high = self.limits
        place = (check_number("context", context) - low) / (high - low)
        if not 0.0 <= place <= 1.0 and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                f"context {context!r} lies outside context_range ({low:g}, {high:g}) and is clipped to it; "
                "further ones are clipped without a word",
                UserWarning,
                stacklevel=5,
            )
        return min(max(place, 0.0), 1.0)


def default_arms() -> Array:
    """Return the 20 relaxations of the paper, from 1 to 1.95."""
    return np.linspace(1.0, 1.95, 20)


def check_arms(arms: Any) -> Array:
    """Return arms as a vector of finite float64."""
    array = np.asarray(arms)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"arms must be numbers, got {array.dtype}")
    if array.ndim != 1 or not array.size:
        raise ValueError(f"arms must be a vector of at least one number, got shape {array.shape}")
    array = array.astype(np.float64)
    check_finite("arms", array)
    return array


def check_range(name: str, limits: Any) -> tuple[float, float]:
    """Return two finite numbers, the second greater than the first."""
    if not isinstance(limits, (tuple, list, np.ndarray)) or len(limits) != 2:
        raise ValueError(f"{name} must be two numbers, got {limits!r}")
    low, high = (check_number(name, each) for each in limits)
    if not low < high:
        raise ValueError(f"{name} must be two numbers of which the second is greater, got {limits!r}")
    return low, high


@njit(cache=True)
def tsallis_probabilities(losses, eta):
    """Return p with p_i = 4 / (eta (losses_i - x))^2 and x < min losses such that they sum to one."""
    # Where one probability alone is one: the sum, convex and growing in x, is not below one, so Newton descends to x.
    x = losses.min() - 2 / eta
    p = 4 / (eta * (losses - x)) ** 2
    for _ in range(100):
        excess = p.sum() - 1
        if excess < 1e-13:
            break
        x -= excess / (eta * (p**1.5).sum())
        p = 4 / (eta * (losses - x)) ** 2
    return p / p.sum()
