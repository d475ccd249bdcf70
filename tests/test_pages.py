"""The README's tables are those that the cards and the recorded ledger give."""

import sys
from pathlib import Path

import pytest

from paperworks.catalog import cards

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import pages  # noqa: E402


def test_readme_tables_are_up_to_date():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert pages.with_tables(text) == text, "run `make readme`"
    for card in cards():
        assert f"`{card.slug}`" in text


def test_every_claim_of_the_recorded_ledger_was_measured():
    for card in cards():
        recorded = pages.recorded(card)
        if not recorded:
            pytest.skip(f"{card.slug} is not in docs/ledger.jsonl yet: run `make ledger`")
        assert all(each.outcome in {"holds", "fails", "skipped"} for each in recorded)


def test_a_paper_page_shows_card_claims_and_reference():
    for card in cards():
        page = pages._page(card)
        assert card.title in page
        assert f"paperworks check {card.slug}" in page
        for name in card.public:
            assert f":: {name}" in page
