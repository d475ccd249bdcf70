"""scikit-learn's own checks on every estimator of the library."""

import warnings
from importlib import import_module

import pytest
from sklearn.base import BaseEstimator
from sklearn.exceptions import SkipTestWarning
from sklearn.utils.estimator_checks import estimator_checks_generator

from paperworks.catalog import cards


def estimators():
    """Every public estimator, with the small settings that it names for these checks."""
    found = []
    for card in cards():
        module = import_module(card.module)
        for name in card.public:
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, BaseEstimator):
                settings = getattr(kind, "_estimator_checks", {})
                found.append(kind(**settings.get("parameters", {})))
    return found


def expected_failures(estimator):
    return getattr(type(estimator), "_estimator_checks", {}).get("expected_failures", {})


def checks():
    """What `parametrize_with_checks` yields, with names that are the same in every process."""
    for one in estimators():
        failures = expected_failures(one)
        with warnings.catch_warnings():
            # Of three-dimensional input scikit-learn knows few checks, and says so.
            warnings.simplefilter("ignore", SkipTestWarning)
            pairs = list(estimator_checks_generator(one, expected_failed_checks=failures, mark="skip"))
        for estimator, check in pairs:
            inner = check
            while hasattr(inner, "func"):
                inner = inner.func
            yield pytest.param(estimator, check, id=f"{type(estimator).__name__}-{inner.__name__}")


@pytest.mark.parametrize(("estimator", "check"), list(checks()))
def test_estimator(estimator, check):
    check(estimator)


@pytest.mark.parametrize("estimator", estimators(), ids=lambda each: type(each).__name__)
def test_expected_failures_are_few_and_have_reasons(estimator):
    failures = expected_failures(estimator)
    assert len(failures) <= 12
    assert all(len(reason.split()) > 3 for reason in failures.values())
