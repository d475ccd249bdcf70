"""Progress bars on stderr, off by themselves when that is no terminal."""

from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def progress_bar(steps: Iterable[T], description: str, progress: bool = True, *, total: int | None = None) -> "tqdm[T]":
    """Iterate over ``steps`` with a bar.

    Parameters
    ----------
    steps : iterable
        What to iterate over.
    description : str
        Words before the bar.
    progress : bool, default True
        False turns the bar off; True still shows none where stderr is no terminal.
    total : int, optional
        Number of steps where ``steps`` has no length.
    """
    return tqdm(
        steps, desc=description, total=total, disable=None if progress else True, leave=False, dynamic_ncols=True
    )
