"""Races of text-to-pattern Hamming distances against a compiled loop, NumPy, SciPy's transforms and regex."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import njit
from scipy.signal import oaconvolve

from benchmarks.racing import Contestant, NotHere, Race
from paperworks.combinatorial import (
    approximate_hamming,
    bounded_hamming,
    find_approximate,
    sumset_counts,
    text_to_pattern_hamming,
)


def races() -> Iterator[Race]:
    yield _exact("DNA: 10,000,000 symbols, 4 letters, m = 1,000", 10**7, 1000, 4, "under 2 s on 2 cores")
    yield _exact("262,144 symbols, 128 letters, m = 4,096", 2**18, 2**12, 128, "10 times quicker than an FFT a letter")
    yield _exact("262,144 symbols, 1,024 letters, m = 32,768", 2**18, 2**15, 1024, "10 times quicker than a loop")
    yield _bounded()
    yield _few_mismatches()
    yield _approximate()
    yield _sums()


@njit(cache=True, nogil=True)
def _loop(text: np.ndarray, pattern: np.ndarray, k: int) -> np.ndarray:
    """Direct comparison, 64 symbols between looks at the bound."""
    m = len(pattern)
    distances = np.empty(len(text) - m + 1, dtype=np.int64)
    for i in range(len(distances)):
        differs, j = 0, 0
        while j < m and differs <= k:
            for q in range(j, min(j + 64, m)):
                differs += text[i + q] != pattern[q]
            j += 64
        distances[i] = min(differs, k + 1)
    return distances


def _numpy(text: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    distances = np.zeros(len(text) - len(pattern) + 1, dtype=np.int32)
    for j, symbol in enumerate(pattern):
        distances += text[j : j + len(distances)] != symbol
    return distances


def _transforms(text: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    matches = np.zeros(len(text) - len(pattern) + 1)
    for letter in np.unique(pattern):
        there, wanted = (text == letter).astype(np.float64), (pattern == letter)[::-1].astype(np.float64)
        matches += oaconvolve(there, wanted, mode="valid")
    return len(pattern) - np.rint(matches).astype(np.int64)


def _random(n: int, m: int, letters: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    dtype = np.uint8 if letters <= 256 else np.uint16
    text, pattern = (rng.integers(letters, size=size).astype(dtype) for size in (n, m))
    text[n // 2 : n // 2 + m] = pattern
    return text, pattern


def _exact(title: str, n: int, m: int, letters: int, aim: str) -> Race:
    text, pattern = _random(n, m, letters)
    places = np.random.default_rng(1).integers(n - m + 1, size=100)
    truth = np.array([np.count_nonzero(text[i : i + m] != pattern) for i in places])

    def few(method: Any, work: float) -> Any:
        def run() -> np.ndarray:
            if work > 2e11:
                raise NotHere("takes minutes")
            return method()

        return run

    return Race(
        title,
        Contestant("paperworks", lambda: text_to_pattern_hamming(text, pattern)),
        [
            Contestant("paperworks, all processors", lambda: text_to_pattern_hamming(text, pattern, n_jobs=-1)),
            Contestant("compiled loop over all pairs", lambda: _loop(text, pattern, m)),
            Contestant("NumPy, one pattern symbol at a time", few(lambda: _numpy(text, pattern), n * m * 10.0)),
            Contestant("SciPy oaconvolve, one a letter", few(lambda: _transforms(text, pattern), n * letters * 1e3)),
        ],
        "wrong windows of 100",
        lambda distances: float(np.count_nonzero(distances[places] != truth)),
        aim=aim,
        repeats=3,
    )


def _bounded() -> Race:
    text, pattern = _random(2**20, 2**12, 4)
    truth = np.minimum(text_to_pattern_hamming(text, pattern), 33)
    return Race(
        "distances up to k = 32, 1,048,576 symbols, 4 letters, m = 4,096",
        Contestant("paperworks", lambda: bounded_hamming(text, pattern, 32)),
        [
            Contestant("paperworks, all distances", lambda: np.minimum(text_to_pattern_hamming(text, pattern), 33)),
            Contestant("compiled loop with early exit", lambda: _loop(text, pattern, 32)),
        ],
        "wrong windows",
        lambda distances: float(np.count_nonzero(distances != truth)),
        aim="3 times quicker than all distances",
    )


def _few_mismatches() -> Race:
    text, pattern = _random(10**5, 24, 4)
    letters = np.array(list("ACGT"))
    text, pattern = "".join(letters[text]), "".join(letters[pattern])

    def fuzzy() -> np.ndarray:
        import regex

        found = regex.finditer(f"(?:{pattern}){{s<=3}}", text, overlapped=True)
        return np.array([match.start() for match in found])

    truth = find_approximate(text, pattern, 3)[0]
    return Race(
        "windows within 3 mismatches of 24 letters in 100,000 of DNA",
        Contestant("paperworks", lambda: find_approximate(text, pattern, 3)[0]),
        [Contestant("regex, substitutions up to 3", fuzzy)],
        "windows that differ",
        lambda positions: float(len(np.setxor1d(positions, truth))),
        aim="10 times quicker",
    )


def _approximate() -> Race:
    text, pattern = _random(2**18, 2**12, 1024)
    truth = text_to_pattern_hamming(text, pattern)

    def estimates(algorithm: Any) -> Contestant:
        return Contestant(
            f"paperworks, {algorithm.replace('_', ' ')}",
            lambda: approximate_hamming(text, pattern, 0.5, algorithm=algorithm, random_state=0),
        )

    return Race(
        "distances within a factor of 1 +- 0.5, 262,144 symbols, 1,024 letters, m = 4,096",
        estimates("hashing"),
        [estimates(name) for name in ("karloff", "equality_product", "sampling", "exact")],
        "largest relative error",
        lambda found: float((np.abs(found - truth) / np.maximum(truth, 1)).max()),
        aim="quicker than Karloff",
        repeats=1,
    )


def _sums() -> Race:
    universe = 2**22
    rng = np.random.default_rng(0)
    x, y = (rng.choice(universe, 2**11, replace=False) for _ in range(2))
    truth = sumset_counts(x, y, universe, algorithm="enumeration")
    return Race(
        "counts of the sums of two sets of 2,048 integers below 4,194,304",
        Contestant("paperworks", lambda: sumset_counts(x, y, universe)),
        [
            Contestant("one transform", lambda: sumset_counts(x, y, universe, algorithm="fft")),
            Contestant(
                "numpy.bincount of all sums",
                lambda: np.bincount(np.add.outer(x, y).ravel(), minlength=2 * universe - 1),
            ),
        ],
        "wrong counts",
        lambda counts: float(np.count_nonzero(counts != truth)),
        aim="quicker than both",
    )
