"""The ledger: one JSON line a measurement, appended whole and never rewritten."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from warnings import warn

from paperworks.claims._verdict import Verdict

__all__ = ["append", "default_ledger", "latest", "read_ledger"]

VERSION = 1


def default_ledger() -> Path:
    """Where the ledger lies unless told otherwise: the user's data folder.

    Returns
    -------
    Path
        ``paperworks/ledger.jsonl`` there.
    """
    from platformdirs import user_data_path

    return user_data_path("paperworks", appauthor=False) / "ledger.jsonl"


def append(verdict: Verdict, ledger: Path) -> None:
    """Append one record by a single write, after mending a line that an earlier write left unfinished."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps({"version": VERSION, **verdict.as_dict()}, ensure_ascii=False) + "\n"
    with ledger.open("ab") as file:
        if file.tell() and _last_byte(ledger) != b"\n":
            line = "\n" + line
        # O_APPEND and one write: records of processes that share the ledger do not mix.
        os.write(file.fileno(), line.encode())
        os.fsync(file.fileno())


def read_ledger(ledger: Path) -> list[Verdict]:
    """Every record, oldest first.

    Parameters
    ----------
    ledger : Path
        The file; one that does not exist holds nothing.

    Returns
    -------
    list of Verdict
        The records. A line that can't be read is passed over with a warning that names it.

    Warns
    -----
    UserWarning
        For each line that can't be read, such as a last one that was cut off.
    """
    if not ledger.exists():
        return []
    verdicts = []
    for number, line in enumerate(ledger.read_bytes().split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            verdicts.append(Verdict.from_dict(json.loads(line)))
        except (ValueError, KeyError, TypeError) as error:
            warn(f"{ledger}:{number}: passed over, not a whole record ({error})", stacklevel=2)
    return verdicts


def latest(verdicts: Iterable[Verdict], *, scale: str | None = None) -> dict[tuple[str, str], Verdict]:
    """The newest record of each claim.

    Parameters
    ----------
    verdicts : iterable of Verdict
        Records, oldest first.
    scale : str, optional
        Only records of this scale.

    Returns
    -------
    dict
        By (slug, claim).
    """
    return {(each.slug, each.claim): each for each in verdicts if scale is None or each.scale == scale}


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
