"""Distances up to k, and the windows within k mismatches."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from paperworks._validation import check_integer
from paperworks.combinatorial.hamming_distances import _kernels
from paperworks.combinatorial.hamming_distances._engines import (
    PLANE_WORD,
    WORD,
    Distances,
    cheapest,
    exact_distances,
    packed_sketch,
)
from paperworks.combinatorial.hamming_distances._pattern import Pattern, compile_pattern
from paperworks.combinatorial.hamming_distances._symbols import Codes
from paperworks.combinatorial.hamming_distances.exact import for_each_piece, read_text

# Shifts of a piece whose verification is tried, to learn how many words it takes.
TRIED = 128
# Least nanoseconds of a window that is verified, packing included.
EXIT = 6.0
# Nanoseconds of comparing 64 symbols as they are.
BLOCK_OF_SYMBOLS = 20.0


def bounded_hamming(
    text: Any, pattern: Any, k: int, *, wildcard: Any = None, n_jobs: int | None = None
) -> NDArray[np.int64]:
    r"""Hamming distance of a pattern to every window of a text, up to a bound.

    .. math:: \min(D_i, k + 1), \qquad D_i = |\{j : P_j \ne T_{i+j}\}|.

    Letters are hashed to four values, which never adds a mismatch, and windows are compared 64 symbols at a time, in an
    order that is spread over the pattern, until k is exceeded; the few that are left are read as they are. Where a
    sample of windows says that most would be read far, text and pattern are close to periodic: the runs along the
    period are correlated instead, or the exact engine takes over, whichever is estimated to be the cheapest.

    Parameters
    ----------
    text : str, bytes, 1-D array or Tensor of integers, or list of hashables
        The text, n symbols.
    pattern : str, bytes, 1-D array or Tensor of integers, or list of hashables
        The pattern, m <= n symbols of the same kind.
    k : int
        The bound, at least 0. With k >= m the result is exact.
    wildcard : symbol, optional
        A symbol that matches all, in the pattern as in the text.
    n_jobs : int, optional
        Threads; None means 1, and -1 one a processor.

    Returns
    -------
    ndarray of int64
        The n - m + 1 bounded distances.

    Raises
    ------
    ValueError
        If k is negative, the text or the pattern is empty, or the pattern longer than the text.
    TypeError
        If k is no integer, symbols are floats or not hashable, or of different kinds.

    References
    ----------
    Timothy M. Chan, Ce Jin, Virginia Vassilevska Williams and Yinzhan Xu, "Faster Algorithms for Text-to-Pattern
    Hamming Distances", arXiv 2310.13174.

    Examples
    --------
    >>> from paperworks.combinatorial import bounded_hamming
    >>> bounded_hamming("abracadabra", "abba", 2)
    array([1, 3, 3, 3, 3, 3, 3, 1])
    """
    limit = check_integer("k", k, at_least=0)
    alphabet, compiled = compile_pattern(pattern, wildcard)
    symbols = read_text(text, alphabet, compiled)
    bounded = np.empty(len(symbols) - compiled.length + 1, dtype=np.int64)

    def work(start: int, codes: Codes) -> None:
        found = _bounded_piece(compiled, codes, limit)
        _kernels.copy_up_to(found, limit + 1, bounded[start : start + len(found)])

    for _ in for_each_piece(symbols, alphabet, compiled, work, n_jobs):
        pass
    return bounded


def find_approximate(
    text: Any, pattern: Any, k: int, *, wildcard: Any = None, n_jobs: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every window of a text within k mismatches of a pattern.

    Solves the problem of `bounded_hamming` and keeps the windows with a distance of at most k; memory grows with their
    number and with the pattern, not with the text.

    Parameters
    ----------
    text : str, bytes, 1-D array or Tensor of integers, or list of hashables
        The text, n symbols. A ``numpy.memmap`` is read piece by piece.
    pattern : str, bytes, 1-D array or Tensor of integers, or list of hashables
        The pattern, m <= n symbols of the same kind.
    k : int
        Mismatches that are allowed, at least 0.
    wildcard : symbol, optional
        A symbol that matches all, in the pattern as in the text.
    n_jobs : int, optional
        Threads; None means 1, and -1 one a processor.

    Returns
    -------
    positions : ndarray of int64
        Starts of the windows, ascending.
    distances : ndarray of int64
        Their distances.

    Raises
    ------
    ValueError
        If k is negative, the text or the pattern is empty, or the pattern longer than the text.
    TypeError
        If k is no integer, symbols are floats or not hashable, or of different kinds.

    References
    ----------
    Timothy M. Chan, Ce Jin, Virginia Vassilevska Williams and Yinzhan Xu, "Faster Algorithms for Text-to-Pattern
    Hamming Distances", arXiv 2310.13174.

    Examples
    --------
    >>> from paperworks.combinatorial import find_approximate
    >>> find_approximate("abracadabra", "abba", 1)
    (array([0, 7]), array([1, 1]))
    """
    limit = check_integer("k", k, at_least=0)
    alphabet, compiled = compile_pattern(pattern, wildcard)
    symbols = read_text(text, alphabet, compiled)

    def work(start: int, codes: Codes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        distances = _bounded_piece(compiled, codes, limit)
        near = np.flatnonzero(distances <= limit)
        return near + start, distances[near].astype(np.int64)

    found = list(for_each_piece(symbols, alphabet, compiled, work, n_jobs))
    return np.concatenate([near for near, _ in found]), np.concatenate([distances for _, distances in found])


def _bounded_piece(pattern: Pattern, codes: Codes, k: int) -> Distances:
    """Distances of all windows of a piece, right up to k and anything above it beyond, by the cheapest way."""
    limit = min(k, pattern.length)
    shifts = len(codes) - pattern.length + 1
    engine, cost = cheapest(pattern, codes)
    # Nothing is tried where the exact engine costs less than the quickest exit at every shift.
    if cost > shifts * EXIT:
        planes = packed_sketch(pattern, codes)
        tried = np.linspace(0, shifts - 1, min(shifts, TRIED)).astype(np.int64)
        if _filtering_cost(pattern, codes, planes, limit, tried) * shifts < cost:
            distances = np.empty(shifts, dtype=np.int32)
            _kernels.bounded_distances_everywhere(*planes, pattern.word_order, limit, distances)
            if not pattern.sketch.faithful:
                _kernels.recount(codes, pattern.codes, pattern.wild, pattern.word_order, limit, distances)
            return distances
    return exact_distances(pattern, codes, engine)


def _filtering_cost(
    pattern: Pattern, codes: Codes, planes: tuple[NDArray[np.uint64], ...], limit: int, tried: NDArray[np.int64]
) -> float:
    """Nanoseconds of a window that is filtered by its sketch and, if that is near, read, from those that are tried."""
    found = np.empty(len(tried), dtype=np.int32)
    words = _kernels.bounded_distances(*planes, pattern.word_order, limit, tried, found) / len(tried)
    # Shifting the text, and windows that go on alone: a word takes longer than when all of them are read.
    cost = EXIT + 3 * words * (WORD + PLANE_WORD * len(planes[0]))
    if pattern.sketch.faithful:
        return cost
    read = (pattern.codes, pattern.wild, pattern.word_order, limit)
    blocks = sum(_kernels.symbol_distance_up_to(codes, *read, shift)[1] for shift in tried[found <= limit])
    return cost + BLOCK_OF_SYMBOLS * blocks / len(tried)
