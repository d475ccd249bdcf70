"""Engines that give the distances of one piece of text, and the model of their cost that chooses among them.

A piece of c + m - 1 codes has c shifts. All engines count the same matches: M[i] is the sum over letters of the
correlation of two 0/1 indicators, and D[i] = (letters of the pattern) - M[i].
"""

from math import inf, log2
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from paperworks.combinatorial.hamming_distances import _kernels
from paperworks.combinatorial.hamming_distances._pattern import Pattern, even_planes
from paperworks.combinatorial.hamming_distances._symbols import Codes

Algorithm = Literal["auto", "abrahamson", "enumeration", "fft", "bit_parallel", "periodic", "hashing"]
ALGORITHMS = ("auto", "abrahamson", "enumeration", "fft", "bit_parallel", "periodic", "hashing")
Distances = NDArray[np.int32]

# Nanoseconds, measured on one core with AVX-512; only their ratios decide.
PAIR = 0.65  # one increment of the enumeration, twice that where the counts outgrow the cache
SYMBOL = 2.5  # visiting one symbol of the text
LIST = 9.0  # the mispredicted end of a list of positions
TRANSFORM = 0.42  # one sample of a real transform, per level (log2 of its size), twice that outside the cache
INDICATOR = 2.5  # writing a sample of the indicator and multiplying the transform
WORD = 0.14  # one word of text against one of the pattern, mask and count
PLANE_WORD = 0.10  # and the exclusive-or of each of its bit-planes
PLANE_SYMBOL = 1.2  # packing one symbol into one bit-plane
SCATTER = 4.0  # one shift of the bit-parallel loop, besides its words
RUN = 4.0  # one shift of the recurrence over runs

# Samples that are transformed together: their transforms stay in the second-level cache.
BATCH = 2**17


def exact_distances(pattern: Pattern, codes: Codes, algorithm: str = "auto") -> Distances:
    """Distances of all shifts of a piece of text."""
    if algorithm == "auto":
        algorithm = cheapest(pattern, codes)[0]
    if algorithm == "bit_parallel":
        return bit_parallel(pattern, codes)
    if algorithm == "periodic":
        return by_runs(pattern, codes)
    if algorithm == "hashing":
        return by_hashing(pattern, codes)
    return by_letters(pattern, codes, _heavy_letters(pattern, codes, algorithm))


def cheapest(pattern: Pattern, codes: Codes) -> tuple[str, float]:
    """Return the engine of least estimated time for this piece, and that time in nanoseconds."""
    n, m = len(codes), pattern.length
    shifts = n - m + 1
    text_counts = _kernels.count_codes(codes, pattern.wild + 1)
    costs = {"by_letters": _letters_cost(pattern, n, text_counts)}
    planes = even_planes(_largest_code(pattern, codes))
    costs["bit_parallel"] = bit_parallel_cost(planes, pattern.n_words, shifts)
    best = min(costs, key=lambda name: costs[name])
    # The period of the pattern, found once, is looked for only where it may pay.
    if costs[best] > 3 * RUN * n and pattern.runs is not None:
        events = _kernels.count_events(codes, pattern.runs.period, pattern.wild + 1)
        pairs = float(events @ np.diff(pattern.runs.begin))
        costs["periodic"] = RUN * (n + m) + PAIR * pairs
        best = min(costs, key=lambda name: costs[name])
    return best, costs[best]


def by_letters(pattern: Pattern, codes: Codes, heavy: NDArray[np.intp]) -> Distances:
    """Pairs of light letters are enumerated, heavy letters are correlated by Fourier transforms."""
    m, shifts = pattern.length, len(codes) - pattern.length + 1
    matches = np.zeros(len(codes) + m - 1, dtype=np.int32)
    begin, end = pattern.begin[:-1].copy(), pattern.begin[1:]
    begin[heavy] = end[heavy]
    if (begin != end).any():
        _kernels.count_pairs(codes, begin, end, pattern.reversed_positions, matches)
    matches = matches[m - 1 : m - 1 + shifts]
    if len(heavy):
        _correlate(pattern, codes, heavy, matches)
    return pattern.n_letters - matches


