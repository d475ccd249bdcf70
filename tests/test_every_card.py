"""Every card has its six rooms, and what it names can be had."""

import ast
import subprocess
import sys
from dataclasses import is_dataclass
from importlib import import_module
from inspect import Parameter, getdoc, isclass, signature
from pathlib import Path

import pytest

from paperworks.catalog import cards
from paperworks.claims import claims_of

ROOT = Path(__file__).parents[1]
PAPERS = [pytest.param(each, id=each.slug) for each in cards()]


def parameters_of(thing):
    try:
        return list(signature(thing).parameters.values())
    except ValueError:  # a class that inherits a builtin's constructor has no signature
        return []


@pytest.mark.parametrize("card", PAPERS)
def test_six_rooms(card):
    package = ROOT / "src/paperworks"
    method = package / card.family / f"{card.name}.py"
    rooms = [
        method if method.exists() else method.with_suffix("") / "__init__.py",
        package / "papers" / card.name / "card.toml",
        package / "papers" / card.name / "claims.py",
        package / "papers" / card.name / "run.py",
        ROOT / "tests" / card.family / f"test_{card.name}.py",
        ROOT / "benchmarks" / card.family / f"bench_{card.name}.py",
    ]
    assert [str(each) for each in rooms if not each.exists()] == []
    # A race is read, not run: its peers need not be here.
    names = {node.name for node in ast.parse(rooms[-1].read_text()).body if isinstance(node, ast.FunctionDef)}
    assert "races" in names


@pytest.mark.parametrize("card", PAPERS)
def test_public_names_are_those_of_the_module(card):
    module, family = import_module(card.module), import_module(f"paperworks.{card.family}")
    assert sorted(module.__all__) == sorted(card.public)
    for name in card.public:
        assert getattr(family, name) is getattr(module, name)
        assert name in dir(family)


@pytest.mark.parametrize("card", PAPERS)
def test_docstrings_are_whole(card):
    module = import_module(card.module)
    for name in card.public:
        thing = getattr(module, name)
        if not callable(thing):
            continue
        doc = getdoc(thing) or ""
        sections = ["References", "Examples"]
        parameters = [each for each in parameters_of(thing) if each.kind is not Parameter.VAR_KEYWORD]
        # A dataclass may describe its fields as attributes.
        described = "Attributes" if is_dataclass(thing) and "Parameters\n---" not in doc else "Parameters"
        sections += [described] if parameters else []
        sections += [] if isclass(thing) else ["Returns"]
        missing = [section for section in sections if f"{section}\n---" not in doc]
        assert not missing, f"{name} lacks {missing}"
        documented = [each.name for each in parameters if each.name not in doc]
        assert not documented, f"{name} does not document {documented}"


@pytest.mark.parametrize("card", PAPERS)
def test_card_says_when_and_where(card):
    assert str(card.year) in card.venue
    assert card.arxiv.split("v")[0].replace(".", "").isdigit()


@pytest.mark.parametrize("card", PAPERS)
def test_example_runs_as_it_stands(card):
    done = subprocess.run([sys.executable, "-c", card.example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


@pytest.mark.parametrize("card", PAPERS)
def test_claims_say_what_they_measure(card):
    claims = claims_of(card.slug)
    assert claims
    assert len({each.name for each in claims}) == len(claims)
    for each in claims:
        assert each.slug == card.slug
        assert each.statement
        assert each.published
        assert each.where
        assert each.seeds >= 1


@pytest.mark.parametrize("card", PAPERS)
def test_command_is_typed_and_documented(card):
    run = import_module(f"paperworks.papers.{card.name}.run").run
    parameters = signature(run).parameters
    assert parameters["out"].annotation in {Path, "Path"}
    assert any(each.kind is Parameter.VAR_POSITIONAL for each in parameters.values())
    for name, each in parameters.items():
        assert each.annotation is not Parameter.empty
        assert name in (getdoc(run) or "").split("Parameters", 1)[1]
