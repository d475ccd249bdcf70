"""The verdict on a claim: computed from what was measured and its thresholds, never written down."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from statistics import fmean, median
from typing import Any, Literal

from paperworks.claims._claim import Across, Claim, Criterion, Curve, Measurement

__all__ = ["Judged", "Outcome", "Verdict", "format_number", "judge"]

Outcome = Literal["holds", "fails", "skipped", "error"]


@dataclass(frozen=True)
class Judged:
    """A criterion over all seeds.

    Attributes
    ----------
    name : str
        What the number is.
    values : tuple of float
        The number from each seed.
    value : float
        What is held against the threshold: their median, their mean, or the worst of them.
    direction : {"at least", "at most"}
        On which side of the threshold the statement holds.
    threshold : float
        The threshold.
    unit : str
        Unit of the number.
    across : {"median", "mean", "every"}
        How ``value`` comes from ``values``.
    met : bool
        Whether it is on the right side.
    """

    name: str
    values: tuple[float, ...]
    value: float
    direction: Literal["at least", "at most"]
    threshold: float
    unit: str
    across: Across
    met: bool

    @property
    def spread(self) -> float:
        """Largest minus smallest value."""
        return max(self.values) - min(self.values)

    def __str__(self) -> str:
        """Value and threshold, as in ``1,530x (at least 100x)``."""
        value, threshold = format_number(self.value), format_number(self.threshold)
        return f"{value}{self.unit} ({self.direction} {threshold}{self.unit})"


@dataclass(frozen=True)
class Verdict:
    """What became of one claim: everything that the ledger keeps of it.

    Attributes
    ----------
    slug, claim, title, published, where, proxy : str
        The paper and the claim, as in `Claim`.
    outcome : {"holds", "fails", "skipped", "error"}
        ``holds`` if every criterion is met, ``skipped`` if data can't be had, ``error`` if the experiment crashed or
        outlived its time limit.
    measured : str
        What was measured, to be read beside ``published``; medians over seeds.
    criteria : tuple of Judged
        The numbers that decided; the first is the headline.
    figures : mapping
        Medians of the measurement's further numbers.
    curves : tuple of Curve
        Lines of the first seed, for the report.
    note : str
        What a reader should know; for ``skipped``, what is missing.
    traceback : str
        Of an ``error``.
    seeds : int
        Number of seeds that were run.
    seconds : float
        Wall-clock time of all of them.
    scale : str
        ``"small"`` or ``"full"``.
    date, device, processor : str
        When and on what.
    versions : mapping
        Versions of Python, paperworks and what it stands on.
    """

    slug: str
    claim: str
    title: str
    published: str
    where: str
    proxy: str
    outcome: Outcome
    measured: str
    criteria: tuple[Judged, ...]
    figures: Mapping[str, float]
    curves: tuple[Curve, ...]
    note: str
    traceback: str
    seeds: int
    seconds: float
    scale: str
    date: str = ""
    device: str = ""
    processor: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def headline(self) -> Judged | None:
        """The criterion to show: the first that is not met, else the first."""
        return next((each for each in self.criteria if not each.met), self.criteria[0] if self.criteria else None)

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> "Verdict":
        """Read back what `as_dict` wrote; keys of a later version are passed over."""
        known = {each.name for each in fields(cls)}
        values = {key: value for key, value in record.items() if key in known}
        values["criteria"] = tuple(Judged(**{**each, "values": tuple(each["values"])}) for each in record["criteria"])
        values["curves"] = tuple(Curve(**each) for each in record["curves"])
        return cls(**values)


def judge(
    claim: Claim, measurements: Sequence[Measurement], *, scale: str, seconds: float, **circumstances: Any
) -> Verdict:
    """Compute the verdict from one measurement a seed.

    Parameters
    ----------
    claim : Claim
        What was measured.
    measurements : sequence of Measurement
        One a seed, all with the same criteria.
    scale : str
        Scale of the experiment.
    seconds : float
        How long it took.
    **circumstances
        ``date``, ``device``, ``processor`` and ``versions`` of the verdict.

    Returns
    -------
    Verdict
        ``holds`` or ``fails``.

    Raises
    ------
    ValueError
        If there is no criterion, or the seeds have different ones.
    """
    names = [tuple(each.name for each in one.criteria) for one in measurements]
    if not names or not names[0] or len(set(names)) != 1:
        raise ValueError(f"every seed of {claim.slug}/{claim.name} must have the same criteria, got {names}")
    criteria = tuple(_judged(same) for same in zip(*(one.criteria for one in measurements), strict=True))
    figures = {key: median(one.figures[key] for one in measurements) for key in measurements[0].figures}
    notes = dict.fromkeys(one.note for one in measurements if one.note)
    return Verdict(
        **_of(claim),
        outcome="holds" if all(each.met for each in criteria) else "fails",
        measured=claim.measured.format(**figures),
        criteria=criteria,
        figures=figures,
        curves=tuple(measurements[0].curves),
        note="\n".join(notes),
        traceback="",
        seeds=len(measurements),
        seconds=seconds,
        scale=scale,
        **circumstances,
    )


def unmeasured(
    claim: Claim,
    outcome: Literal["skipped", "error"],
    *,
    scale: str,
    seconds: float,
    note: str = "",
    traceback: str = "",
    **circumstances: Any,
) -> Verdict:
    """Return the verdict on a claim that could not be measured."""
    return Verdict(
        **_of(claim),
        outcome=outcome,
        measured="",
        criteria=(),
        figures={},
        curves=(),
        note=note,
        traceback=traceback,
        seeds=0,
        seconds=seconds,
        scale=scale,
        **circumstances,
    )


def _of(claim: Claim) -> dict[str, Any]:
    return {
        "slug": claim.slug,
        "claim": claim.name,
        "title": claim.title,
        "published": claim.published,
        "where": claim.where,
        "proxy": claim.proxy,
    }


def _judged(same: Iterable[Criterion]) -> Judged:
    seeds = list(same)
    first, values = seeds[0], tuple(each.value for each in seeds)
    if any(each.threshold != first.threshold or each.direction != first.direction for each in seeds):
        raise ValueError(f"criterion {first.name!r} must have one threshold for all seeds")
    if any(value != value for value in values):
        value = float("nan")
    elif first.across == "every":
        value = min(values) if first.direction == "at least" else max(values)
    else:
        value = fmean(values) if first.across == "mean" else median(values)
    return Judged(
        first.name, values, value, first.direction, first.threshold, first.unit, first.across, first.met_by(value)
    )


def format_number(value: float) -> str:
    """Three digits that matter, with commas in thousands."""
    size = abs(value)
    if value != value or size == float("inf"):
        return str(value)
    if size and (size >= 1e7 or size < 1e-3):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.3g}"
