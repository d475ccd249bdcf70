"""Which block is next: fixed partitions and variable blocks, by chance, in turn, or greedily.

Every greedy rule takes the block whose model decreases most. The models differ in their bound of curvature: one number
for all coordinates (GS), one a block or coordinate (GSL), a diagonal that dominates (GSD), or a matrix (GSQ).
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any, Literal, NamedTuple
from warnings import warn

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from paperworks._validation import check_choice, check_integer
from paperworks.optimization.block_coordinate_descent._forests import greedy_forest
from paperworks.optimization.block_coordinate_descent._matrices import Array, Indices
from paperworks.optimization.block_coordinate_descent._models import (
    diagonal_step,
    largest_eigenvalue,
    model_step,
    proximal,
    solve_definite,
)
from paperworks.optimization.block_coordinate_descent._problems import Problem, QuadraticProblem, State

Selection = Literal["random", "cyclic", "lipschitz", "GS", "GSL", "GSD", "GSQ", "gsq-nn"]
SELECTIONS = ("random", "cyclic", "lipschitz", "GS", "GSL", "GSD", "GSQ", "gsq-nn")
PARTITIONS = ("variable", "forest", "sort", "order", "average", "random")
# Steps of iterative hard thresholding, as the authors take.
THRESHOLDINGS = 10
# Blocks up to this size have the largest eigenvalue of their bound computed; it is bounded by row sums in larger ones.
SMALL = 500


class Choice(NamedTuple):
    """A block, and its number where blocks are fixed."""

    block: Indices
    number: int | None = None


class FixedBlocks:
    """Blocks that stay as they are, with what can be known of them beforehand."""

    def __init__(self, problem: Problem, blocks: list[Indices]) -> None:
        self.problem, self.blocks = problem, blocks
        self.members = np.concatenate(blocks)
        self.starts = np.cumsum([0, *(len(block) for block in blocks[:-1])])
        self._bounds: dict[int, Array] = {}

    def bound(self, number: int) -> Array:
        """H_b."""
        if number not in self._bounds:
            self._bounds[number] = self.problem.bound(self.blocks[number])
        return self._bounds[number]

    @cached_property
    def lipschitz(self) -> Array:
        """L_b of each block."""
        return np.array([block_lipschitz(self.problem, block) for block in self.blocks])

    @cached_property
    def inverses(self) -> list[tuple[Indices, Indices, Array]]:
        """Numbers, members and H_b^-1 of the blocks, those of one size together."""
        sizes = np.array([len(block) for block in self.blocks])
        found: list[tuple[Indices, Indices, Array]] = []
        for size in np.unique(sizes):
            numbers = np.flatnonzero(sizes == size)
            inverses = np.stack([solve_definite(self.bound(int(number)), np.eye(size)) for number in numbers])
            found.append((numbers, np.stack([self.blocks[number] for number in numbers]), inverses))
        return found

    def decreases(self, state: State, D: Array | float) -> Array:
        """Decrease of each block's model under a diagonal bound."""
        here = self.members
        each = diagonal_step(self.problem, state.x[here], state.gradient[here], D)[1]
        return np.asarray(np.add.reduceat(each, self.starts))

    def matrix_decreases(self, state: State) -> Array:
        """Decrease of each block's model under the matrix H_b."""
        problem, found = self.problem, np.empty(len(self.blocks))
        if not (problem.l1 or problem.nonnegative):
            for numbers, members, inverses in self.inverses:
                G = state.gradient[members]
                found[numbers] = 0.5 * np.einsum("bi,bij,bj->b", G, inverses, G)
            return found
        for number, block in enumerate(self.blocks):
            H, G, x = self.bound(number), state.gradient[block], state.x[block]
            d = model_step(problem, H, G, x)
            gained = problem.l1 * float(np.abs(x + d).sum() - np.abs(x).sum())
            found[number] = -(G @ d + 0.5 * d @ H @ d + gained)
        return found


def block_lipschitz(problem: Problem, block: Indices) -> float:
    """L_b, the largest eigenvalue of the bound of a block's Hessian, or a bound of it where the block is large."""
    if len(block) <= SMALL:
        return largest_eigenvalue(problem.bound(block))
    if isinstance(problem, QuadraticProblem):
        return float(abs(problem.part(block)).sum(axis=0).max())
    return float(problem.dominating_diagonal[block].max())


