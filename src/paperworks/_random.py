"""Sources of randomness from a ``random_state``; the global state is never touched."""

from typing import Any

import numpy as np
import torch

RandomState = None | int | np.integer | np.random.Generator | np.random.RandomState | torch.Generator


def numpy_generator(random_state: RandomState) -> np.random.Generator:
    """Return a NumPy generator; a generator that is passed in advances with use."""
    if isinstance(random_state, np.random.Generator):
        return random_state
    if isinstance(random_state, np.random.RandomState):
        return np.random.default_rng(random_state.randint(0, 2**31 - 1, size=4))
    if isinstance(random_state, torch.Generator):
        return np.random.default_rng(_draw(random_state))
    return np.random.default_rng(_seed(random_state))


def torch_generator(random_state: RandomState) -> torch.Generator:
    """Return a torch generator on the CPU, so that every device sees the same numbers."""
    if isinstance(random_state, torch.Generator):
        return random_state
    generator = torch.Generator()
    if isinstance(random_state, np.random.Generator):
        generator.manual_seed(int(random_state.integers(2**63 - 1)))
    elif isinstance(random_state, np.random.RandomState):
        generator.manual_seed(int(random_state.randint(0, 2**31 - 1)))
    elif (seed := _seed(random_state)) is None:
        generator.seed()
    else:
        generator.manual_seed(seed)
    return generator


def integer_seed(random_state: RandomState) -> int:
    """Return one seed drawn from ``random_state``, for libraries that take nothing else."""
    return int(numpy_generator(random_state).integers(2**31 - 1))


def _draw(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device))


def _seed(random_state: Any) -> int | None:
    if random_state is None:
        return None
    if isinstance(random_state, bool) or not isinstance(random_state, (int, np.integer)):
        raise TypeError(
            "random_state must be None, an integer, a numpy Generator or RandomState, or a torch.Generator, "
            f"got {random_state!r}"
        )
    if random_state < 0:
        raise ValueError(f"random_state must not be negative, got {random_state}")
    return int(random_state)
