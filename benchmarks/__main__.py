"""Run the races: ``python -m benchmarks [FAMILY ...]``, and write ``docs/races.json`` and ``docs/races.md``."""

import json
import os
import platform
import sys
from datetime import date
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks.racing import run_race
from paperworks.catalog import card, cards
from paperworks.claims import format_number

ROOT = Path(__file__).parent
DOCS = ROOT.parent / "docs"
STORE, PAGE = DOCS / "races.json", DOCS / "races.md"


def main(wanted: list[str]) -> None:
    """Race the papers of some families, or some papers, and write the table anew.

    Parameters
    ----------
    wanted : list of str
        Families or slugs; everything when empty.
    """
    stored: dict[str, Any] = json.loads(STORE.read_text(encoding="utf-8")) if STORE.exists() else {}
    for paper in cards():
        if wanted and not {paper.family, paper.slug} & set(wanted):
            continue
        module = import_module(f"benchmarks.{paper.family}.bench_{paper.name}")
        print(paper.slug)
        outcomes = []
        for race in module.races():
            print(f" {race.title}")
            outcomes.append(run_race(paper.slug, race).as_dict())
        stored[paper.slug] = {"on": _circumstances(paper.peers), "races": outcomes}
        # After each paper, so that an interrupt loses none that is finished.
        STORE.write_text(json.dumps(dict(sorted(stored.items())), indent=1) + "\n", encoding="utf-8")
        PAGE.write_text(page(stored), encoding="utf-8")
    print(f"wrote {PAGE}")


def page(stored: dict[str, Any]) -> str:
    """Lay out the table of ratios from what is stored.

    Parameters
    ----------
    stored : dict
        Races by slug.
    """
    lines = [
        "# Races",
        "",
        "Our methods and the libraries that users have today, side by side in one process: medians of several runs,",
        "after one untimed run. A ratio above 1 means that ours is faster. Peak memory is the growth of the process in",
        "the untimed run, which includes what a library loads or compiles when it is first used. `make bench` writes",
        "this page.",
        "",
    ]
    for slug, entry in stored.items():
        paper = card(slug)
        lines += [f"## {slug}", "", f"*{paper.title}*. {entry['on']}", ""]
        for race in entry["races"]:
            lines += _table(race)
    return "\n".join(lines).rstrip() + "\n"


def _table(race: dict[str, Any]) -> list[str]:
    ours = race["rows"][0]
    title = race["title"] + (f" (aim: {race['aim']})" if race["aim"] else "")
    lines = [f"**{title}**", "", f"| | seconds | ratio | {race['accuracy_name']} | peak MiB | runs |"]
    lines += ["|---|---:|---:|---:|---:|---:|"]
    for row in race["rows"]:
        if row["why_not"]:
            lines.append(f"| {row['contestant']} | | | not here: {row['why_not'].replace('|', ' ')} | | |")
            continue
        ratio = "1" if row is ours or not ours["seconds"] else format_number(row["seconds"] / ours["seconds"])
        cells = [row["contestant"], format_number(row["seconds"]), f"{ratio}x", format_number(row["accuracy"])]
        lines.append(f"| {' | '.join([*cells, format_number(row['peak_mebibytes']), str(row['runs'])])} |")
    return [*lines, ""]


def _circumstances(peers: tuple[str, ...]) -> str:
    from paperworks.claims._running import _processor

    found = [f"Python {platform.python_version()}"]
    for name in ("numpy", "torch", *peers):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    threads = os.environ.get("OMP_NUM_THREADS", "all")
    return f"{date.today().isoformat()}; {_processor()}; threads: {threads}; {', '.join(found)}."


if __name__ == "__main__":
    main(sys.argv[1:])
