"""One self-contained page from the cards and the ledger."""

from collections import Counter
from collections.abc import Sequence
from datetime import date
from io import StringIO
from pathlib import Path
from typing import Any

from paperworks.catalog import Card, cards
from paperworks.claims import Curve, Verdict, default_ledger, format_number, latest, read_ledger

__all__ = ["write_report"]


def write_report(out: Path, *, ledger: Path | None = None) -> Path:
    """Write the report: papers by family, how to call each, and its claims with what was measured.

    Parameters
    ----------
    out : Path
        File to write; it needs no network and nothing beside it.
    ledger : Path, optional
        Ledger to read; by default the one in the user's data folder.

    Returns
    -------
    Path
        ``out``.

    Examples
    --------
    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from paperworks.report import write_report
    >>> with TemporaryDirectory() as folder:
    ...     page = write_report(Path(folder, "report.html"), ledger=Path(folder, "none"))
    ...     "sinkhorn-newton-sparse" in page.read_text()
    True
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    records = list(latest(read_ledger(ledger or default_ledger())).values())
    environment = Environment(
        loader=PackageLoader("paperworks.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["number"] = format_number
    families = [(family, [_paper(card, records) for card in cards(family=family)]) for family in _families()]
    known = {card.slug for card in cards()}
    counts = Counter(each.outcome for each in records if each.slug in known)
    page = environment.get_template("report.html.j2").render(
        families=families, counts=counts, today=date.today().isoformat(), machines=_machines(records)
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(page, encoding="utf-8")
    return out


def _families() -> tuple[str, ...]:
    from paperworks.catalog import families

    return families()


def _paper(card: Card, records: Sequence[Verdict]) -> dict[str, Any]:
    found = [each for each in records if each.slug == card.slug]
    claims = [{"verdict": each, "pictures": _pictures(each)} for each in found]
    return {"card": card, "claims": claims, "counts": Counter(each.outcome for each in found)}


def _machines(records: Sequence[Verdict]) -> list[str]:
    lines = []
    for each in records:
        versions = ", ".join(f"{name} {version}" for name, version in each.versions.items())
        lines.append(f"{each.processor}; {each.device}; {versions}")
    return list(dict.fromkeys(lines))


def _pictures(verdict: Verdict) -> list[str]:
    """One SVG for the curves that share their axes."""
    groups: dict[tuple[str, str], list[Curve]] = {}
    for curve in verdict.curves:
        groups.setdefault((curve.x_label, curve.y_label), []).append(curve)
    return [_svg(group, f"{verdict.slug}/{verdict.claim}/{axes}") for axes, group in groups.items()]


def _svg(curves: Sequence[Curve], salt: str) -> str:
    import matplotlib as mpl
    from matplotlib.figure import Figure
    from matplotlib.ticker import NullLocator

    # The salt keeps the ids of the page's pictures apart; text stays text, in the page's own font.
    with mpl.rc_context({"svg.hashsalt": salt, "svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9}):
        figure = Figure(figsize=(4.6, 3.0), layout="constrained")
        figure.patch.set_alpha(0.0)
        axis = figure.subplots()
        axis.patch.set_alpha(0.0)
        for curve in curves:
            marker = "o-" if len(curve.x) <= 12 else "-"
            axis.plot(curve.x, curve.y, marker, label=curve.label, markersize=4, linewidth=1.6)
        first = curves[0]
        axis.set(xlabel=first.x_label, ylabel=first.y_label)
        axis.set_xscale("log" if first.log_x else "linear")
        axis.set_yscale("log" if first.log_y else "linear")
        places = sorted({float(x) for curve in curves for x in curve.x})
        if first.log_x and len(places) <= 8:
            # Few places: name them, instead of the decades between which they lie.
            axis.set_xticks(places, [format_number(x) for x in places])
            axis.xaxis.set_minor_locator(NullLocator())
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25, linewidth=0.6)
        if len(curves) > 1:
            axis.legend(frameon=False, fontsize=8)
        stream = StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
