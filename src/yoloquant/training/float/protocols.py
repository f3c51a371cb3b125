"""What the training loop and its user say to each other: losses, scores, results of epochs, hooks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from torch import Tensor

if TYPE_CHECKING:
    from yoloquant.training.float.trainer import Trainer


class LossResult(Protocol):
    """A loss, and its parts for logs. In several processes, each holds its share: the shares' sum is the whole batch's."""

    @property
    def total(self) -> Tensor:
        """Scalar to minimise."""
        ...

    @property
    def parts(self) -> Mapping[str, Tensor]:
        """Name -> value, detached."""
        ...


class Loss(Protocol):
    """Raw maps and targets -> loss; see `yoloquant.training.losses.loss_for`."""

    def __call__(self, raw_maps: list[Tensor], targets: Tensor) -> LossResult:
        """Loss of a batch."""
        ...


@runtime_checkable
class EpochAware(Protocol):
    """A loss that changes over the run."""

    def start_epoch(self, epoch: int) -> None:
        """Called before each epoch, which counts from 0."""


@dataclass(frozen=True)
class Score:
    """What an evaluation returns: the number to choose the best epoch by, and figures for logs."""

    value: float
    figures: Mapping[str, float] = field(default_factory=dict)


@dataclass
class EpochResult:
    """What an epoch did.

    Attributes:
        epoch: Epoch from 0.
        losses: Means of the loss parts over the epoch.
        score: Score that `evaluate` returned; NaN where it was not called.
        learning_rate: Learning rate at the end of the epoch.
        figures: Figures of the evaluation, for logs.
    """

    epoch: int
    losses: dict[str, float]
    score: float
    learning_rate: float
    figures: dict[str, float] = field(default_factory=dict)


class Hook:
    """What acts on a run from outside; each method does nothing by itself."""

    def epoch_started(self, trainer: Trainer) -> None:
        """`trainer.epoch` is about to run."""

    def gradients_ready(self, trainer: Trainer) -> None:
        """The optimizer is about to step."""

    def stepped(self, trainer: Trainer) -> None:
        """The optimizer has stepped."""

    def epoch_done(self, trainer: Trainer, result: EpochResult) -> None:
        """An epoch is over and evaluated, and not written yet."""