def checked_block_size(block_size: Any, problem: Problem) -> int:
    """Return the size of blocks; more than there are variables is clipped, with a warning."""
    size = check_integer("block_size", block_size)
    if size > problem.n_variables:
        warn(f"block_size={size} is clipped to the {problem.n_variables} variables", UserWarning, stacklevel=4)
        return problem.n_variables
    return size


def fixed_partition(problem: Problem, partition: Any, block_size: int, rng: np.random.Generator) -> list[Indices]:
    """Blocks of a named partition, or those that are given; columns of zeros are in none of the named ones."""
    if not isinstance(partition, str):
        return _given_blocks(partition, problem.n_variables)
    L = problem.lipschitz
    order = np.arange(len(L)) if partition == "order" else np.argsort(L, kind="stable")
    if partition == "random":
        order = rng.permutation(len(L))
    order = order[L[order] > 0]
    if partition == "average":
        half = (len(order) + 1) // 2
        mixed = np.empty_like(order)
        mixed[::2], mixed[1::2] = order[:half], order[half:][::-1]
        order = mixed
    return [np.sort(order[start : start + block_size]) for start in range(0, len(order), block_size)]


def _given_blocks(partition: Any, n_variables: int) -> list[Indices]:
    blocks = [np.asarray(block) for block in partition]
    if not blocks or any(block.ndim != 1 or not block.size or block.dtype.kind not in "iu" for block in blocks):
        raise ValueError("partition must be a list of arrays of variables' indices, none of them empty")
    members = np.concatenate(blocks)
    if members.min() < 0 or members.max() >= n_variables:
        raise ValueError(f"partition must hold indices in 0..{n_variables - 1}, got {members.min()}..{members.max()}")
    times = np.bincount(members, minlength=n_variables)
    if (times != 1).any():
        i = int(np.argmax(times != 1))
        raise ValueError(f"partition must hold each variable once, got variable {i} {times[i]} times")
    return [block.astype(np.int64) for block in blocks]


def selector(
    problem: Problem, partition: Any, selection: str, block_size: int, rng: np.random.Generator
) -> tuple[Callable[[State], Choice], FixedBlocks | None]:
    """Return the rule, and the fixed blocks where there are any."""
    check_choice("selection", selection, SELECTIONS)
    if isinstance(partition, str):
        check_choice("partition", partition, PARTITIONS)
        if partition == "forest":
            return _forest_rule(problem, selection, rng), None
        if partition == "variable":
            return _variable_rule(problem, selection, block_size, rng), None
    fixed = FixedBlocks(problem, fixed_partition(problem, partition, block_size, rng))
    return _fixed_rule(fixed, selection, rng), fixed


def _fixed_rule(fixed: FixedBlocks, selection: str, rng: np.random.Generator) -> Callable[[State], Choice]:
    count = len(fixed.blocks)

    def choice(number: int) -> Choice:
        return Choice(fixed.blocks[number], number)

    if selection == "random":
        return lambda state: choice(int(rng.integers(count)))
    if selection == "cyclic":
        turn = _turns(count)
        return lambda state: choice(next(turn))
    if selection == "lipschitz":
        chances = fixed.lipschitz / fixed.lipschitz.sum()
        return lambda state: choice(int(rng.choice(count, p=chances)))
    if selection == "GSQ":
        return lambda state: choice(int(np.argmax(fixed.matrix_decreases(state))))
    sizes = [len(block) for block in fixed.blocks]
    D = np.repeat(fixed.lipschitz, sizes) if selection == "GSL" else _diagonal(fixed.problem, selection)[fixed.members]
    return lambda state: choice(int(np.argmax(fixed.decreases(state, D))))


def _turns(count: int) -> Iterator[int]:
    while True:
        yield from range(count)


def _diagonal(problem: Problem, selection: str) -> Array:
    """Bound of the curvature of single coordinates by which a rule scores; positive, also where a column is zero."""
    L = problem.lipschitz
    D = {"GS": np.full_like(L, L.max()), "GSD": problem.dominating_diagonal}.get(selection, L)
    return np.where(D > 0, D, 1.0)


