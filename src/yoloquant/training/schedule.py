"""Learning rate and momentum over a run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from yoloquant.models.hyperparameters import Hyperparameters

Shape = Literal["linear", "cosine"]


def decay(shape: Shape, epochs: int, last: float) -> Callable[[float], float]:
    """Factor of the learning rate by epoch: 1 at the start, `last` at the end."""
    if shape == "linear":
        return lambda epoch: max(1 - epoch / epochs, 0.0) * (1 - last) + last
    return lambda epoch: (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2 * (1 - last) + last


@dataclass(frozen=True)
class Rates:
    """What the optimiser uses in a step.

    Attributes:
        weights: Learning rate of weights.
        biases: Learning rate of biases; it falls in warm-up, where all others rise.
        momentum: Momentum of all parameters.
    """

    weights: float
    biases: float
    momentum: float


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then decay.

    Attributes:
        hyperparameters: Hyperparameters of the run.
        epochs: Number of epochs of the run.
        steps_per_epoch: Number of batches in an epoch.
        shape: Course of the decay.
    """

    hyperparameters: Hyperparameters
    epochs: int
    steps_per_epoch: int
    shape: Shape = "linear"

    @property
    def warmup_steps(self) -> int:
        """Steps over which rates rise, see `Hyperparameters.warmup_iterations`."""
        h = self.hyperparameters
        if h.warmup_epochs == 0:
            return 0
        steps = max(round(h.warmup_epochs * self.steps_per_epoch), h.warmup_iterations)
        return min(steps, max(self.epochs - 1, 0) * self.steps_per_epoch)

    def rates(self, step: int) -> Rates:
        """Rates of the `step`-th step of the whole run, counted from 0."""
        h = self.hyperparameters
        rate = h.lr0 * decay(self.shape, self.epochs, h.lrf)(step / self.steps_per_epoch)
        if step >= self.warmup_steps:
            return Rates(rate, rate, h.momentum)
        done = step / self.warmup_steps
        return Rates(
            rate * done,
            h.warmup_bias_lr + (rate - h.warmup_bias_lr) * done,
            h.warmup_momentum + (h.momentum - h.warmup_momentum) * done,
        )
