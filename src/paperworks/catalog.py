"""The catalog: every paper's card, read without importing any method.

A card is ``papers/<name>/card.toml``. Adding that file is all it takes for a paper to be listed, found, documented
and checked.
"""

import os
import re
import tomllib
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from math import log
from pathlib import Path
from typing import Any

__all__ = ["Card", "CardError", "UnknownPaperError", "card", "cards", "families", "folders", "read_card", "search"]

PAPERS = Path(__file__).parent / "papers"


class CardError(ValueError):
    """A card that can't be read, or that lacks something: the message names the file and the line."""


class UnknownPaperError(LookupError):
    """No paper has this slug: the message suggests the nearest ones."""


@dataclass(frozen=True)
class Card:
    """What is known of one paper before any of its code is imported.

    Attributes
    ----------
    slug : str
        The paper's name in every room of the house, such as ``"sinkhorn-newton-sparse"``.
    title : str
        The paper's title.
    authors : tuple of str
        Authors, in the paper's order.
    arxiv : str
        arXiv identifier.
    venue : str
        Where it appeared.
    year : int
        Year of that.
    family : str
        The package that holds the method.
    summary : str
        One paragraph in our words.
    public : tuple of str
        Public names of the method's module.
    tags : tuple of str
        Words that a reader might look for, abbreviations included.
    peers : tuple of str
        Libraries that the method is raced against.
    cost : str
        Time and memory, in big-O.
    example : str
        A few lines of Python that call the method and run as they stand.
    authors_code : str
        Where the authors' code is, or empty.
    """

    slug: str
    title: str
    authors: tuple[str, ...]
    arxiv: str
    venue: str
    year: int
    family: str
    summary: str
    public: tuple[str, ...]
    tags: tuple[str, ...]
    peers: tuple[str, ...]
    cost: str
    example: str
    authors_code: str = ""

    @property
    def name(self) -> str:
        """The slug as a Python name: the paper's folder and module."""
        return self.slug.replace("-", "_")

    @property
    def module(self) -> str:
        """Dotted path of the module that holds the method."""
        return f"paperworks.{self.family}.{self.name}"

    @property
    def url(self) -> str:
        """Address of the paper."""
        return f"https://arxiv.org/abs/{self.arxiv}"


_KINDS: dict[str, Any] = {
    "slug": str, "title": str, "authors": list, "arxiv": str, "venue": str, "year": int, "family": str, "summary": str,
    "public": list, "tags": list, "peers": list, "cost": str, "example": str, "authors_code": str,
}  # fmt: skip
_OPTIONAL = {"authors_code"}


