"""The optimiser of networks: gradients preconditioned by the inverse Fisher matrix of the last ones."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from paperworks._validation import check_integer, check_number
from paperworks.optimization.matrix_free_fisher._sliding import Device, SlidingInverseFisher


class MatrixFreeFisherOptimizer(torch.optim.Optimizer):
    r"""Train a network by stochastic gradients that are preconditioned by the inverse Fisher matrix of the last m.

    A step lets the gradient :math:`g_t` into the window of the last m, of all parameters together, and takes

    .. math:: F_t = \lambda I + \frac1m \sum_{s = t - m + 1}^t g_s g_s^\top, \qquad
        v_t = \mu v_{t-1} + (1 - \mu) F_t^{-1} g_t, \qquad \theta_{t+1} = \theta_t - \eta v_t,

    without any matrix of the parameters' size: O(d m) operations for d parameters, and O(m^3). Sums are divided by m
    from the first step on, while the window still fills. The memory is that of m gradients.

    Parameters
    ----------
    params : iterable
        Parameters, or groups of them, each with an ``lr``, ``momentum`` and ``weight_decay`` of its own. The window
        spans all groups.
    lr : float, default 1e-3
        eta.
    momentum : float, default 0.0
        mu, at least 0 and less than 1, of the preconditioned direction.
    weight_decay : float, default 0.0
        What parameters are multiplied with and added to their gradients, before these enter the window.
    n_gradients : int, default 512
        m, the gradients in the window.
    damping : float, default 1e-5
        lambda, greater than 0.
    sparse : bool, default False
        Whether parameters that are exactly zero at the start stay zero: they are left out of the window, as suits a
        pruned network. Biases that start at zero are meant too.
    window_device : torch.device, str, or a sequence of these, optional
        Where the window is kept; where the first parameter is if not given. It is spread evenly over several devices.
    window_dtype : torch.dtype, optional
        In which the window is kept; the widest of the parameters, and at least float32, if not given.
    warmup : int, default 0
        Steps at the start that fill the window and change nothing; ``n_gradients`` of them fill it.

    Attributes
    ----------
    window : SlidingInverseFisher
        The last gradients; ``window.n_bytes`` is the memory that they take.
    n_steps : int
        Steps so far.

    Raises
    ------
    ValueError
        If a setting is out of its range, or with ``sparse`` no parameter is other than zero.
    TypeError
        If a setting has the wrong type.
    MemoryError
        If the window would not fit; the message says how much it takes, and how much there is.

    References
    ----------
    Elias Frantar, Eldar Kurtic, Dan Alistarh. "M-FAC: Efficient Matrix-Free Approximations of Second-Order
    Information". NeurIPS 2021. arXiv:2107.03356.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import MatrixFreeFisherOptimizer
    >>> generator = torch.Generator().manual_seed(0)
    >>> x = torch.randn(256, 2, generator=generator) * torch.tensor([10.0, 0.1])  # badly scaled
    >>> y = (x @ torch.tensor([0.1, 10.0]) > 0).float()
    >>> weights = torch.zeros(2, requires_grad=True)
    >>> optimizer = MatrixFreeFisherOptimizer([weights], lr=0.1, n_gradients=32)
    >>> for step in range(100):
    ...     optimizer.zero_grad()
    ...     rows = torch.randint(256, (32,), generator=generator)
    ...     torch.nn.functional.binary_cross_entropy_with_logits(x[rows] @ weights, y[rows]).backward()
    ...     optimizer.step()
    >>> bool(((x @ weights > 0) == y).float().mean() > 0.95)
    True
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        n_gradients: int = 512,
        damping: float = 1e-5,
        sparse: bool = False,
        window_device: Device | Sequence[Device] | None = None,
        window_dtype: torch.dtype | None = None,
        warmup: int = 0,
    ) -> None:
        if not isinstance(sparse, bool):
            raise TypeError(f"sparse must be True or False, got {sparse!r}")
        self.warmup = check_integer("warmup", warmup, at_least=0)
        self.n_steps = 0
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})
        flat = torch.cat([each.detach().reshape(-1).cpu() for each in self._parameters()])
        # Positions in the vector of all parameters that the window holds.
        self._kept = torch.nonzero(flat)[:, 0] if sparse else None
        dimension = flat.numel() if self._kept is None else self._kept.numel()
        if dimension == 0:
            raise ValueError("sparse=True keeps parameters that are zero at zero, and all of them are")
        self.window = SlidingInverseFisher(
            n_gradients,
            dimension,
            damping,
            dtype=_widest(self._parameters()) if window_dtype is None else window_dtype,
            device=self._parameters()[0].device if window_device is None else window_device,
        )

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add parameters, which only the constructor may do: later, the gradients in the window would lack them.

        Parameters
        ----------
        param_group : dict
            Parameters and their settings.

        Raises
        ------
        RuntimeError
            If the window is there already.
        """
        if hasattr(self, "window"):
            raise RuntimeError("parameters can't be added once the window of gradients is there: make a new optimizer")
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        check_number("lr", group["lr"], at_least=0.0)
        check_number("weight_decay", group["weight_decay"], at_least=0.0)
        if check_number("momentum", group["momentum"], at_least=0.0) >= 1.0:
            raise ValueError(f"momentum must be less than 1, got {group['momentum']!r}")
        for each in group["params"]:
            if not each.is_floating_point():
                raise TypeError(f"params must hold floating-point numbers, got {each.dtype}")

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Let the gradients into the window, and move the parameters.

        A parameter without a gradient counts as one with a gradient of zeros, and is not decayed. Where none has one,
        nothing happens.

        Parameters
        ----------
        closure : callable, optional
            Computes the loss and the gradients anew, and returns the loss.

        Returns
        -------
        float or Tensor or None
            What ``closure`` returned.

        Raises
        ------
        FloatingPointError
            If a gradient is NaN or infinite, which the message names with the step, or products of gradients overflow;
            window and parameters stay as they were.
        TypeError
            If a gradient is sparse.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if all(each.grad is None for each in self._parameters()):
            return loss
        g = self._gradient()
        if self.n_steps < self.warmup:
            self.window.update(g)
        else:
            self._move(self.window.update_multiply(g))
        self.n_steps += 1
        return loss

    def state_dict(self) -> dict[str, Any]:
        """Return all that another optimizer of the same parameters needs to go on, the window included.

        Returns
        -------
        dict
            As of any torch optimizer, and the window.
        """
        return super().state_dict() | {"window": self.window.state_dict(), "n_steps": self.n_steps, "kept": self._kept}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the window is copied.

        Parameters
        ----------
        state_dict : dict
            From an optimizer of the same parameters, with as long a window.

        Raises
        ------
        ValueError
            If sizes differ.
        """
        own = {"window", "n_steps", "kept"}
        if lacking := own - set(state_dict):
            raise ValueError(f"state_dict lacks {', '.join(sorted(lacking))}")
        self.window.load_state_dict(state_dict["window"])
        super().load_state_dict({key: value for key, value in state_dict.items() if key not in own})
        self.n_steps, self._kept = int(state_dict["n_steps"]), state_dict["kept"]

    def __getstate__(self) -> dict[str, Any]:
        # What torch's own leaves out, so that copies and pickles are whole.
        own = {"window": self.window, "n_steps": self.n_steps, "warmup": self.warmup, "_kept": self._kept}
        return super().__getstate__() | own

    def _parameters(self) -> list[Tensor]:
        return [each for group in self.param_groups for each in group["params"]]

    def _gradient(self) -> Tensor:
        """The gradients of all parameters in one vector, weight decay included, of what the window holds."""
        home, dtype = self.window.home, self.window.compute_dtype
        pieces = []
        for k, group in enumerate(self.param_groups):
            for i, each in enumerate(group["params"]):
                if each.grad is None:
                    pieces.append(torch.zeros(each.numel(), dtype=dtype, device=home))
                    continue
                if each.grad.layout != torch.strided:
                    raise TypeError(f"gradients must be dense, that of parameter {i} of group {k} is sparse")
                if not bool(torch.isfinite(each.grad).all()):
                    raise FloatingPointError(
                        f"the gradient of parameter {i} of group {k} is NaN or infinite at step {self.n_steps + 1}"
                    )
                grad = each.grad
                if group["weight_decay"]:
                    grad = grad + group["weight_decay"] * each
                pieces.append(grad.reshape(-1).to(home, dtype))
        g = torch.cat(pieces)
        return g if self._kept is None else g[self._kept.to(home)]

    def _move(self, update: Tensor) -> None:
        if self._kept is not None:
            n_parameters = sum(each.numel() for each in self._parameters())
            update = update.new_zeros(n_parameters).index_copy_(0, self._kept.to(update.device), update)
        start = 0
        for group in self.param_groups:
            for each in group["params"]:
                direction = update[start : start + each.numel()].reshape(each.shape).to(each)
                start += each.numel()
                if group["momentum"]:
                    state = self.state[each]
                    if "direction" not in state:
                        state["direction"] = torch.zeros_like(each)
                    # Not in place: another optimizer may have loaded this one's state.
                    direction = state["direction"] = state["direction"].lerp(direction, 1 - group["momentum"])
                each.sub_(direction, alpha=group["lr"])


def _widest(parameters: list[Tensor]) -> torch.dtype:
    dtype = torch.float32
    for each in parameters:
        dtype = torch.promote_types(dtype, each.dtype)
    return dtype
