"""What a paper says, and what one run of the experiment measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from math import isnan
from typing import Literal

__all__ = ["Across", "Claim", "Criterion", "Curve", "Measurement", "Scale", "at_least", "at_most", "claim", "claims_of"]

Scale = Literal["small", "full"]
Across = Literal["median", "mean", "every"]


@dataclass(frozen=True)
class Criterion:
    """One number that was measured, and the threshold that it is held to.

    Attributes
    ----------
    name : str
        What the number is.
    value : float
        The number, from one seed.
    direction : {"at least", "at most"}
        On which side of the threshold the paper's statement holds.
    threshold : float
        The threshold.
    unit : str
        Written behind the number: ``"x"``, ``"s"``, ``"%"``.
    across : {"median", "mean", "every"}
        How several seeds are judged: by their median, by their mean, or each of them.
    """

    name: str
    value: float
    direction: Literal["at least", "at most"]
    threshold: float
    unit: str = ""
    across: Across = "median"

    def met_by(self, value: float) -> bool:
        """Whether ``value`` is on the right side of the threshold; NaN never is."""
        if isnan(value):
            return False
        return value >= self.threshold if self.direction == "at least" else value <= self.threshold


def at_least(name: str, value: float, threshold: float, *, unit: str = "", across: Across = "median") -> Criterion:
    """State that ``value`` must be at least ``threshold``.

    Parameters
    ----------
    name : str
        What the number is.
    value : float
        What was measured.
    threshold : float
        What it is held to.
    unit : str, optional
        Written behind the number.
    across : {"median", "mean", "every"}, default "median"
        How several seeds are judged.

    Returns
    -------
    Criterion
        The measured number beside its threshold.
    """
    return Criterion(name, float(value), "at least", float(threshold), unit, across)


def at_most(name: str, value: float, threshold: float, *, unit: str = "", across: Across = "median") -> Criterion:
    """State that ``value`` must be at most ``threshold``; parameters as in `at_least`."""
    return Criterion(name, float(value), "at most", float(threshold), unit, across)


@dataclass(frozen=True)
class Curve:
    """A line for the report, such as an error against a count of iterations.

    Attributes
    ----------
    label : str
        Name of the line.
    x, y : sequence of float
        The points.
    x_label, y_label : str
        Names of the axes; curves of one claim that share both are drawn together.
    log_x, log_y : bool
        Whether an axis is logarithmic.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    x_label: str
    y_label: str
    log_x: bool = False
    log_y: bool = False


@dataclass(frozen=True)
class Measurement:
    """What one run of a claim's experiment measured.

    Attributes
    ----------
    criteria : sequence of Criterion
        The numbers that decide the verdict; the first one is the headline.
    figures : mapping of str to float
        Further numbers, which the claim's ``measured`` text may name.
    curves : sequence of Curve
        Lines for the report.
    note : str
        What a reader should know of this measurement; in particular why it fails, where that is known.
    """

    criteria: Sequence[Criterion]
    figures: Mapping[str, float] = field(default_factory=dict)
    curves: Sequence[Curve] = ()
    note: str = ""


@dataclass(frozen=True)
class Claim:
    """A statement of a paper with the experiment that re-checks it.

    Calling the claim runs its experiment once: ``claim(scale="small", seed=0)``.

    Attributes
    ----------
    slug : str
        The paper.
    name : str
        The claim's name within the paper: the function's name, with hyphens.
    title : str
        The claim in a few words.
    statement : str
        What the paper says, in our words: the function's docstring.
    published : str
        The published figure, or what is said in its place.
    where : str
        Where in the paper it stands.
    measured : str
        Format string over the names of `Measurement.figures`, to be read beside ``published``.
    seeds : int
        Number of seeds; the seeds are 0, 1, 2, ... and never searched.
    proxy : str
        What stands in for the paper's data or scale, if something does.
    """

    slug: str
    name: str
    title: str
    statement: str
    published: str
    where: str
    measured: str
    seeds: int
    proxy: str
    experiment: Callable[[Scale, int], Measurement] = field(repr=False, compare=False)

    def __call__(self, scale: Scale = "small", seed: int = 0) -> Measurement:
        """Run the experiment once.

        Parameters
        ----------
        scale : {"small", "full"}, default "small"
            ``"small"`` takes at most a minute on two cores.
        seed : int, default 0
            Seed of all that is random in it.

        Returns
        -------
        Measurement
            What was measured, beside its thresholds.
        """
        return self.experiment(scale, seed)


def claim(
    title: str, *, published: str, where: str, measured: str, seeds: int = 1, proxy: str = ""
) -> Callable[[Callable[[Scale, int], Measurement]], Claim]:
    """Make a claim of a function ``(scale, seed) -> Measurement`` in a paper's ``claims.py``.

    The function's name becomes the claim's name and its docstring the statement.

    Parameters
    ----------
    title : str
        The claim in a few words.
    published : str
        The published figure, as short as ``"29 against 56,199"``.
    where : str
        Where in the paper it stands, such as ``"Table 1"``.
    measured : str
        Format string over the measurement's figures, such as ``"{newton:,.0f} against {sinkhorn:,.0f}"``.
    seeds : int, default 1
        How many seeds the experiment is run with.
    proxy : str, optional
        Names what stands in for the paper's data or scale.

    Returns
    -------
    callable
        The decorator.
    """

    def wrap(experiment: Callable[[Scale, int], Measurement]) -> Claim:
        statement = (experiment.__doc__ or "").strip()
        if not statement:
            raise ValueError(f"claim {experiment.__name__} needs a docstring that says what the paper says")
        slug = experiment.__module__.split(".")[-2].replace("_", "-")
        name = experiment.__name__.replace("_", "-")
        return Claim(slug, name, title, statement, published, where, measured, seeds, proxy, experiment)

    return wrap


def claims_of(slug: str) -> list[Claim]:
    """The claims of one paper, in the order of its ``claims.py``.

    Parameters
    ----------
    slug : str
        The paper.

    Returns
    -------
    list of Claim
        Its claims.

    Raises
    ------
    UnknownPaperError
        If there is no such paper.
    """
    from paperworks.catalog import card

    module = import_module(f"paperworks.papers.{card(slug).name}.claims")
    return [value for value in vars(module).values() if isinstance(value, Claim)]
