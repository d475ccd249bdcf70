"""Races: our method and its peers, side by side in one process, at equal accuracy."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from statistics import median
from threading import Event, Thread
from time import perf_counter, sleep
from typing import Any

import psutil


class NotHere(Exception):
    """A peer can't take part; the message says why, and the table repeats it."""


@dataclass(frozen=True)
class Contestant:
    """One who races.

    Attributes
    ----------
    name : str
        Whose method it is, such as ``"POT sinkhorn_log"``.
    run : callable
        Takes nothing, returns the result whose accuracy is judged. It may raise ImportError or `NotHere`.
    """

    name: str
    run: Callable[[], Any]


@dataclass(frozen=True)
class Race:
    """One contest.

    Attributes
    ----------
    title : str
        What is solved, with its size and tolerance.
    ours : Contestant
        Our method.
    peers : sequence of Contestant
        The others.
    accuracy_name : str
        What is compared besides time, such as ``"marginal error"``.
    accuracy : callable
        Accuracy of a result.
    aim : str
        The ratio that is aimed at, in words.
    repeats : int
        Timed runs of each, interleaved, after one untimed run; a run of over 20 s is not repeated.
    """

    title: str
    ours: Contestant
    peers: list[Contestant]
    accuracy_name: str
    accuracy: Callable[[Any], float]
    aim: str = ""
    repeats: int = 5


@dataclass
class Row:
    """A contestant's medians, as they are stored."""

    contestant: str
    seconds: float | None = None
    spread: float | None = None
    peak_mebibytes: float | None = None
    accuracy: float | None = None
    runs: int = 0
    why_not: str = ""


@dataclass
class Outcome:
    """A race as it is stored in ``docs/races.json``."""

    slug: str
    title: str
    aim: str
    accuracy_name: str
    rows: list[Row] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain types, for JSON."""
        return asdict(self)


LONG = 20.0


def run_race(slug: str, race: Race, say: Callable[[str], None] = print) -> Outcome:
    """Run one race and return its medians; the first row is ours."""
    contestants = [race.ours, *race.peers]
    rows = {each.name: Row(each.name) for each in contestants}
    seconds: dict[str, list[float]] = {each.name: [] for each in contestants}
    for each in contestants:
        row = rows[each.name]
        try:
            start = perf_counter()
            result, row.peak_mebibytes = _with_peak_memory(each.run)
            first = perf_counter() - start
            row.accuracy = float(race.accuracy(result))
        except (ImportError, NotHere) as error:
            row.why_not = str(error).splitlines()[0]
        else:
            if first > LONG:
                seconds[each.name].append(first)
        say(f"  {each.name}: {row.why_not or f'{first:.3g} s the first time'}")
    for _ in range(race.repeats):
        for each in contestants:
            row = rows[each.name]
            if row.why_not or (seconds[each.name] and seconds[each.name][0] > LONG):
                continue
            start = perf_counter()
            each.run()
            seconds[each.name].append(perf_counter() - start)
    for name, times in seconds.items():
        if times:
            rows[name].seconds, rows[name].spread, rows[name].runs = median(times), max(times) - min(times), len(times)
    return Outcome(slug, race.title, race.aim, race.accuracy_name, list(rows.values()))


def _with_peak_memory(run: Callable[[], Any]) -> tuple[Any, float]:
    """Run once and return the result with the growth of resident memory at its peak, in MiB."""
    process, stop = psutil.Process(), Event()
    before = peak = process.memory_info().rss

    def watch() -> None:
        nonlocal peak
        while not stop.is_set():
            peak = max(peak, process.memory_info().rss)
            sleep(0.002)

    thread = Thread(target=watch, daemon=True)
    thread.start()
    try:
        result = run()
    finally:
        stop.set()
        thread.join()
    return result, max(0, peak - before) / 2**20
