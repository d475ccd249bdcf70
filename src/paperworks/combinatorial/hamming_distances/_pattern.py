"""What is known of a pattern before any text: where its letters are, its bit-planes, spectra and runs."""

from functools import cached_property
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from paperworks.combinatorial.hamming_distances._kernels import least_period, pack_planes
from paperworks.combinatorial.hamming_distances._symbols import Alphabet, Codes, read_symbols

# Letters that are hashed to so few values are told apart by two bit-planes.
SKETCH_VALUES = 4

# Spectra of letters that are kept, in bytes; beyond it they are computed again for every text.
KEPT_SPECTRA = 2**28


class Runs(NamedTuple):
    """A pattern by the places where runs along the residue classes of its period begin (+1) and end (-1)."""

    period: int
    begin: NDArray[np.int64]
    reversed_places: NDArray[np.int64]
    signs: NDArray[np.int32]


class Sketch(NamedTuple):
    """A pattern whose letters are hashed to four values: its distances are never above the pattern's.

    ``table`` maps codes to values, ``planes`` and ``valid`` are as in `Pattern.planes`, ``faithful`` says that no two
    letters share a value.
    """

    table: NDArray[np.int32]
    planes: NDArray[np.uint64]
    valid: NDArray[np.uint64]
    faithful: bool


class Pattern:
    """A pattern whose symbols are codes.

    Attributes
    ----------
    codes : array of int32
        The pattern itself.
    begin, reversed_positions
        Positions of code c are ``reversed_positions[begin[c] : begin[c + 1]]``, as m - 1 - q. The code `foreign` has
        none, and `wild` all positions that hold a letter: a wild symbol of the text matches them all.
    counts : array of int64
        Number of positions of each code.
    n_letters : int
        Positions that are not wild.
    """

    def __init__(self, alphabet: Alphabet, codes: Codes) -> None:
        self.codes = codes
        self.length = len(codes)
        self.foreign, self.wild = alphabet.foreign, alphabet.wild
        letters = np.flatnonzero(codes < self.foreign)
        self.n_letters = len(letters)
        by_code = np.concatenate([letters[np.argsort(codes[letters], kind="stable")], letters])
        self.counts = np.bincount(codes[letters], minlength=self.wild + 1)
        self.counts[self.wild] = self.n_letters
        self.begin = np.concatenate([[0], np.cumsum(self.counts)])
        self.reversed_positions = (self.length - 1 - by_code).astype(np.uint32)
        self._spectra: dict[tuple[int, int], NDArray[np.complexfloating]] = {}
        self._spectra_bytes = 0
        self._lock = Lock()

    @property
    def n_words(self) -> int:
        """64-bit words of a bit-plane."""
        return -(-self.length // 64)

    def positions(self, code: int) -> NDArray[np.int64]:
        """Positions that a code of the text matches."""
        found = self.reversed_positions[self.begin[code] : self.begin[code + 1]]
        return self.length - 1 - found.astype(np.int64)

    def spectrum(self, code: int, size: int) -> NDArray[np.complexfloating]:
        """Conjugate transform of a letter's 0/1 indicator, by which the text's is multiplied to correlate the two."""
        key = (code, size)
        found = self._spectra.get(key)
        if found is None:
            indicator = np.zeros(size)
            indicator[self.positions(code)] = 1.0
            found = np.conj(fft.rfft(indicator))
            with self._lock:
                if self._spectra_bytes + found.nbytes <= KEPT_SPECTRA:
                    self._spectra[key] = found
                    self._spectra_bytes += found.nbytes
        return found

    @cached_property
    def planes(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        """Bit-planes of the letters, as many as `foreign` needs, and the plane of positions that are not wild."""
        n_planes = even_planes(self.foreign)
        return self._packed(self.codes, n_planes, self.wild)

    @cached_property
    def sketch(self) -> Sketch:
        """The pattern over four values, each of about as many positions, so that random letters rarely share one."""
        faithful = self.foreign < SKETCH_VALUES
        table = np.arange(self.wild + 1, dtype=np.int32)
        if not faithful:
            by_frequency = np.argsort(-self.counts[: self.foreign], kind="stable")
            table[by_frequency] = np.resize([0, 1, 2, 3, 3, 2, 1, 0], self.foreign)
            # Letters that the pattern lacks get the last value.
            table[self.foreign] = SKETCH_VALUES - 1
        table[self.wild] = SKETCH_VALUES
        return Sketch(table, *self._packed(table[self.codes], 2, SKETCH_VALUES), faithful)

    def _packed(self, codes: Codes, n_planes: int, wild: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
        planes, wilds = pack_planes(codes, n_planes, self.n_words, wild)
        valid = ~wilds
        if self.length % 64:
            valid[-1] &= np.uint64(2 ** (self.length % 64) - 1)
        return planes, valid

    @cached_property
    def word_order(self) -> NDArray[np.int64]:
        """Words in an order in which the first few are spread evenly, wherever the mismatches cluster."""
        golden = (np.arange(self.n_words) * 0.6180339887498949) % 1.0
        return np.argsort(np.argsort(golden))

    @cached_property
    def runs(self) -> Runs | None:
        """The pattern as runs, if a period has few of them: less than one in eight positions begins or ends one."""
        period = least_period(self.codes, min(self.length // 16, 8192))
        if not period:
            return None
        nothing = np.full(period, self.foreign, dtype=np.int32)
        after, before = np.concatenate([self.codes, nothing]), np.concatenate([nothing, self.codes])
        changed = np.flatnonzero(after != before)
        all_letters = self._lettered(after).astype(np.int32) - self._lettered(before)
        joker = np.flatnonzero(all_letters)
        places = np.concatenate([changed, changed, joker])
        codes = np.concatenate([after[changed], before[changed], np.full(len(joker), self.wild)])
        signs = np.concatenate([np.ones(len(changed)), -np.ones(len(changed)), all_letters[joker]]).astype(np.int32)
        # Wild positions of the pattern hold no letter; those of the text are the events of the joker.
        kept = (codes < self.foreign) | (np.arange(len(codes)) >= 2 * len(changed))
        order = np.flatnonzero(kept)[np.argsort(codes[kept], kind="stable")]
        begin = np.concatenate([[0], np.cumsum(np.bincount(codes[order], minlength=self.wild + 1))])
        return Runs(period, begin, self.length - 1 + period - places[order], signs[order])

    def _lettered(self, codes: Codes) -> NDArray[np.bool_]:
        return codes < self.foreign


def even_planes(largest_code: int) -> int:
    """Bits of the largest code, made even: the compiled loop takes two planes at a time."""
    bits = max(1, int(largest_code).bit_length())
    return bits + bits % 2


def compile_pattern(pattern: Any, wildcard: Any) -> tuple[Alphabet, Pattern]:
    """Read a pattern and prepare it."""
    symbols = read_symbols("pattern", pattern)
    alphabet = Alphabet(symbols, wildcard)
    return alphabet, Pattern(alphabet, alphabet.encode(symbols, 0, len(symbols)))
