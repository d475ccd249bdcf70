"""Training of a small network by consensus of particles, from values of its loss alone."""

from collections.abc import Callable
from math import log2, sqrt
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from paperworks._random import RandomState, torch_generator
from paperworks._validation import check_integer, check_number
from paperworks.optimization.consensus_based_optimization._consensus import gibbs_weights
from paperworks.optimization.consensus_based_optimization._objective import require_a_finite_value

Loss = Callable[[Callable[..., Any]], Tensor]


class ConsensusOptimizer(torch.optim.Optimizer):
    r"""Train a small module without gradients: its parameters are the consensus point of a swarm.

    Each step evaluates the loss at particles :math:`X^i`, settings of all parameters that are trained, side by side
    through `torch.func.vmap`, and moves them by

    .. math::
        X^i \leftarrow X^i - \lambda\,dt\,(X^i - x_\alpha)
        + \sigma \sqrt{dt}\, \operatorname{diag}(X^i - x_\alpha)\, B^i, \qquad B^i \sim N(0, I).

    The module holds the consensus point :math:`x_\alpha` after each step. The settings that are default, cooling by
    epochs (`cool`), random batches of particles, and the kick that particles get when their consensus point rests,
    are those of the authors' networks.

    Parameters
    ----------
    module : Module
        What is trained, without running statistics (batch normalisation in ``eval`` mode is fine).
    n_particles : int, default 100
        Particles.
    temperature_inverse : float, default 50
        alpha.
    drift : float, default 1
        lambda.
    noise : float, default 0.6325
        sigma, the root of 0.4.
    step_size : float, default 0.1
        dt.
    initial_spread : float, default 1
        Standard deviation of the particles around the module's parameters at the start.
    batch_size : int, optional
        Particles of a random batch that is evaluated in a step, and forms the consensus; all when None.
    kick_tolerance : float, default 1e-5
        If no entry of the consensus point has moved by more, every particle moves by :math:`\sigma \sqrt{dt}\, N(0, I)`
        besides; 0 for never.
    chunk_size : int, optional
        Particles evaluated at once, to bound memory; all when None.
    random_state : None, int, Generator or RandomState
        Source of randomness, drawn on the CPU.

    Attributes
    ----------
    n_evaluations : int
        Losses evaluated.
    spread : float
        Mean distance of the particles to the consensus point at the last step.

    Raises
    ------
    TypeError
        If ``module`` is no module.
    ValueError
        If it has nothing to train, or an argument is out of range.

    References
    ----------
    Konstantin Riedl, Timo Klock, Carina Geldhauser, Massimo Fornasier. "Gradient is All You Need? How Consensus-Based
    Optimization can be Interpreted as a Stochastic Relaxation of Gradient Descent". 2023. arXiv:2306.09778.

    Examples
    --------
    >>> import torch
    >>> from paperworks.optimization import ConsensusOptimizer
    >>> module, x = torch.nn.Linear(1, 1), torch.linspace(-1, 1, 20)[:, None]
    >>> optimizer = ConsensusOptimizer(module, random_state=0)
    >>> for _ in range(300):
    ...     loss = optimizer.step(lambda model: ((model(x) - (2 * x + 1)) ** 2).mean())
    >>> float(loss) < 1e-3
    True
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        n_particles: int = 100,
        temperature_inverse: float = 50.0,
        drift: float = 1.0,
        noise: float = 0.6325,
        step_size: float = 0.1,
        initial_spread: float = 1.0,
        batch_size: int | None = None,
        kick_tolerance: float = 1e-5,
        chunk_size: int | None = None,
        random_state: RandomState = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise TypeError(f"module must be a torch.nn.Module, got {type(module).__name__}")
        self._trained = {name: each for name, each in module.named_parameters() if each.requires_grad}
        if not self._trained:
            raise ValueError("module has no parameter that requires a gradient, so there is nothing to train")
        check_integer("n_particles", n_particles, at_least=2)
        if batch_size is not None and check_integer("batch_size", batch_size) > n_particles:
            raise ValueError(f"batch_size must be at most n_particles={n_particles}, got {batch_size}")
        if chunk_size is not None:
            check_integer("chunk_size", chunk_size)
        spread = check_number("initial_spread", initial_spread, above=0.0)
        settings = {
            "temperature_inverse": check_number("temperature_inverse", temperature_inverse, above=0.0),
            "drift": check_number("drift", drift, above=0.0),
            "noise": check_number("noise", noise, at_least=0.0),
            "step_size": check_number("step_size", step_size, above=0.0),
            "kick_tolerance": check_number("kick_tolerance", kick_tolerance, at_least=0.0),
        }
        super().__init__(list(self._trained.values()), settings)
        self._module, self._chunk_size = module, chunk_size
        self._n, self._batch_size = n_particles, batch_size
        self._generator = torch_generator(random_state)
        for parameter in self._trained.values():
            drawn = self._normal(n_particles, parameter)
            self.state[parameter]["particles"] = drawn.mul_(spread).add_(parameter.detach())
        # Kept beside the parameters' states, so that state_dict brings back a run that goes on as it would have.
        self._run: dict[str, Any] = self.state["run"]  # type: ignore[index]
        self._run |= {"epoch": 0, "steps": 0, "n_evaluations": 0, "generator": self._generator.get_state()}
        self.spread = float("nan")

    @property
    def n_evaluations(self) -> int:
        """Losses evaluated so far."""
        return int(self.state["run"]["n_evaluations"])  # type: ignore[index]

    @torch.no_grad()
    def step(self, closure: Loss) -> Tensor:  # type: ignore[override]
        """Evaluate the particles and move them; the module holds their consensus point afterwards.

        Parameters
        ----------
        closure : callable
            Takes a model, to be called as the module is, and returns its loss as a tensor with no axes, as in
            ``lambda model: cross_entropy(model(inputs), targets)``.

        Returns
        -------
        Tensor
            Least loss among the particles that were evaluated.

        Raises
        ------
        ValueError
            If the loss is NaN, is infinite for all particles, or has axes.
        """
        run, settings = self.state["run"], self.param_groups[0]  # type: ignore[index]
        self._generator.set_state(run["generator"])
        batch = None
        if self._batch_size is not None:
            batch = torch.randperm(self._n, generator=self._generator)[: self._batch_size]
        losses = self._losses(closure, batch, run["steps"])
        weights = gibbs_weights(losses, settings["temperature_inverse"])
        self._move(weights, batch, settings)
        run["steps"] += 1
        run["n_evaluations"] += len(losses)
        run["generator"] = self._generator.get_state()
        return losses.amin()

    def cool(self) -> None:
        """Close an epoch as the authors do: alpha doubles, and sigma falls by log2(e + 1) / log2(e + 2)."""
        run = self.state["run"]  # type: ignore[index]
        run["epoch"] += 1
        for group in self.param_groups:
            group["temperature_inverse"] *= 2
            group["noise"] *= log2(run["epoch"] + 1) / log2(run["epoch"] + 2)

    def _losses(self, closure: Loss, batch: Tensor | None, step: int) -> Tensor:
        """Losses of a batch of particles, through one call of the module over all of them."""
        particles = {
            name: particles if batch is None else particles[batch.to(particles.device)]
            for name, particles in self._particles()
        }

        def loss_of(parameters: dict[str, Tensor]) -> Tensor:
            return closure(lambda *inputs, **options: functional_call(self._module, parameters, inputs, options))

        losses = vmap(loss_of, randomness="different", chunk_size=self._chunk_size)(particles)
        if losses.ndim != 1:
            raise ValueError(f"closure must return a loss with no axes, got shape {tuple(losses.shape[1:])}")
        if torch.isnan(losses).any():
            raise ValueError(
                f"closure returned NaN at step {step}, for particle {int(torch.isnan(losses).int().argmax())}"
            )
        require_a_finite_value(losses, step)
        return losses

    def _particles(self) -> list[tuple[str, Tensor]]:
        return [(name, self.state[parameter]["particles"]) for name, parameter in self._trained.items()]

    def _move(self, weights: Tensor, batch: Tensor | None, settings: dict[str, Any]) -> None:
        toward, jitter = settings["drift"] * settings["step_size"], settings["noise"] * sqrt(settings["step_size"])
        moved, squares = 0.0, torch.zeros(self._n)
        for name, X in self._particles():
            parameter = self._trained[name]
            chosen = X if batch is None else X[batch.to(X.device)]
            consensus = torch.tensordot(weights.to(X), chosen, dims=1)
            away = X - consensus
            squares += away.square().flatten(1).sum(1).cpu()
            X.sub_(away, alpha=toward).addcmul_(away, self._normal(self._n, parameter), value=jitter)
            moved = max(moved, float((consensus - parameter).abs().max()))
            parameter.copy_(consensus)
        self.spread = float(squares.sqrt().mean())
        if moved < settings["kick_tolerance"]:
            for name, X in self._particles():
                X.add_(self._normal(self._n, self._trained[name]), alpha=jitter)

    def _normal(self, n: int, parameter: Tensor) -> Tensor:
        drawn = torch.randn(n, *parameter.shape, generator=self._generator, dtype=parameter.dtype)
        return drawn.to(parameter.device)
