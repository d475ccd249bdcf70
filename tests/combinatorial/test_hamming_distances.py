import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from paperworks.combinatorial import (
    HammingSearcher,
    approximate_hamming,
    bounded_hamming,
    count_3sum,
    find_approximate,
    sumset_counts,
    text_to_pattern_hamming,
)
from paperworks.combinatorial.hamming_distances import _engines, bounded, exact
from paperworks.combinatorial.hamming_distances._pattern import compile_pattern
from paperworks.combinatorial.hamming_distances._symbols import read_symbols
from paperworks.combinatorial.hamming_distances.sumsets import hashed_sums

EXACT = ["auto", "abrahamson", "enumeration", "fft", "bit_parallel", "periodic", "hashing"]
APPROXIMATE = ["auto", "exact", "hashing", "karloff", "sampling", "equality_product"]


def brute_force(text, pattern, wildcard=None):
    pairs = [[(t, p) for t, p in zip(text[i:], pattern, strict=False)] for i in range(len(text) - len(pattern) + 1)]
    return np.array([sum(t != p and wildcard not in (t, p) for t, p in row) for row in pairs])


def windows_brute_force(text, pattern):
    return (np.lib.stride_tricks.sliding_window_view(text, len(pattern)) != pattern).sum(axis=1)


def near_periodic(length, period, broken, seed):
    rng = np.random.default_rng(seed)
    symbols = np.resize(np.random.default_rng(period).integers(3, size=period), length)
    where = rng.choice(length, broken, replace=False)
    symbols[where] = rng.integers(4, size=broken)
    return symbols


def shares(n, m, seed, letters):
    rng = np.random.default_rng(seed)
    return rng.integers(letters, size=n), rng.integers(letters + 1, size=m)


@pytest.mark.parametrize("algorithm", EXACT)
@pytest.mark.parametrize(
    ("n", "m", "letters"),
    [(1, 1, 1), (5, 5, 2), (64, 64, 3), (65, 64, 2), (200, 1, 3), (300, 63, 4), (700, 129, 5), (500, 40, 300)],
)
def test_every_algorithm_equals_brute_force(algorithm, n, m, letters):
    text, pattern = shares(n, m, n + m, letters)
    found = text_to_pattern_hamming(text, pattern, algorithm=algorithm, random_state=0)
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found, brute_force(text, pattern))


@settings(max_examples=60, deadline=None)
@given(st.text("abc?", min_size=1, max_size=90), st.text("abcd?", min_size=1, max_size=70), st.booleans(), st.data())
def test_any_strings_with_and_without_wildcards(text, pattern, use_wildcard, data):
    pattern = pattern[: len(text)]
    wildcard = "?" if use_wildcard else None
    truth = brute_force(text, pattern, wildcard)
    for algorithm in EXACT:
        found = text_to_pattern_hamming(text, pattern, algorithm=algorithm, wildcard=wildcard)
        np.testing.assert_array_equal(found, truth)
    k = data.draw(st.integers(0, len(pattern) + 2))
    bounded = bounded_hamming(text, pattern, k, wildcard=wildcard)
    np.testing.assert_array_equal(bounded, np.minimum(truth, k + 1))
    positions, distances = find_approximate(text, pattern, k, wildcard=wildcard)
    np.testing.assert_array_equal(positions, np.flatnonzero(truth <= k))
    np.testing.assert_array_equal(distances, truth[truth <= k])


@pytest.mark.parametrize("algorithm", EXACT)
def test_all_symbols_wild(algorithm):
    np.testing.assert_array_equal(text_to_pattern_hamming("abca", "??", algorithm=algorithm, wildcard="?"), [0, 0, 0])
    np.testing.assert_array_equal(text_to_pattern_hamming("??b", "ab", algorithm=algorithm, wildcard="?"), [0, 0])