def read_card(path: Path) -> Card:
    """Read and validate one card.

    Parameters
    ----------
    path : Path
        The ``card.toml``; the name of its folder must be the slug.

    Returns
    -------
    Card
        The validated card.

    Raises
    ------
    CardError
        If the file is not TOML, or a key is missing, unknown or of the wrong type. The message gives the line.
    """
    text = path.read_text(encoding="utf-8")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        line = re.search(r"line (\d+)", str(error))
        where = line[1] if line else str(text.count("\n") + 1)
        raise CardError(f"{path}:{where}: not valid TOML: {error}") from None

    def fail(key: str, problem: str) -> CardError:
        found = re.search(rf"^\s*{re.escape(key)}\s*=", text, re.MULTILINE)
        line = text.count("\n", 0, found.start()) + 1 if found else max(1, text.count("\n"))
        return CardError(f"{path}:{line}: {problem}")

    for key in table:
        if key not in _KINDS:
            near = get_close_matches(key, _KINDS, 1)
            raise fail(key, f"unknown key {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
    for key, kind in _KINDS.items():
        if key not in table:
            if key in _OPTIONAL:
                continue
            raise fail(key, f"missing key {key!r}")
        value = table[key]
        if type(value) is not kind or (kind is list and not all(isinstance(item, str) for item in value)):
            wanted = "a list of strings" if kind is list else {str: "a string", int: "an integer"}[kind]
            raise fail(key, f"{key!r} must be {wanted}, got {value!r}")
        if kind is not int and not value and key not in {"peers", *_OPTIONAL}:
            raise fail(key, f"{key!r} is empty")
    if table["slug"].replace("-", "_") != path.parent.name:
        raise fail("slug", f"slug {table['slug']!r} does not match its folder {path.parent.name!r}")
    fields: dict[str, Any] = {key: _tidy(value) for key, value in table.items()}
    return Card(**fields)


def _tidy(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value.strip() if isinstance(value, str) else value


def folders() -> tuple[Path, ...]:
    """Folders that hold papers: the package's own, and those of the environment variable ``PAPERWORKS_PAPERS``.

    Returns
    -------
    tuple of Path
        The folders.
    """
    further = os.environ.get("PAPERWORKS_PAPERS", "")
    return (PAPERS, *(Path(folder) for folder in further.split(os.pathsep) if folder))


@cache
def _all_cards(where: tuple[Path, ...]) -> tuple[Card, ...]:
    found = (read_card(path) for folder in where for path in folder.glob("*/card.toml"))
    return tuple(sorted(found, key=lambda each: (each.family, each.slug)))


def cards(*, family: str | None = None) -> tuple[Card, ...]:
    """Every card, ordered by family and slug.

    Parameters
    ----------
    family : str, optional
        Only the papers of this family.

    Returns
    -------
    tuple of Card
        The cards.

    Raises
    ------
    UnknownPaperError
        If no paper belongs to ``family``.
    """
    everything = _all_cards(folders())
    if family is None:
        return everything
    chosen = tuple(each for each in everything if each.family == family)
    if not chosen:
        raise UnknownPaperError(f"no family {family!r}; families: {', '.join(families())}")
    return chosen


def families() -> tuple[str, ...]:
    """Names of the families that hold at least one paper.

    Returns
    -------
    tuple of str
        Family names, sorted.
    """
    return tuple(sorted({each.family for each in _all_cards(folders())}))


def card(slug: str) -> Card:
    """The card of one paper.

    Parameters
    ----------
    slug : str
        The paper's slug; underscores count as hyphens.

    Returns
    -------
    Card
        Its card.

    Raises
    ------
    UnknownPaperError
        If there is none; the message suggests the nearest slugs.
    """
    by_slug = {each.slug: each for each in cards()}
    wanted = slug.strip().lower().replace("_", "-")
    if wanted in by_slug:
        return by_slug[wanted]
    # One that is nearly the same leaves no question; else several that are less so.
    near = get_close_matches(wanted, by_slug, 1, 0.9) or get_close_matches(wanted, by_slug, 3, 0.5)
    near = near or [hit.slug for hit in search(wanted.replace("-", " "))[:3]]
    hint = f"; did you mean {' or '.join(near)}?" if near else "; `paperworks list` names them all"
    raise UnknownPaperError(f"no paper {slug!r}{hint}")


# Weight of a word by where it stands.
_FIELDS = (
    ("slug", 4.0),
    ("title", 4.0),
    ("tags", 3.0),
    ("public", 2.0),
    ("family", 2.0),
    ("authors", 2.0),
    ("summary", 1.0),
)
# fmt: off
_STOP = frozenset([
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "for", "from", "has", "in", "into", "is", "it", "its",
    "no", "of", "on", "or", "so", "than", "that", "the", "their", "then", "this", "to", "under", "using", "very",
    "via", "was", "were", "which", "while", "whose", "with", "without", "you", "your",
])
# fmt: on


def search(words: str) -> list[Card]:
    """Papers that speak of ``words``, best first.

    Words are reduced to their stems, so that *projections* finds *projected*; a rare word counts for more than a
    common one, a word in the title for more than one in the summary (BM25 over weighted fields), and a word that no
    card holds stands for the nearest ones that some card does hold.

    Parameters
    ----------
    words : str
        What to look for.

    Returns
    -------
    list of Card
        Papers with at least one of the words, ranked.
    """
    asked = list(dict.fromkeys(_stem(word) for word in _words(words)))
    documents = {each: _weights(each, {stem[:3] for stem in asked}) for each in cards()}
    vocabulary = {stem for weights in documents.values() for stem in weights}
    if not vocabulary.issuperset(asked):
        documents = {each: _weights(each, None) for each in cards()}
        vocabulary = {stem for weights in documents.values() for stem in weights}
    mean_length = sum(sum(weights.values()) for weights in documents.values()) / max(1, len(documents))
    scores: dict[Card, float] = {}
    for stem in asked:
        near = [stem] if stem in vocabulary else get_close_matches(stem, vocabulary, 3, 0.75)
        for term in near:
            holders = [each for each, weights in documents.items() if term in weights]
            rarity = log(1 + (len(documents) - len(holders) + 0.5) / (len(holders) + 0.5))
            for each in holders:
                weights = documents[each]
                saturation = 1.5 * (0.25 + 0.75 * sum(weights.values()) / mean_length)
                gain = rarity * weights[term] * 2.5 / (weights[term] + saturation)
                scores[each] = scores.get(each, 0.0) + gain * (1.0 if term == stem else 0.5)
    return sorted(scores, key=lambda each: (-scores[each], each.slug))


def _weights(card: Card, beginnings: set[str] | None) -> dict[str, float]:
    """Weights of a card's words by their stems; those that don't begin as the words looked for do stay as they are."""
    weights: dict[str, float] = {}
    for field, weight in _FIELDS:
        value = getattr(card, field)
        for word in _words(value if isinstance(value, str) else " ".join(value)):
            stem = _stem(word) if beginnings is None or word[:3] in beginnings else word
            weights[stem] = weights.get(stem, 0.0) + weight
    return weights


def _words(text: str) -> list[str]:
    # CamelCase and snake_case names count as their words.
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
    return [word for word in words if word not in _STOP]


@cache
def _stem(word: str) -> str:
    # Stemming is what a search takes its time for.
    return str(_stemmer().stemWord(word))


@cache
def _stemmer() -> Any:
    from snowballstemmer.english_stemmer import EnglishStemmer

    return EnglishStemmer()
