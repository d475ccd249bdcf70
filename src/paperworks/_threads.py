"""How many threads torch and linear algebra may use."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache

import torch
from threadpoolctl import ThreadpoolController


@contextmanager
def one_thread() -> Iterator[None]:
    """Keep torch to one thread: where layers are too small to be shared between cores, more only wait for each other.

    It also makes processor time comparable between methods. Works as a decorator too.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep NumPy's and SciPy's linear algebra to one thread: short products in two take up to nine times as long."""
    return _controller().limit(limits=1, user_api="blas")


@cache
def _controller() -> ThreadpoolController:
    # Looking for the libraries takes milliseconds, using them microseconds.
    return ThreadpoolController()