@pytest.mark.parametrize("period", [1, 7, 12])
def test_runs_of_near_periodic_text(period):
    text, pattern = near_periodic(6000, period, 40, 1), near_periodic(1000, period, 9, 2)
    runs = compile_pattern(pattern, None)[1].runs
    assert runs is not None
    assert runs.period % period == 0 or period % runs.period == 0
    truth = windows_brute_force(text, pattern)
    np.testing.assert_array_equal(text_to_pattern_hamming(text, pattern, algorithm="periodic"), truth)
    for k in (0, 5, 30, 1000):
        np.testing.assert_array_equal(bounded_hamming(text, pattern, k), np.minimum(truth, k + 1))
    wild = text_to_pattern_hamming(text, pattern, algorithm="periodic", wildcard=2)
    np.testing.assert_array_equal(wild, text_to_pattern_hamming(text, pattern, algorithm="enumeration", wildcard=2))


def test_periodic_text_is_recognised_by_its_cost():
    text, pattern = near_periodic(200_000, 12, 400, 1), near_periodic(20_000, 12, 40, 2)
    alphabet, compiled = compile_pattern(pattern, None)
    codes = alphabet.encode(read_symbols("text", text), 0, len(text))
    assert _engines.cheapest(compiled, codes)[0] == "periodic"
    found = text_to_pattern_hamming(text, pattern)
    np.testing.assert_array_equal(found, text_to_pattern_hamming(text, pattern, algorithm="bit_parallel"))


@pytest.mark.parametrize("letters", [2, 20, 700])
def test_engines_agree_where_blocks_and_pieces_meet(letters, monkeypatch):
    monkeypatch.setattr(exact, "PIECE", 4096)
    text, pattern = shares(50_000, 777, letters, letters)
    truth = windows_brute_force(text, pattern)
    for algorithm in ("auto", "abrahamson", "enumeration", "bit_parallel", "fft")[: 5 if letters < 100 else 4]:
        for jobs in (1, 2):
            found = text_to_pattern_hamming(text, pattern, algorithm=algorithm, n_jobs=jobs)
            np.testing.assert_array_equal(found, truth)
    for k in (0, 300, 600, 777):
        np.testing.assert_array_equal(bounded_hamming(text, pattern, k, n_jobs=2), np.minimum(truth, k + 1))


@pytest.mark.parametrize("letters", [2, 3, 4, 300])
def test_windows_left_by_a_sketch_are_counted_exactly(letters, monkeypatch):
    # Letters that share a value, letters that only the text has, wild ones on both sides, and the end of a word.
    monkeypatch.setattr(bounded, "EXIT", 0.0)
    monkeypatch.setattr(bounded, "_filtering_cost", lambda *_: 0.0)
    rng = np.random.default_rng(letters)
    text, pattern = rng.integers(letters + 5, size=5000), rng.integers(letters, size=333)
    for start, changes in ((100, 0), (1000, 7), (2000, 40), (4667, 41)):
        copy = pattern.copy()
        copy[rng.choice(333, changes, replace=False)] += 1
        text[start : start + 333] = copy
    text[1100:1110] = pattern[:10] = letters + 4
    truth = text_to_pattern_hamming(text, pattern, algorithm="enumeration", wildcard=letters + 4)
    for k in (0, 7, 40, 333):
        found = bounded_hamming(text, pattern, k, wildcard=letters + 4)
        np.testing.assert_array_equal(found, np.minimum(truth, k + 1))
        assert (find_approximate(text, pattern, k, wildcard=letters + 4)[0] == np.flatnonzero(truth <= k)).all()


def test_letters_are_split_between_pairs_and_transforms():
    # One letter is everywhere, thousands are rare: the first goes to the transform, the others are enumerated.
    rng = np.random.default_rng(0)
    text, pattern = (np.where(rng.random(size) < 0.8, 0, rng.integers(5000, size=size)) for size in (200_000, 20_000))
    alphabet, compiled = compile_pattern(pattern, None)
    codes = alphabet.encode(read_symbols("text", text), 0, len(text))
    np.testing.assert_array_equal(_engines._heavy_letters(compiled, codes, "auto"), [0])
    found = text_to_pattern_hamming(text, pattern)
    shifts = rng.integers(len(found), size=200)
    truth = [np.count_nonzero(text[i : i + len(pattern)] != pattern) for i in shifts]
    np.testing.assert_array_equal(found[shifts], truth)


def test_counts_that_rounding_can_not_be_trusted_with_are_made_again(monkeypatch):
    text, pattern = shares(3000, 100, 0, 3)
    truth = windows_brute_force(text, pattern)
    transform = _engines.fft.irfft

    def inaccurate(*arguments, **options):
        return transform(*arguments, **options) + 0.6

    monkeypatch.setattr(_engines.fft, "irfft", inaccurate)
    np.testing.assert_array_equal(text_to_pattern_hamming(text, pattern, algorithm="fft"), truth)


