"""Every docstring example of the library runs, and says what it prints."""

import doctest
import pkgutil
from importlib import import_module

import pytest

import paperworks


def modules():
    found = []
    for each in pkgutil.walk_packages(paperworks.__path__, "paperworks."):
        if ".papers." not in each.name and each.name not in {"paperworks.__main__", "paperworks.claims._child"}:
            found.append(each.name)
    return found


@pytest.mark.parametrize("name", modules())
def test_examples_run(name):
    module = import_module(name)
    result = doctest.testmod(module, optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    assert result.failed == 0
