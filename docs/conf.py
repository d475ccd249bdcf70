"""Sphinx configuration."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pages

from paperworks import __version__

project = "paperworks"
author = "the paperworks developers"
copyright = "2026, the paperworks developers"
release = version = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
]
myst_enable_extensions = ["dollarmath"]
exclude_patterns = ["_build"]
html_theme = "pydata_sphinx_theme"
html_title = "paperworks"
html_show_sourcelink = False
html_static_path = ["_static"]
html_theme_options = {"navigation_with_keys": False, "show_prev_next": False, "secondary_sidebar_items": ["page-toc"]}
autodoc_typehints = "none"
# scikit-learn gives estimators these methods; they are its own to document.
_REQUESTS = ("fit", "partial_fit", "predict", "transform", "inverse_transform", "score")
autodoc_default_options = {"exclude-members": ", ".join(f"set_{name}_request" for name in _REQUESTS)}
autosummary_generate = False
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
# Several papers cite the same work; numpydoc's own labels would clash.
numpydoc_validation_checks: set[str] = set()

# One page a paper, from its card, its docstrings and the ledger.
pages.write_paper_pages()