def test_kinds_of_symbols_give_the_same_distances():
    text, pattern = "mississippi banana", "sips"
    truth = brute_force(text, pattern)
    as_bytes = text.encode(), pattern.encode()
    integers = [list(each) for each in as_bytes]
    for pair in (
        (text, pattern),
        as_bytes,
        tuple(map(bytearray, as_bytes)),
        tuple(map(memoryview, as_bytes)),
        integers,
        (np.array(integers[0]) * 10**12 - 5, np.array(integers[1]) * 10**12 - 5),
        (as_bytes[0], integers[1]),
        tuple(torch.tensor(each) for each in integers),
        tuple(list(each) for each in (text, pattern)),
        tuple(np.array(list(each)) for each in (text, pattern)),
        tuple([(each, 1) for each in word] for word in (text, pattern)),
    ):
        np.testing.assert_array_equal(text_to_pattern_hamming(*pair), truth)
    # Code points, not bytes of UTF-8.
    np.testing.assert_array_equal(text_to_pattern_hamming("naïve café 𝄞", "é 𝄞"), brute_force("naïve café 𝄞", "é 𝄞"))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"])
def test_integer_types_may_differ(dtype):
    text, pattern = np.array([0, 1, 1, 0, 1, 0, 0, 1]).astype(dtype), np.array([-1, 1, 0])
    np.testing.assert_array_equal(text_to_pattern_hamming(text, pattern), brute_force(text.astype(int), pattern))


def test_extreme_integers_do_not_wrap_around():
    low, high = np.iinfo(np.int64).min, np.iinfo(np.int64).max
    text, pattern = np.array([low, high, 0, high, low]), np.array([high, 0])
    np.testing.assert_array_equal(text_to_pattern_hamming(text, pattern), [2, 0, 2, 1])
    # Symbols below the least letter of the pattern.
    np.testing.assert_array_equal(text_to_pattern_hamming(np.array([-1, 0, 1, 2]), np.array([1, 2])), [2, 2, 0])
    np.testing.assert_array_equal(text_to_pattern_hamming(np.array([255, 1], dtype=np.uint8), np.array([-1])), [1, 1])


def test_counts_above_255_do_not_overflow():
    for algorithm in ("enumeration", "fft", "bit_parallel", "periodic"):
        found = text_to_pattern_hamming(np.zeros(34_000, int), np.ones(33_000, int), algorithm=algorithm)
        assert (found == 33_000).all()
        assert not text_to_pattern_hamming(np.zeros(34_000, int), np.zeros(33_000, int), algorithm=algorithm).any()


@pytest.mark.parametrize("cuts", [[], [1, 2, 3], [50, 50, 51], [699], [10, 400]])
def test_stream_is_the_text_in_pieces(cuts):
    text, pattern = shares(700, 51, 3, 4)
    searcher = HammingSearcher(pattern)
    pieces = list(searcher.stream(np.split(text, cuts)))
    np.testing.assert_array_equal(np.concatenate(pieces), brute_force(text, pattern))
    np.testing.assert_array_equal(searcher.distances(text), brute_force(text, pattern))
    assert list(searcher.stream([text[:50]])) == []


def test_text_on_disk_is_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(exact, "PIECE", 1000)
    text = np.memmap(tmp_path / "text", dtype=np.uint8, mode="w+", shape=(9000,))
    text[:] = np.random.default_rng(0).integers(4, size=9000)
    pattern = np.asarray(text[4000:4030]).copy()
    positions, distances = find_approximate(text, pattern, 2)
    assert positions.tolist() == [4000]
    assert distances.tolist() == [0]


