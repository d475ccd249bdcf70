"""Compiled loops over texts whose symbols are codes, and over bit-planes of them."""

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

# Words of text that one pass of the bit-parallel loop handles: its arrays stay in the first-level cache.
BLOCK = 256


@intrinsic
def popcount(typing_context, word):
    """Return the number of ones of a 64-bit word, as the processor's own instruction."""

    def generate(context, builder, signature, arguments):
        function = builder.module.declare_intrinsic("llvm.ctpop", [ir.IntType(64)])
        return builder.call(function, arguments)

    return types.int64(types.uint64), generate


@njit(cache=True, nogil=True)
def count_codes(codes, n_codes):
    # Two histograms, since increments of one count wait for each other.
    counts = np.zeros((2, n_codes), dtype=np.int64)
    for p in range(len(codes)):
        counts[p & 1, codes[p]] += 1
    return counts[0] + counts[1]


@njit(cache=True, nogil=True)
def count_pairs(codes, begin, end, reversed_positions, matches):
    """Add 1 to ``matches[p + m - 1 - q]`` for each equal pair (text position p, pattern position q)."""
    for p in range(len(codes)):
        code = codes[p]
        for j in range(begin[code], end[code]):
            matches[np.uint64(p) + np.uint64(reversed_positions[j])] += np.int32(1)


@njit(cache=True, nogil=True)
def fill_indicator(codes, start, step, code, rows):
    """Row r becomes the 0/1 indicator of ``code`` in the text from ``start + r * step`` on, zero behind its end."""
    for r in range(rows.shape[0]):
        first = start + r * step
        there = max(0, min(rows.shape[1], len(codes) - first))
        for i in range(there):
            rows[r, i] = 1.0 if codes[first + i] == code else 0.0
        rows[r, there:] = 0.0


@njit(cache=True, nogil=True)
def multiply_add(transforms, spectrum, total):
    for r in range(transforms.shape[0]):
        for f in range(transforms.shape[1]):
            total[r, f] += transforms[r, f] * spectrum[f]


@njit(cache=True, nogil=True)
def add_rounded(rows, start, step, matches):
    """Add the rounded rows to ``matches`` and return the largest distance to an integer."""
    worst = 0.0
    for r in range(rows.shape[0]):
        first = start + r * step
        for i in range(min(step, len(matches) - first)):
            value = rows[r, i]
            whole = np.rint(value)
            worst = max(worst, abs(value - whole))
            matches[first + i] += np.int32(whole)
    return worst


