"""Races of sampled l_p regression and of row scores against full solvers and one QR factorisation."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from scipy.linalg import qr

from benchmarks.racing import Contestant, Race
from paperworks.linalg import leverage_scores, lp_regression, lp_regression_sketched, lp_sensitivities


def races() -> Iterator[Race]:
    yield _least_absolute(20_000, 20, with_quantiles=True)
    yield _least_absolute(200_000, 20, with_quantiles=False)
    yield _scores(200_000, 20)


def _regression(n: int, d: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    A = rng.normal(size=(n, d))
    A[:30] *= 30
    return A, A @ rng.normal(size=d) + rng.standard_cauchy(n)


def _least_absolute(n: int, d: int, with_quantiles: bool) -> Race:
    A, b = _regression(n, d)
    # How far above the least sum a solution is, by the best of all.
    least = float(np.abs(A @ lp_regression(A, b, 1.0) - b).sum())

    def by_rule(rule: Any, size: int) -> Contestant:
        return Contestant(
            f"paperworks, {size:,} rows by {rule}",
            lambda: lp_regression_sketched(A, b, 1.0, size, rule=rule, random_state=0),
        )

    def quantiles() -> np.ndarray:
        from sklearn.linear_model import QuantileRegressor

        return QuantileRegressor(quantile=0.5, alpha=0.0, fit_intercept=False, solver="highs").fit(A, b).coef_

    peers = [
        by_rule("root_leverage", 5000),
        by_rule("uniform", 5000),
        Contestant("all rows, HiGHS on the dual (paperworks lp_regression)", lambda: lp_regression(A, b, 1.0)),
    ]
    if with_quantiles:
        peers.append(Contestant("all rows, scikit-learn QuantileRegressor (HiGHS)", quantiles))
    return Race(
        f"least absolute deviations, {n:,} x {d}",
        by_rule("sensitivity", 5000),
        peers,
        "excess over the least sum",
        lambda x: float(np.abs(A @ x - b).sum()) / least - 1,
        aim="20 times quicker than all rows, at most 0.02 above",
        repeats=1,
    )


def _scores(n: int, d: int) -> Race:
    A, _ = _regression(n, d)
    return Race(
        f"scores of {n:,} x {d} for p = 1, from above",
        Contestant("paperworks, approximate sensitivities", lambda: lp_sensitivities(A, 1.0, "approximate")),
        [
            Contestant("paperworks, leverage scores", lambda: leverage_scores(A)),
            Contestant("SciPy, leverage scores by one QR", lambda: (qr(A, mode="economic")[0] ** 2).sum(axis=1)),
        ],
        "sum of the scores",
        lambda scores: float(scores.sum()),
        aim="within 5 times one QR",
        repeats=3,
    )