@pytest.mark.parametrize("algorithm", APPROXIMATE)
@pytest.mark.parametrize(("letters", "epsilon"), [(3, 0.5), (400, 0.5), (400, 0.2)])
def test_every_estimate_is_within_epsilon(algorithm, letters, epsilon):
    text, pattern = shares(1500, 400, letters, letters)
    text[300:700], text[1000:1400] = pattern, pattern
    text[1005:1025] = -1
    truth = brute_force(text, pattern)
    found = approximate_hamming(text, pattern, epsilon, algorithm=algorithm, random_state=1)
    assert found.dtype == np.float64
    assert (np.abs(found - truth) <= epsilon * truth + 1e-9).all()
    again = approximate_hamming(text, pattern, epsilon, algorithm=algorithm, random_state=1, n_jobs=2)
    np.testing.assert_array_equal(found, again)
    if algorithm in {"hashing", "equality_product"}:
        assert (found <= truth).all()
    if algorithm in {"hashing", "equality_product", "karloff"} and letters == 400:
        assert (found != truth).any()


def test_sampling_is_accurate_and_not_exact():
    text, pattern = shares(30_000, 20_000, 0, 50)
    text[5000:25_000] = pattern
    text[6000:6300] = 99
    truth = text_to_pattern_hamming(text, pattern)
    found = approximate_hamming(text, pattern, 0.5, algorithm="sampling", random_state=0)
    assert (np.abs(found - truth) <= 0.5 * truth).all()
    assert np.abs(found - truth).max() > 0
    # Near windows are verified.
    assert found[5000] == truth[5000] == 300


def test_wildcards_in_estimates():
    text, pattern = shares(800, 120, 5, 40)
    truth = brute_force(text, pattern, 0)
    for algorithm in APPROXIMATE:
        found = approximate_hamming(text, pattern, 0.5, algorithm=algorithm, wildcard=0, random_state=0)
        assert (np.abs(found - truth) <= 0.5 * truth + 1e-9).all()


@pytest.mark.parametrize("algorithm", ["auto", "fft", "enumeration", "hashing"])
@pytest.mark.parametrize(("universe", "size"), [(1, 1), (7, 20), (300, 5), (5000, 70), (200_000, 30)])
def test_sums_equal_brute_force(algorithm, universe, size):
    rng = np.random.default_rng(size)
    x, y = rng.integers(universe, size=size), rng.integers(universe, size=size + 1)
    truth = np.bincount(np.add.outer(x, y).ravel(), minlength=2 * universe - 1)
    counts = sumset_counts(x, y, universe, algorithm=algorithm, random_state=0)
    assert counts.dtype == np.int64
    np.testing.assert_array_equal(counts, truth)
    targets = rng.integers(2 * universe - 1, size=9)
    np.testing.assert_array_equal(count_3sum(x, y, targets, universe), truth[targets])


