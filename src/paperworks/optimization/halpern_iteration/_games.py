"""A game that the claims, the command and the races play."""

import numpy as np
from numpy.typing import NDArray


def policeman_and_burglar(n: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """What robbing a house (row) yields with the policeman at another (column): its wealth, less the nearer he is."""
    place = np.arange(n)
    wealth = np.abs(rng.normal(size=n))
    payoffs = wealth[:, None] * (1 - np.exp(-0.8 * np.abs(place[:, None] - place)))
    return np.asarray(payoffs / payoffs.max())
