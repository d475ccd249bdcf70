"""Where data sets come from, and whether they are here."""

import os
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

__all__ = ["Source", "UnavailableError", "catalog", "source"]

Manager = Literal["bundled", "pip-wheel", "pip-source", "npm", "apt"]


class UnavailableError(RuntimeError):
    """Data can't be had here; the message names the package that holds it. A claim that needs it is skipped."""


@dataclass(frozen=True)
class Source:
    """A data set and the package that carries it.

    Attributes
    ----------
    name : str
        Name of the data set; its loader is ``load_<name>``.
    title : str
        What it is.
    manager : {"bundled", "pip-wheel", "pip-source", "npm", "apt"}
        How it comes here; ``"bundled"`` is carried by a dependency.
    package, version : str
        The package.
    file, sha256 : str
        The file that the package manager downloads, and its checksum.
    size : str
        Size of that file.
    licence : str
        Licence of the data, as stated by the package.
    members : tuple of str
        What is unpacked from the file.
    """

    name: str
    title: str
    manager: Manager
    package: str
    version: str
    file: str
    sha256: str
    size: str
    licence: str
    members: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where its files lie once they are here."""
        return cache_folder() / f"{self.name}-{self.version}"

    @property
    def present(self) -> bool:
        """Whether it is here."""
        return self.manager == "bundled" or self.folder.is_dir()

    def path(self, member: str) -> Path:
        """Path of the unpacked member of this file name."""
        return self.folder / member


BUNDLED = (
    Source(
        "digits", "Handwritten digits: 1,797 grey pictures, 8 x 8, 10 classes", "bundled", "scikit-learn", "", "", "",
        "-", "BSD-3-Clause (UCI, CC BY 4.0)", (),
    ),
    Source(
        "china_flower", "Two photographs in colour, 427 x 640: a temple and a flower", "bundled", "scikit-learn", "",
        "", "", "-", "CC BY", (),
    ),
)  # fmt: skip


def cache_folder() -> Path:
    """Folder of data that were brought: the user's cache folder, or ``PAPERWORKS_DATA``.

    Returns
    -------
    Path
        The folder, which need not exist yet.
    """
    if chosen := os.environ.get("PAPERWORKS_DATA"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("paperworks", appauthor=False) / "data"


@cache
def catalog() -> tuple[Source, ...]:
    """Every data set, those that dependencies carry first.

    Returns
    -------
    tuple of Source
        The data sets.
    """
    table = tomllib.loads(Path(__file__).with_name("sources.toml").read_text(encoding="utf-8"))
    brought = (Source(name, **{**row, "members": tuple(row["members"])}) for name, row in table.items())
    return (*BUNDLED, *brought)


def source(name: str) -> Source:
    """The data set of this name; hyphens count as underscores.

    Parameters
    ----------
    name : str
        Name of a data set.

    Returns
    -------
    Source
        Where it comes from.

    Raises
    ------
    ValueError
        If there is none; the message names those that there are.
    """
    by_name = {each.name: each for each in catalog()}
    wanted = name.replace("-", "_").lower()
    if wanted not in by_name:
        raise ValueError(f"no data set {name!r}; there are {', '.join(by_name)}")
    return by_name[wanted]