def _variable_rule(problem: Problem, selection: str, size: int, rng: np.random.Generator) -> Callable[[State], Choice]:
    curved = problem.lipschitz > 0
    eligible = np.flatnonzero(curved)
    size = min(size, len(eligible))
    if selection == "random":
        return lambda state: Choice(np.sort(rng.choice(eligible, size, replace=False)))
    if selection == "cyclic":
        passes = _random_passes(eligible, size, rng)
        return lambda state: Choice(next(passes))
    if selection == "lipschitz":
        chances = problem.lipschitz[eligible] / problem.lipschitz[eligible].sum()
        return lambda state: Choice(np.sort(rng.choice(eligible, size, replace=False, p=chances)))
    if selection == "GSQ":
        return _hard_thresholding(problem, size)
    D = _diagonal(problem, selection)
    return lambda state: Choice(_largest(diagonal_step(problem, state.x, state.gradient, D)[1], size, state.x, curved))


def _random_passes(eligible: Indices, size: int, rng: np.random.Generator) -> Iterator[Indices]:
    """Blocks of one random permutation after the other."""
    while True:
        order = rng.permutation(eligible)
        yield from (np.sort(order[start : start + size]) for start in range(0, len(order), size))


def _largest(scores: Array, size: int, x: Array, eligible: NDArray[np.bool_]) -> Indices:
    """Coordinates of the largest scores; of those that have none, the support of x comes first.

    A block that holds the support of the solution is what makes matrix updates end there.
    """
    ranks = np.where(scores > 0, scores, np.where(x != 0, -1.0, -2.0))
    ranks[~eligible] = -3.0
    return np.sort(np.argpartition(ranks, len(ranks) - size)[len(ranks) - size :])


def _hard_thresholding(problem: Problem, size: int) -> Callable[[State], Choice]:
    """GSQ by iterative hard thresholding: the sparse step that nearly minimises the model of all coordinates.

    Distances are measured by L_i, so that the scale of a variable is of no account; it starts at the step of GSL.
    """
    L = _diagonal(problem, "GSL")
    scale, curved = np.sqrt(L), problem.lipschitz > 0
    largest = power_method(lambda v: problem.bound_product(v / scale) / scale, problem.n_variables)
    # The power method comes from below.
    D = 1.01 * largest * L
    plain = not (problem.l1 or problem.nonnegative)

    def rule(state: State) -> Choice:
        x, G = state.x, state.gradient
        d, block = _kept(*diagonal_step(problem, x, G, L), size, x, curved)
        for _ in range(THRESHOLDINGS):
            u = x + d - (G + problem.bound_product(d)) / D
            v = u if plain else proximal(u, problem.l1 / D, problem.nonnegative)
            # What each coordinate gains in this step's model by moving at all.
            gains = 0.5 * D * ((x - u) ** 2 - (v - u) ** 2) + problem.l1 * (np.abs(x) - np.abs(v))
            d, block = _kept(v - x, gains, size, x, curved)
        return Choice(block)

    return rule


def _kept(d: Array, scores: Array, size: int, x: Array, eligible: NDArray[np.bool_]) -> tuple[Array, Indices]:
    block = _largest(scores, size, x, eligible)
    kept = np.zeros_like(d)
    kept[block] = d[block]
    return kept, block


def power_method(product: Callable[[Array], Array], n: int, steps: int = 100) -> float:
    """Largest eigenvalue of a semidefinite operator, from below."""
    vector = np.random.default_rng(0).random(n) + 0.5
    value = 0.0
    for _ in range(steps):
        vector /= np.linalg.norm(vector)
        image = product(vector)
        before, value = value, float(np.linalg.norm(image))
        if value <= before * (1 + 1e-4) or not value:
            break
        vector = image
    return value or 1.0


def _forest_rule(problem: Problem, selection: str, rng: np.random.Generator) -> Callable[[State], Choice]:
    """Blocks that are forests, gathered anew each time."""
    if not isinstance(problem, QuadraticProblem) or problem.l1 or problem.nonnegative:
        raise ValueError("partition='forest' needs a quadratic_problem without l1 and nonnegative")
    check_choice("selection with partition='forest'", selection, ("random", "GS", "GSL", "GSD"))
    A = problem.rows if problem.sparse else _as_sparse(problem.rows)
    if selection == "random":
        return lambda state: Choice(greedy_forest(A.indptr, A.indices, rng.permutation(problem.n_variables)))
    D = _diagonal(problem, selection)

    def rule(state: State) -> Choice:
        scores = diagonal_step(problem, state.x, state.gradient, D)[1]
        return Choice(greedy_forest(A.indptr, A.indices, np.argsort(-scores, kind="stable")))

    return rule


def _as_sparse(A: Array) -> Any:
    return csr_array(A)
