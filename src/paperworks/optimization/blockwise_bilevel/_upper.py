"""The upper variable under STORM: dense, or one number a sample that is caught up with when it is read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class DenseUpper:
    """x, the x before it, and the estimate z of the gradient by which it moves."""

    def __init__(self, x: Any, beta: float) -> None:
        self.x = self.last = x
        self.z: Any = None
        self._beta = beta

    def read(self, batch: Any) -> tuple[Any, Any]:
        """x and the x of the step before."""
        return self.x, self.last

    def step(self, new: Any, old: Any, batch: Any, lr: float) -> float:
        """Move x by the gradient samples at both points; return the norm of the estimate."""
        self.z = new if self.z is None else (1 - self._beta) * (self.z - old) + new
        moved = self.x - lr * self.z
        # Callables that compute in another precision leave x in its own.
        self.last, self.x = (
            self.x,
            moved.to(self.x) if isinstance(moved, Tensor) else moved.astype(self.x.dtype, copy=False),
        )
        return float((self.z * self.z).sum()) ** 0.5

    def current(self) -> Any:
        """x as it is now."""
        return self.x


class SamplewiseUpper:
    r"""The same for gradients that vanish but at the samples of a batch, in time proportional to the batch.

    A coordinate that was not sampled for k steps has moved by :math:`-\eta z \sum_{r=1}^k (1 - \beta)^r`, and its
    estimate has shrunk to :math:`(1 - \beta)^k z`.
    """

    def __init__(self, x: NDArray[np.floating], beta: float) -> None:
        self.x, self.last = x.copy(), x.copy()
        self.z = np.zeros_like(x)
        self._current = np.zeros(len(x), dtype=np.int64)
        self._time = 0
        self._keep = 1 - beta
        self._lr = 0.0

    def read(self, batch: NDArray[np.integer]) -> tuple[Any, Any]:
        """x and the x of the step before, both right where the batch is."""
        self._catch_up(np.unique(batch))
        return self.x, self.last

    def step(self, new: Any, old: Any, batch: NDArray[np.integer], lr: float) -> float:
        """Move x by the derivatives at the samples of the batch; return the norm of what they add up to."""
        if lr != self._lr and self._time:
            self._catch_up(np.arange(len(self.x)))
        self._lr = lr
        samples, place = np.unique(batch, return_inverse=True)
        difference = new if self._time == 0 else new - self._keep * old
        added = np.bincount(place.ravel(), weights=difference.ravel(), minlength=len(samples))
        self.z[samples] = self._keep * self.z[samples] + added
        self.last[samples] = self.x[samples]
        self.x[samples] -= lr * self.z[samples]
        self._time += 1
        self._current[samples] = self._time
        return float(np.linalg.norm(self.z[samples]))

    def current(self) -> Any:
        """x as it is now."""
        self._catch_up(np.arange(len(self.x)))
        return self.x.copy()

    def _catch_up(self, samples: NDArray[np.integer]) -> None:
        missed = self._time - self._current[samples]
        late = missed > 0
        samples, missed = samples[late], missed[late]
        if not len(samples):
            return
        q = self._keep
        z = self.z[samples]
        power = q**missed
        # Of the steps that were missed, the sum up to the last but one is where x was a step ago.
        total = q * (1 - power) / (1 - q) if q < 1 else missed.astype(z.dtype)
        self.last[samples] = self.x[samples] - self._lr * z * (total - power)
        self.x[samples] -= self._lr * z * total
        self.z[samples] = power * z
        self._current[samples] = self._time