@njit(cache=True, nogil=True)
def pack_planes(codes, n_planes, n_words, wild):
    """Bit-planes of the codes, and one plane that marks the wild ones, padded with zeros to ``n_words`` words."""
    planes = np.zeros((n_planes, n_words), dtype=np.uint64)
    wilds = np.zeros(n_words, dtype=np.uint64)
    for word in range((len(codes) + 63) // 64):
        first = 64 * word
        length = min(64, len(codes) - first)
        for plane in range(n_planes):
            bits = np.uint64(0)
            for i in range(length):
                bits |= (np.uint64(codes[first + i] >> plane) & np.uint64(1)) << np.uint64(i)
            planes[plane, word] = bits
        bits = np.uint64(0)
        for i in range(length):
            bits |= np.uint64(codes[first + i] == wild) << np.uint64(i)
        wilds[word] = bits
    return planes, wilds


@njit(cache=True, nogil=True)
def look_up(table, codes):
    values = np.empty(len(codes), dtype=table.dtype)
    for i in range(len(codes)):
        values[i] = table[codes[i]]
    return values


@njit(cache=True, nogil=True)
def _shift(plane, first, bit, shifted):
    """Words of a plane from bit ``64 * first + bit`` on."""
    up, down = np.uint64(63 - bit), np.uint64(bit)
    for i in range(len(shifted)):
        # Two shifts, since one by 64 is undefined.
        shifted[i] = (plane[first + i] >> down) | ((plane[first + i + 1] << np.uint64(1)) << up)


@njit(cache=True, nogil=True)
def bit_parallel_distances(planes, wilds, pattern, valid, distances):
    """Distances of all shifts: exclusive-or of planes, or of those, population count; ``planes`` come in pairs."""
    n_planes, n_words = pattern.shape
    shifted = np.empty((n_planes + 1, BLOCK + n_words), dtype=np.uint64)
    differs = np.zeros(BLOCK, dtype=np.uint64)
    counts = np.empty(BLOCK, dtype=np.int64)
    n = len(distances)
    for first in range(0, (n + 63) // 64, BLOCK):
        width = min(BLOCK, (n + 63) // 64 - first)
        for bit in range(64):
            for plane in range(n_planes):
                _shift(planes[plane], first, bit, shifted[plane, : width + n_words])
            _shift(wilds, first, bit, shifted[n_planes, : width + n_words])
            counts[:] = 0
            for word in range(n_words):
                for plane in range(0, n_planes - 2, 2):
                    a, b = pattern[plane, word], pattern[plane + 1, word]
                    for i in range(width):
                        differs[i] |= (shifted[plane, i + word] ^ a) | (shifted[plane + 1, i + word] ^ b)
                a, b, mask = pattern[n_planes - 2, word], pattern[n_planes - 1, word], valid[word]
                for i in range(width):
                    bits = differs[i] | (shifted[n_planes - 2, i + word] ^ a) | (shifted[n_planes - 1, i + word] ^ b)
                    counts[i] += popcount(bits & mask & ~shifted[n_planes, i + word])
                if n_planes > 2:
                    differs[:] = 0
            for i in range(width):
                shift = 64 * (first + i) + bit
                if shift < n:
                    distances[shift] = counts[i]


@njit(cache=True, nogil=True)
def distance_up_to(planes, wilds, pattern, valid, order, limit, shift, step, count):
    """Go on with the distance of one shift until it exceeds ``limit``; returns it, and how many words were read."""
    first, down = shift >> 6, np.uint64(shift & 63)
    up = np.uint64(63) - down
    while step < len(order) and count <= limit:
        word = order[step]
        place = first + word
        differs = np.uint64(0)
        for plane in range(pattern.shape[0]):
            text = (planes[plane, place] >> down) | ((planes[plane, place + 1] << np.uint64(1)) << up)
            differs |= text ^ pattern[plane, word]
        wild = (wilds[place] >> down) | ((wilds[place + 1] << np.uint64(1)) << up)
        count += popcount(differs & valid[word] & ~wild)
        step += 1
    return min(count, limit + 1), step


@njit(cache=True, nogil=True)
def bounded_distances(planes, wilds, pattern, valid, order, limit, shifts, distances):
    """Distances of some shifts, limit + 1 where they exceed ``limit``; returns how many words were read."""
    words = 0
    for i in range(len(shifts)):
        distances[i], read = distance_up_to(planes, wilds, pattern, valid, order, limit, shifts[i], 0, 0)
        words += read
    return words


@njit(cache=True, nogil=True)
def bounded_distances_everywhere(planes, wilds, pattern, valid, order, limit, distances):
    """As `bounded_distances` for all shifts: a block of them together, until few are left, which go on alone."""
    n, n_planes = len(distances), pattern.shape[0]
    differs = np.empty(BLOCK, dtype=np.uint64)
    counts = np.empty(BLOCK, dtype=np.int64)
    for first in range(0, (n + 63) // 64, BLOCK):
        width = min(BLOCK, (n + 63) // 64 - first)
        for bit in range(64):
            down, up = np.uint64(bit), np.uint64(63 - bit)
            counts[:] = 0
            step, alive = 0, width
            while step < len(order) and alive > width // 16:
                word = order[step]
                place = first + word
                differs[:] = 0
                for plane in range(n_planes):
                    row, symbol = planes[plane, place : place + width + 1], pattern[plane, word]
                    for i in range(width):
                        differs[i] |= ((row[i] >> down) | ((row[i + 1] << np.uint64(1)) << up)) ^ symbol
                row, mask = wilds[place : place + width + 1], valid[word]
                alive = 0
                for i in range(width):
                    wild = (row[i] >> down) | ((row[i + 1] << np.uint64(1)) << up)
                    counts[i] += popcount(differs[i] & mask & ~wild)
                    alive += counts[i] <= limit
                step += 1
            for i in range(width):
                shift = 64 * (first + i) + bit
                if shift < n:
                    count = counts[i]
                    if count <= limit and step < len(order):
                        count, _ = distance_up_to(planes, wilds, pattern, valid, order, limit, shift, step, count)
                    distances[shift] = min(count, limit + 1)


@njit(cache=True, nogil=True)
def recount(codes, pattern, wild, order, limit, distances):
    """Count again, symbol by symbol, the distances that a sketch has left at ``limit`` or less; returns blocks read."""
    blocks = 0
    for shift in range(len(distances)):
        if distances[shift] <= limit:
            distances[shift], read = symbol_distance_up_to(codes, pattern, wild, order, limit, shift)
            blocks += read
    return blocks


@njit(cache=True, nogil=True)
def symbol_distance_up_to(codes, pattern, wild, order, limit, shift):
    """Distance of one shift, limit + 1 where it exceeds ``limit``, and how many blocks of 64 symbols were read."""
    # As narrow as the codes, so that the loop is vectorised.
    joker, count, step = np.int32(wild), 0, 0
    while step < len(order) and count <= limit:
        first = 64 * order[step]
        symbols = pattern[first : first + 64]
        texts = codes[shift + first : shift + first + len(symbols)]
        differs = np.int32(0)
        for q in range(len(symbols)):
            differs += np.int32((texts[q] != symbols[q]) & (texts[q] != joker) & (symbols[q] != joker))
        count += int(differs)
        step += 1
    return min(count, limit + 1), step


@njit(cache=True, nogil=True)
def copy_up_to(distances, top, bounded):
    for i in range(len(distances)):
        bounded[i] = min(distances[i], top)


@njit(cache=True, nogil=True)
def least_period(codes, limit):
    """Return the period r of fewest runs, by r + positions that break it; 0 if that exceeds ``limit`` for all."""
    best, fewest = 0, limit + 1
    period = 1
    while period < fewest:
        broken = 0
        # Blocks without an exit inside are compared several at a time.
        for first in range(period, len(codes), 256):
            for i in range(first, min(first + 256, len(codes))):
                broken += codes[i] != codes[i - period]
            if period + broken >= fewest:
                break
        if period + broken < fewest:
            best, fewest = period, period + broken
        period += 1
    return best


@njit(cache=True, nogil=True)
def count_events(codes, period, n_codes):
    """How often each code begins or ends a run along the residue classes of the period."""
    counts = np.zeros(n_codes, dtype=np.int64)
    for p in range(len(codes)):
        if p < period:
            counts[codes[p]] += 1
        elif codes[p] != codes[p - period]:
            counts[codes[p]] += 1
            counts[codes[p - period]] += 1
    return counts


@njit(cache=True, nogil=True)
def correlate_runs(codes, period, begin, reversed_events, signs, matches):
    """Matches from run boundaries alone: M(i + r) = 2 M(i) - M(i - r) - C(i) for the period r.

    C correlates the differences T_c(p) - T_c(p - r) of the text with those of the pattern, summed over letters c.
    """
    second = np.zeros(len(matches), dtype=np.int32)
    for p in range(len(codes)):
        before = codes[p - period] if p >= period else -1
        code = codes[p]
        if code != before:
            for j in range(begin[code], begin[code + 1]):
                second[p + reversed_events[j]] += signs[j]
            if before >= 0:
                for j in range(begin[before], begin[before + 1]):
                    second[p + reversed_events[j]] -= signs[j]
    matches[:period] = 0
    for i in range(len(matches) - period):
        earlier = matches[i - period] if i >= period else 0
        matches[i + period] = 2 * matches[i] - earlier - second[i]


@njit(cache=True, nogil=True)
def add_diagonals(products, block, matches):
    """Add ``products[i + block * u, u]`` over u to ``matches[i]``."""
    for i in range(len(matches)):
        total = 0.0
        for u in range(products.shape[1]):
            total += products[i + block * u, u]
        matches[i] += np.int32(np.rint(total))


@njit(cache=True, nogil=True)
def add_outer_sums(x, y, tile, counts):
    """Histogram of all sums of the sorted x and y, one tile of the output at a time, which stays in cache."""
    ahead = np.zeros(len(x), dtype=np.int64)
    for first in range(x[0] + y[0], x[-1] + y[-1] + 1, tile):
        for i in range(len(x)):
            j, last = ahead[i], first + tile - x[i]
            while j < len(y) and y[j] < last:
                counts[np.uint64(x[i] + y[j])] += 1
                j += 1
            ahead[i] = j
