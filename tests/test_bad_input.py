"""Every public function of arrays: NaN, infinity, empty, wrong dimension, mismatched sizes, integers, float32.

Valid input is made from the shapes in the docstring, so that a new function is found and tested by its documentation.
"""

import re
import warnings
from importlib import import_module
from inspect import Parameter, isfunction, signature

import numpy as np
import pytest
import torch
from numpydoc.docscrape import FunctionDoc
from sklearn.exceptions import ConvergenceWarning

from paperworks.catalog import cards

SHAPE = re.compile(r"of shape\s+\(([^)]*)\)")
# What a required argument that is no array is given, by the words of its type.
SCALARS = (
    ("float, at least 1", 1.5),
    ("float", 0.5),
    ("int", 2),
    ("callable", lambda *tensors: sum(each.sin().reshape(len(each), -1).sum(1) for each in tensors)),
)


def array_functions():
    found = []
    for card in cards():
        module = import_module(card.module)
        for name in card.public:
            function = getattr(module, name)
            if isfunction(function) and (arrays := documented_arrays(function)) and can_be_called(function, arrays):
                found.append(pytest.param(function, arrays, id=f"{card.slug}:{name}"))
    return found


def documented_arrays(function):
    """Sizes, as words, of each required argument that is an array; None where one can't be made from the docstring."""
    arrays = {}
    for each in FunctionDoc(function)["Parameters"]:
        names = [name.strip() for name in each.name.split(",")]
        for name in names:
            parameter = signature(function).parameters.get(name)
            if parameter is None or parameter.default is not Parameter.empty:
                continue
            if parameter.kind in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}:
                continue
            text = f"{each.type} {' '.join(each.desc)}"
            shape = SHAPE.search(text)
            if shape and re.search(r"array|Tensor", each.type):
                definite = "positive definite" in text or "SPD" in text
                kind = "definite" if definite else "symmetric" if "ymmetric" in text else ""
                arrays[name] = (tuple(size.strip() for size in shape[1].split(",") if size.strip()), kind)
    return arrays


def can_be_called(function, arrays):
    """Whether every required argument is an array or a plain value; models and estimators are left to own tests."""
    types = {name.strip(): each.type for each in FunctionDoc(function)["Parameters"] for name in each.name.split(",")}
    required = [
        name
        for name, parameter in signature(function).parameters.items()
        if parameter.default is Parameter.empty and name not in arrays
        if parameter.kind not in {Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD}
    ]
    return all(
        any(word in types.get(name, "") for word, _ in SCALARS) or "None" in types.get(name, "") for name in required
    )


def valid_arguments(function, arrays, seed=0):
    generator = np.random.default_rng(seed)
    sizes, made = {}, {}
    for name, (shape, kind) in arrays.items():
        # A leading "..." stands for no batch dimension at all.
        lengths = tuple(
            int(size) if size.isdigit() else sizes.setdefault(size, 5 + len(sizes)) for size in shape if size != "..."
        )
        made[name] = generator.random(lengths) + 0.1
        if kind == "definite":
            made[name] = made[name] @ np.swapaxes(made[name], -1, -2) + np.eye(lengths[-1])
        elif kind == "symmetric":
            made[name] = made[name] + np.swapaxes(made[name], -1, -2)
    for each in FunctionDoc(function)["Parameters"]:
        parameter = signature(function).parameters.get(each.name)
        if parameter is not None and parameter.default is Parameter.empty and each.name not in made:
            made[each.name] = next((value for word, value in SCALARS if word in each.type), None)
    return made


def call(function, arguments):
    options = {}
    if "random_state" in signature(function).parameters:
        options["random_state"] = 0
    if "progress" in signature(function).parameters:
        options["progress"] = False
    for name in ("n_steps", "n_iterations", "max_iter"):
        if name in signature(function).parameters:
            options.setdefault(name, 3)
    # Positional-or-keyword arguments go by name, so that an error can name them.
    return function(**{**options, **arguments})


def numbers_in(result):
    """Every float of a result, however it is packed."""
    if isinstance(result, torch.Tensor):
        return result.detach().double().numpy().ravel()
    if isinstance(result, (float, int, np.ndarray, np.number)):
        return np.asarray(result, dtype=float).ravel()
    if isinstance(result, dict):
        result = [result[key] for key in ("plan", "value", "dual_source", "x") if key in result]
    elif hasattr(result, "__dataclass_fields__"):
        result = [getattr(result, key) for key in result.__dataclass_fields__]
    if isinstance(result, (list, tuple)):
        return np.concatenate([np.zeros(0), *(numbers_in(each) for each in result)])
    return np.zeros(0)


@pytest.fixture(autouse=True)
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.simplefilter("ignore", UserWarning)
        yield


CASES = [pytest.param(*each.values, id=each.id) for each in array_functions()]


def test_functions_are_found():
    assert len(CASES) >= 8


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_valid_input_gives_finite_numbers(function, arrays):
    numbers = numbers_in(call(function, valid_arguments(function, arrays)))
    assert numbers.size
    assert np.isfinite(numbers).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_nan_and_infinity_are_refused_by_name(function, arrays, bad):
    for name in arrays:
        arguments = valid_arguments(function, arrays)
        arguments[name].flat[-1] = bad
        with pytest.raises(ValueError, match=name):
            call(function, arguments)


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_empty_input_is_refused_by_name(function, arrays):
    for name in arrays:
        arguments = valid_arguments(function, arrays)
        arguments[name] = arguments[name][:0]
        with pytest.raises(ValueError, match=name):
            call(function, arguments)


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_wrong_dimension_is_refused(function, arrays):
    for name in arrays:
        arguments = valid_arguments(function, arrays)
        arguments[name] = np.float64(0.5)
        with pytest.raises((ValueError, TypeError), match=name):
            call(function, arguments)


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_sizes_that_do_not_match_are_refused(function, arrays):
    for name, (shape, _) in arrays.items():
        for axis, size in enumerate([size for size in shape if size != "..."]):
            shared = sum(size in other for key, (other, _) in arrays.items() if key != name)
            if not shared:
                continue
            arguments = valid_arguments(function, arrays)
            arguments[name] = np.take(arguments[name], range(arguments[name].shape[axis] - 1), axis=axis)
            with pytest.raises((ValueError, TypeError)):
                call(function, arguments)


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_integers_are_refused_by_name(function, arrays):
    for name in arrays:
        arguments = valid_arguments(function, arrays)
        arguments[name] = np.ones_like(arguments[name], dtype=int)
        with pytest.raises(TypeError, match=name):
            call(function, arguments)


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_float32_gives_the_same_answer(function, arrays):
    arguments = valid_arguments(function, arrays)
    single = {key: value.astype(np.float32) if key in arrays else value for key, value in arguments.items()}
    np.testing.assert_allclose(
        numbers_in(call(function, single)), numbers_in(call(function, arguments)), rtol=2e-2, atol=1e-3
    )


@pytest.mark.parametrize(("function", "arrays"), CASES)
def test_tensors_give_tensors_with_the_same_numbers(function, arrays):
    arguments = valid_arguments(function, arrays)
    tensors = {key: torch.from_numpy(value) if key in arrays else value for key, value in arguments.items()}
    np.testing.assert_allclose(
        numbers_in(call(function, tensors)), numbers_in(call(function, arguments)), rtol=1e-7, atol=1e-10
    )