def test_hashing_finds_few_sums_in_a_large_universe():
    steps = np.arange(2000) * 100_003
    sums, counts = hashed_sums(steps, steps, np.random.default_rng(0))
    order = np.argsort(sums)
    np.testing.assert_array_equal(sums[order], np.arange(3999) * 100_003)
    np.testing.assert_array_equal(counts[order], np.minimum(np.arange(1, 4000), np.arange(3999, 0, -1)))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f: f("", "a"), ValueError, "text is empty"),
        (lambda f: f("a", ""), ValueError, "pattern is empty"),
        (lambda f: f([], [1]), ValueError, "text is empty"),
        (lambda f: f(np.empty(0), [1]), ValueError, "text is empty"),
        (lambda f: f("ab", "abc"), ValueError, "got text of length 2 and pattern of length 3"),
        (lambda f: f("ab", b"a"), TypeError, "same kind of symbols, got str .*bytes"),
        (lambda f: f("ab", np.array([97])), TypeError, "same kind of symbols"),
        (lambda f: f(b"ab", ["a"]), TypeError, "same kind of symbols"),
        (lambda f: f([1.0, np.nan], [1]), TypeError, "text: symbols must be integers, str or bytes; got float"),
        (lambda f: f([1, "a", 2.0], ["a"]), TypeError, "got float"),
        (lambda f: f([1, 2], np.array([1.5])), TypeError, "pattern: symbols must be integers"),
        (lambda f: f([1, 2], np.array([1j])), TypeError, "got complex128"),
        (lambda f: f([[1], [2, 3]], ["a"]), TypeError, "hashable, got list"),
        (lambda f: f(np.ones((2, 2), int), [1]), ValueError, r"text must have 1 dimension, got shape \(2, 2\)"),
        (lambda f: f(np.int64(3), [1]), TypeError, "text must be a str"),
        (lambda f: f(None, "a"), TypeError, "text must be a str.*got NoneType"),
        (lambda f: f(np.array([2**63], dtype=np.uint64), [1]), ValueError, "less than 2"),
        (lambda f: f("ab", "a", wildcard="xy"), TypeError, "wildcard must be one symbol"),
        (lambda f: f("ab", "a", wildcard=3), TypeError, "wildcard must be one symbol"),
        (lambda f: f(b"ab", b"a", wildcard=1.0), TypeError, "wildcard must be one symbol"),
    ],
)
def test_bad_texts_and_patterns(call, error, message):
    functions = [
        text_to_pattern_hamming,
        approximate_hamming,
        lambda *each, **options: bounded_hamming(*each, 1, **options),
        lambda *each, **options: find_approximate(*each, 1, **options),
    ]
    for function in functions:
        with pytest.raises(error, match=message):
            call(function)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bounded_hamming("ab", "a", -1), ValueError, "k must be at least 0, got -1"),
        (lambda: bounded_hamming("ab", "a", 1.0), TypeError, "k must be an integer"),
        (lambda: find_approximate("ab", "a", True), TypeError, "k must be an integer"),
        (lambda: approximate_hamming("ab", "a", 0), ValueError, "epsilon .*got 0"),
        (lambda: approximate_hamming("ab", "a", 1), ValueError, "epsilon must be less than 1, got 1"),
        (lambda: approximate_hamming("ab", "a", -0.1), ValueError, "epsilon .*got -0.1"),
        (lambda: approximate_hamming("ab", "a", np.nan), ValueError, "epsilon .*got nan"),
        (lambda: approximate_hamming("ab", "a", failure_probability=1.0), ValueError, "failure_probability"),
        (lambda: approximate_hamming("ab", "a", algorithm="guess"), ValueError, "algorithm must be one of"),
        (lambda: text_to_pattern_hamming("ab", "a", algorithm="guess"), ValueError, "algorithm must be one of"),
        (lambda: text_to_pattern_hamming("ab", "a", random_state="x"), TypeError, "random_state"),
        (lambda: list(HammingSearcher("a").stream([b"ab"])), TypeError, "same kind"),
        (lambda: sumset_counts([0.5], [1], 3), TypeError, "x must hold integers, got float64"),
        (lambda: sumset_counts([], [1], 3), ValueError, "x is empty"),
        (lambda: sumset_counts([1], [[1]], 3), ValueError, "y must have 1 dimension"),
        (lambda: sumset_counts([1], [3], 3), ValueError, r"y must hold integers in 0\.\.2, got 3"),
        (lambda: sumset_counts([-1], [2], 3), ValueError, r"x must hold integers in 0\.\.2, got -1"),
        (lambda: sumset_counts([1], [2], 0), ValueError, "universe must be at least 1, got 0"),
        (lambda: count_3sum([1], [2], [5], 3), ValueError, r"z must hold integers in 0\.\.4, got 5"),
    ],
)
def test_bad_numbers(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_command_finds_what_is_there(tmp_path):
    from paperworks.papers.hamming_distances.run import run

    (tmp_path / "genes.fa").write_text(">one first\nACGTAC\nGTTT\n>two\nAC\n>three\nacGA\n")
    summary = run(tmp_path / "genes.fa", out=tmp_path, pattern="ACGT", k=1, ignore_case=True, jobs=1)
    assert (summary["n_hits"], summary["least_distance"], summary["least_in"], summary["least_at"]) == (3, 0, "one", 0)
    lines = (tmp_path / "hits.csv").read_text().splitlines()
    assert lines == ["sequence,position,distance", '"one",0,0', '"one",4,0', '"three",0,1']
    assert (tmp_path / "picture.png").stat().st_size > 1000
    for options, message in (
        ({"pattern": "A" * 30}, "more than the text"),
        ({}, "--pattern or --pattern-file"),
        ({"pattern": "A", "k": -1}, "k must be at least 0"),
        ({"pattern": "A", "wildcard": "NN"}, "wildcard must be one symbol"),
    ):
        with pytest.raises(ValueError, match=message):
            run(tmp_path / "genes.fa", out=tmp_path, **options)
