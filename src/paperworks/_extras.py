"""Optional dependencies: one clear message when one is missing."""

from importlib import import_module
from types import ModuleType


class MissingExtraError(ImportError):
    """An optional dependency is not installed; the message says what to install."""


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import ``module``, or say which extra of paperworks brings it.

    Parameters
    ----------
    module : str
        Dotted name of the module.
    extra : str
        The extra of paperworks that brings it.
    purpose : str
        What needs it, as in ``"reading meshes"``.
    """
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs {module.split('.')[0]}, which is not installed: pip install 'paperworks[{extra}]'"
        ) from None
