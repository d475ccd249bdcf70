import pytest

from paperworks import catalog
from paperworks.catalog import CardError, UnknownPaperError

CARD = """slug = "some-paper"
title = "Some Paper"
authors = ["A. Author"]
arxiv = "1234.56789"
venue = "NeurIPS 2024"
year = 2024
family = "transport"
summary = "What it does. And more."
public = ["method"]
tags = ["tag"]
peers = []
cost = "O(n)"
example = "print(1)"
"""


def write(tmp_path, text, name="some_paper"):
    folder = tmp_path / name
    folder.mkdir(exist_ok=True)
    (folder / "card.toml").write_text(text)
    return folder / "card.toml"


def test_reads_a_card(tmp_path):
    card = catalog.read_card(write(tmp_path, CARD))
    assert (card.slug, card.name, card.module) == ("some-paper", "some_paper", "paperworks.transport.some_paper")
    assert card.url == "https://arxiv.org/abs/1234.56789"
    assert card.peers == ()


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ('title = "Some Paper"', "title = Some Paper", 2, "not valid TOML"),
        ('title = "Some Paper"\n', "", 12, "missing key 'title'"),
        ("year = 2024", 'year = "2024"', 6, "'year' must be an integer, got '2024'"),
        ("year = 2024", "year = true", 6, "'year' must be an integer"),
        ('tags = ["tag"]', "tags = [1]", 10, "'tags' must be a list of strings"),
        ('tags = ["tag"]', "tags = []", 10, "'tags' is empty"),
        ("peers = []", "peer = []", 11, "unknown key 'peer', did you mean 'peers'?"),
        ('slug = "some-paper"', 'slug = "other"', 1, "does not match its folder 'some_paper'"),
    ],
)
def test_a_malformed_card_is_named_with_its_line(tmp_path, old, new, line, message):
    path = write(tmp_path, CARD.replace(old, new))
    with pytest.raises(CardError, match=message) as caught:
        catalog.read_card(path)
    assert str(caught.value).startswith(f"{path}:{line}:")


def test_further_folders_hold_papers_too(tmp_path, monkeypatch):
    write(tmp_path, CARD)
    monkeypatch.setenv("PAPERWORKS_PAPERS", str(tmp_path))
    assert catalog.card("some-paper").title == "Some Paper"
    monkeypatch.delenv("PAPERWORKS_PAPERS")
    with pytest.raises(UnknownPaperError):
        catalog.card("some-paper")


def test_finds_papers_and_suggests_the_nearest():
    assert catalog.card("Sinkhorn_Newton_Sparse").slug == "sinkhorn-newton-sparse"
    with pytest.raises(UnknownPaperError, match="did you mean sinkhorn-newton-sparse"):
        catalog.card("sinkhorn-newton-spare")
    with pytest.raises(UnknownPaperError, match="no family 'transports'"):
        catalog.cards(family="transports")


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        ("newton hessian", "sinkhorn-newton-sparse"),
        ("variance of projections", "control-variate-sliced-wasserstein"),
        ("regularizer for maps", "monge-gap"),
        ("covariance matrices batch normalisation", "bures-wasserstein-normalization"),
        ("mutual information representation", "wasserstein-dependency"),
        ("point cloud reconstruction attention", "amortized-sliced-wasserstein"),
        ("sinkhron", "sinkhorn-newton-sparse"),
    ],
)
def test_search_ranks_by_words(words, slug):
    assert catalog.search(words)[0].slug == slug


def test_search_for_nothing_finds_nothing():
    assert catalog.search("") == []
    assert catalog.search("zzzzqqqq") == []
