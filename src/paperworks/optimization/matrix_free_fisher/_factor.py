"""What both algorithms share: memory that is asked for before it is taken, and the factor of the damped Gram matrix."""

from warnings import warn

import psutil
import torch
from torch import Tensor


def require_memory(what: str, n_bytes: int, device: torch.device, advice: str) -> None:
    """Refuse at once what would not fit, and say what would help."""
    if device.type == "cpu":
        free = int(psutil.virtual_memory().available)
    elif device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
    else:
        return
    if n_bytes > free:
        raise MemoryError(f"{what} take {_gibibytes(n_bytes)}, but {device} has {_gibibytes(free)} free: {advice}")


def storage_dtype(gradients: Tensor) -> torch.dtype:
    """The factors lose too much in half precision, so single precision is the least."""
    return torch.promote_types(gradients.dtype, torch.float32)


def damped_cholesky(gram: Tensor, ridge: float) -> Tensor:
    """L with L L^T = ridge I + gram, in float64, for gram of shape (..., m, m).

    Where rounding left the sum indefinite, the ridge grows tenfold until it is not, with a warning.
    """
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, failed = torch.linalg.cholesky_ex(gram + ridge * identity)
    if not failed.any():
        return factor
    largest = float(gram.diagonal(dim1=-2, dim2=-1).amax())
    for power in range(-15, 1):
        jitter = largest * 10.0**power
        factor, failed = torch.linalg.cholesky_ex(gram + (ridge + jitter) * identity)
        if not failed.any():
            warn(
                "damping is too small for the precision of the gradients: "
                f"{jitter / len(identity):.1e} was added to it",
                RuntimeWarning,
                stacklevel=4,
            )
            return factor
    raise FloatingPointError("gradients are too large: their products can't be factorised")


def _gibibytes(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:,.2f} GiB"
