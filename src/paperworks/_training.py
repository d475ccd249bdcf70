"""What training loops share: the device they run on, and interrupts that leave no step half done."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator


def start_training(device: str | torch.device, *parts: Any) -> tuple[Accelerator, torch.device, list[Any]]:
    """Bring modules and optimisers to the device that training runs on.

    The same loop then runs on one CPU, on one GPU, or on many machines under ``torchrun``: call
    ``accelerator.backward(loss)`` in place of ``loss.backward()``, and draw each process's own batches by adding
    ``accelerator.process_index`` to the seed.

    Parameters
    ----------
    device : str or torch.device
        ``"auto"`` takes a CUDA device when there is one; under ``torchrun`` each process takes its own.
    *parts : Module or Optimizer
        What to prepare, in the order in which it comes back. Modules must be given before their optimisers.

    Returns
    -------
    accelerator : Accelerator
        For ``backward`` and the process's rank.
    device : torch.device
        Where batches must go.
    parts : list
        The prepared modules and optimisers.
    """
    # Without a GPU, processes under torchrun find each other only if accelerate is told that the CPU is meant.
    accelerator = Accelerator(device_placement=False, cpu=not torch.cuda.is_available())
    if accelerator.num_processes > 1:
        place = accelerator.device
    elif str(device) == "auto":
        place = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    else:
        place = torch.device(device)
    for part in parts:
        if isinstance(part, torch.nn.Module):
            part.to(place)
    prepared = accelerator.prepare(*parts) if parts else ()
    return accelerator, place, list(prepared) if len(parts) > 1 else [prepared] if parts else []


@contextmanager
def interrupts_between_steps() -> Iterator[Callable[[], None]]:
    """Hold Ctrl-C back until the function that is yielded is called, so that no step is left half done."""
    pending: list[int] = []

    def take() -> None:
        if pending:
            pending.clear()
            raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # Only the main thread is interrupted by Ctrl-C, and a process that was told to ignore it goes on ignoring it.
        yield take
        return
    before = signal.signal(signal.SIGINT, lambda number, frame: pending.append(number))
    try:
        yield take
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)
        take()
