"""``paperworks run``: a paper's method on the user's files."""

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

from cyclopts import App, Parameter

from paperworks import __version__
from paperworks._extras import MissingExtraError
from paperworks.catalog import Card, card
from paperworks.datasets import UnavailableError

# What a user's input can cause; anything else is a defect of ours and keeps its traceback.
INPUT_ERRORS = (ValueError, TypeError, OSError, MissingExtraError, UnavailableError)


def run_paper(slug: str, arguments: Sequence[str]) -> int:
    """Parse the arguments by the signature of the paper's ``run``, call it, and keep its results.

    Parameters
    ----------
    slug : str
        The paper.
    arguments : sequence of str
        Files and options.

    Returns
    -------
    int
        Exit status: 0, or 2 after one line that says what is wrong with the input.
    """
    paper = card(slug)
    function = import_module(f"paperworks.papers.{paper.name}.run").run
    command = App(
        name=f"paperworks run {paper.slug}", version_flags=[], default_parameter=Parameter(negative_iterable=())
    )
    command.default(function)
    if any(word in {"--help", "-h"} for word in arguments):
        command.help_print([])
        return 0
    _, bound, _ = command.parse_args(list(arguments))
    out = Path(bound.arguments["out"])
    try:
        return _run_into(paper, function, bound, out)
    except INPUT_ERRORS as error:
        if os.environ.get("PAPERWORKS_TRACEBACK"):
            raise
        # The system's own errors carry the path apart from the message.
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


def _run_into(paper: Card, function: Callable[..., dict[str, Any]], bound: Any, out: Path) -> int:
    """Work in a folder beside ``out``, which takes its place only when everything is written."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: already exists; name another --out, nothing was overwritten")
    out.parent.mkdir(parents=True, exist_ok=True)
    working = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        bound.arguments["out"] = working
        start = perf_counter()
        result = function(*bound.args, **bound.kwargs)
        summary = {
            "paper": paper.slug,
            "arxiv": paper.arxiv,
            "input": result.pop("input"),
            "result": result,
            "options": {key: _plain(value) for key, value in bound.arguments.items() if key not in {"out", "files"}},
            "seconds": round(perf_counter() - start, 3),
            "paperworks": __version__,
        }
        text = json.dumps(summary, indent=2, default=_plain)
        (working / "summary.json").write_text(text + "\n", encoding="utf-8")
        working.chmod(0o755)
        if out.exists():
            out.rmdir()
        working.rename(out)
    finally:
        shutil.rmtree(working, ignore_errors=True)
    print(f"{paper.slug}  {paper.title} (arXiv {paper.arxiv})")
    print(f"  input: {summary['input']}")
    for key, value in result.items():
        print(f"  {key.replace('_', ' ')}: {_short(value)}")
    print("wrote " + "\n      ".join(str(path) for path in sorted(out.rglob("*")) if path.is_file()))
    return 0


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(_plain(value))
    return text if len(text) <= 100 else text[:97] + "..."