def _correlate(pattern: Pattern, codes: Codes, letters: NDArray[np.intp], matches: Distances) -> None:
    """Add the matches of some letters by overlap-save: letters are summed in the frequency domain, inverted once."""
    size, step = _block_size(len(codes), pattern.length)
    n_rows = max(1, BATCH // size)
    indicator = np.empty((n_rows, size))
    for start in range(0, len(matches), n_rows * step):
        rows = indicator[: min(n_rows, -(-(len(matches) - start) // step))]
        total = np.zeros((len(rows), size // 2 + 1), dtype=np.complex128)
        for letter in letters:
            _kernels.fill_indicator(codes, start, step, letter, rows)
            _kernels.multiply_add(fft.rfft(rows, axis=1), pattern.spectrum(int(letter), size), total)
        correlation = fft.irfft(total, size, axis=1, overwrite_x=True)
        piece = matches[start : start + len(rows) * step]
        before = piece.copy()
        # Counts are integers: a quarter off means that rounding can't be trusted, and the pairs are counted instead.
        if _kernels.add_rounded(correlation, 0, step, piece) >= 0.25:
            window = codes[start : start + len(piece) + pattern.length - 1]
            piece[:] = before + counted(pattern, window, letters)


def counted(pattern: Pattern, codes: Codes, letters: NDArray[np.intp]) -> Distances:
    """Matches of some letters, pair by pair."""
    others = np.setdiff1d(np.arange(pattern.wild + 1), letters)
    begin, end = pattern.begin[:-1].copy(), pattern.begin[1:]
    begin[others] = end[others]
    matches = np.zeros(len(codes) + pattern.length - 1, dtype=np.int32)
    _kernels.count_pairs(codes, begin, end, pattern.reversed_positions, matches)
    return matches[pattern.length - 1 : len(codes)]


def bit_parallel(pattern: Pattern, codes: Codes) -> Distances:
    """64 symbols a word: exclusive-or of bit-planes, or of those, population count."""
    text_planes, wilds, pattern_planes, valid = packed(pattern, codes)
    distances = np.empty(len(codes) - pattern.length + 1, dtype=np.int32)
    _kernels.bit_parallel_distances(text_planes, wilds, pattern_planes, valid, distances)
    return distances


def packed(pattern: Pattern, codes: Codes) -> tuple[NDArray[np.uint64], ...]:
    """Bit-planes of text and pattern, as few as this text needs."""
    n_planes = even_planes(_largest_code(pattern, codes))
    # Shifted reads run one word, and one pattern, past the last shift.
    n_words = -(-len(codes) // 64) + pattern.n_words + 2
    text_planes, wilds = _kernels.pack_planes(codes, n_planes, n_words, pattern.wild)
    pattern_planes, valid = pattern.planes
    return text_planes, wilds, pattern_planes[:n_planes], valid


def packed_sketch(pattern: Pattern, codes: Codes) -> tuple[NDArray[np.uint64], ...]:
    """Bit-planes of text and pattern with their letters hashed to few values."""
    table, pattern_planes, valid, _ = pattern.sketch
    n_words = -(-len(codes) // 64) + pattern.n_words + 2
    values = _kernels.look_up(table, codes)
    text_planes, wilds = _kernels.pack_planes(values, len(pattern_planes), n_words, int(table[pattern.wild]))
    return text_planes, wilds, pattern_planes, valid


def by_runs(pattern: Pattern, codes: Codes) -> Distances:
    """Second differences along the period are sparse where text and pattern are nearly periodic."""
    runs = pattern.runs
    if runs is None:
        return exact_distances(pattern, codes)
    offset = pattern.length - 1 + runs.period
    matches = np.zeros(len(codes) + offset, dtype=np.int32)
    _kernels.correlate_runs(codes, runs.period, runs.begin, runs.reversed_places, runs.signs, matches)
    return pattern.n_letters - matches[offset : offset + len(codes) - pattern.length + 1]


def by_hashing(pattern: Pattern, codes: Codes) -> Distances:
    """Each letter's differences of positions as a sumset, whose counts are found by hashing."""
    from paperworks.combinatorial.hamming_distances.sumsets import hashed_sums

    m, shifts = pattern.length, len(codes) - pattern.length + 1
    matches = np.zeros(shifts, dtype=np.int64)
    generator = np.random.default_rng(0)
    for code in np.unique(codes):
        reversed_positions = pattern.reversed_positions[pattern.begin[code] : pattern.begin[code + 1]].astype(np.int64)
        if not len(reversed_positions):
            continue
        # Blocks of 2 m keep the universe of differences near 3 m.
        for first in range(0, len(codes), 2 * m):
            places = np.flatnonzero(codes[first : first + 2 * m] == code)
            if not len(places):
                continue
            sums, counts = hashed_sums(places, reversed_positions, generator)
            shift = sums + first - (m - 1)
            inside = (shift >= 0) & (shift < shifts)
            matches[shift[inside]] += counts[inside]
    return (pattern.n_letters - matches).astype(np.int32)


def _largest_code(pattern: Pattern, codes: Codes) -> int:
    return pattern.foreign if (codes == pattern.foreign).any() else max(1, pattern.foreign - 1)


def _heavy_letters(pattern: Pattern, codes: Codes, algorithm: str) -> NDArray[np.intp]:
    """Letters that the algorithm leaves to Fourier transforms."""
    text_counts = _kernels.count_codes(codes, pattern.wild + 1)
    there = (pattern.counts > 0) & (text_counts > 0)
    if algorithm == "enumeration":
        return np.empty(0, dtype=np.intp)
    if algorithm == "fft":
        return np.flatnonzero(there)
    if algorithm == "abrahamson":
        return np.flatnonzero(there & (pattern.counts > (pattern.length * log2(max(2, pattern.length))) ** 0.5))
    each, once = transform_costs(len(codes), pattern.length)
    pairs = _pair_costs(pattern, text_counts)
    heavy = np.flatnonzero(pairs > each)
    saved = float(pairs[heavy].sum()) - each * len(heavy)
    return heavy if saved > once else np.empty(0, dtype=np.intp)


def bit_parallel_cost(n_planes: int, n_words: int, shifts: int) -> float:
    """Nanoseconds of the bit-parallel loop and of packing its text."""
    each = SCATTER + n_planes * PLANE_SYMBOL + (n_words + 1) * (WORD + PLANE_WORD * n_planes)
    return each * (shifts + 64 * n_words)


def _letters_cost(pattern: Pattern, length: int, text_counts: NDArray[np.int64]) -> float:
    pairs = _pair_costs(pattern, text_counts)
    each, once = transform_costs(length, pattern.length)
    mixed = float(np.minimum(pairs, each).sum()) + once
    return SYMBOL * length + min(mixed, float(pairs.sum()))


def _pair_costs(pattern: Pattern, text_counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """Nanoseconds of enumerating the pairs of each letter."""
    pair = PAIR if pattern.length < 2**15 else 2 * PAIR
    return text_counts * (pattern.counts > 0) * (LIST + pair * pattern.counts)


def transform_costs(length: int, m: int) -> tuple[float, float]:
    """Nanoseconds for one letter of a piece, and for the inverse that all letters share."""
    size, step = _block_size(length, m)
    samples = -(-(length - m + 1) // step) * size
    transform = TRANSFORM if size <= BATCH else 2 * TRANSFORM
    cost = samples * (transform * log2(max(2, size)) + INDICATOR)
    return cost, cost


def _block_size(length: int, m: int) -> tuple[int, int]:
    """Size of the transforms and the shifts that each gives, of least work a shift."""
    best, found = inf, (0, 0)
    for target in (2 * m, 4 * m, 8 * m, 2**12, 2**13):
        size = fft.next_fast_len(min(max(target, m + 1), length), real=True)
        step = size - m + 1
        work = -(-(length - m + 1) // step) * size * log2(max(2, size))
        if work < best:
            best, found = work, (size, step)
    return found
