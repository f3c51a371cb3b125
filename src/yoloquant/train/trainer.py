"""The training loop: SGD with parameter groups, warm-up, schedule, moving average of the weights, checkpoints."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from yoloquant.algorithms.calibrate import to_input
from yoloquant.progress import Update
from yoloquant.train.data import TrainingLoader
from yoloquant.train.ema import ExponentialMovingAverage
from yoloquant.train.hyperparameters import Hyperparameters
from yoloquant.train.schedule import Schedule

# The batch that hyperparameters are given for; smaller batches add up gradients until they have seen as many images.
NOMINAL_BATCH = 64


class LossResult(Protocol):
    """A loss, and its parts for logs."""

    total: Tensor
    parts: dict[str, Tensor]


class Loss(Protocol):
    """Raw maps and targets -> loss; see `yoloquant.models.yolov5.loss.YOLOv5Loss`."""

    def __call__(self, raw_maps: list[Tensor], targets: Tensor) -> LossResult:
        """Loss of a batch."""
        ...


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Three groups, as YOLOv5 has them: biases, weights of norms (neither decays), all other weights (these decay)."""
    norms = tuple(cls for name, cls in nn.__dict__.items() if isinstance(cls, type) and "Norm" in name)
    biases, plain, decayed = [], [], []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, norms):
                plain.append(parameter)
            else:
                decayed.append(parameter)
    return [
        {"params": biases, "weight_decay": 0.0, "role": "bias"},
        {"params": plain, "weight_decay": 0.0, "role": "norm"},
        {"params": decayed, "weight_decay": weight_decay, "role": "weight"},
    ]


@dataclass
class EpochResult:
    """What an epoch did.

    Attributes:
        epoch: from 0.
        losses: means of the loss parts over the epoch.
        score: what `evaluate` answered; NaN where it was not called.
        learning_rate: at the end of the epoch.
    """

    epoch: int
    losses: dict[str, float]
    score: float
    learning_rate: float


class Trainer:
    """Trains a network.

    Attributes:
        network: being trained.
        average: its moving average, which is what is evaluated and kept.
        best: state dict of the average at the best score so far.
        best_score: that score.
        epoch: the next epoch to run.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        loader: TrainingLoader,
        epochs: int,
        parameters: Hyperparameters | None = None,
        *,
        evaluate: Callable[[nn.Module], float] | None = None,
        evaluate_every: int = 1,
        cosine: bool = False,
        gradient_clip: float = 10.0,
        device: str = "cpu",
        folder: Path | None = None,
    ) -> None:
        """Set up optimizer and schedule.

        Args:
            network: images -> raw maps; changed in place.
            loss: of raw maps.
            loader: of batches.
            epochs: in all; the schedule ends there.
            parameters: hyperparameters; YOLOv5's defaults without.
            evaluate: network -> score, higher is better; called on the moving average.
            evaluate_every: epochs between evaluations; the last is always evaluated.
            cosine: schedule instead of a line.
            gradient_clip: largest norm of the gradient.
            device: to train on.
            folder: for `last.pt` (to resume) and `results.csv`; nothing is written without.
        """
        self.parameters = parameters or Hyperparameters()
        self.device = torch.device(device)
        self.network = network.to(self.device)
        self.loss, self.loader, self.epochs = loss, loader, epochs
        self._evaluate, self._every, self._clip, self._folder = evaluate, evaluate_every, gradient_clip, folder
        self._schedule = Schedule(self.parameters, epochs, len(loader), "cosine" if cosine else "linear")
        self._accumulate = max(1, round(NOMINAL_BATCH / loader.batch_size))
        decay = self.parameters.weight_decay * loader.batch_size * self._accumulate / NOMINAL_BATCH
        groups = parameter_groups(self.network, decay)
        self.optimizer = torch.optim.SGD(groups, lr=self.parameters.lr0, momentum=self.parameters.momentum, nesterov=True)
        self.average = ExponentialMovingAverage(self.network)
        self.best: dict[str, Tensor] | None = None
        self.best_score = -math.inf
        self.epoch = 0
        self._since_step = 0

    def run(self, progress: Update | None = None, on_epoch: Callable[[EpochResult], None] | None = None) -> None:
        """Train the epochs that are left.

        Args:
            progress: called with (batches done, batches) of the whole run.
            on_epoch: called after each epoch.
        """
        while self.epoch < self.epochs:
            losses = self._train_epoch(progress)
            last = self.epoch + 1 == self.epochs
            score = math.nan
            if self._evaluate and (last or (self.epoch + 1) % self._every == 0):
                score = self._evaluate(self.average.network)
                if score > self.best_score:
                    self.best_score = score
                    self.best = {name: value.clone() for name, value in self.average.network.state_dict().items()}
            result = EpochResult(self.epoch, losses, score, self.optimizer.param_groups[-1]["lr"])
            self.epoch += 1
            self._write(result)
            if on_epoch:
                on_epoch(result)

    def _train_epoch(self, progress: Update | None) -> dict[str, float]:
        self.network.train()
        total: dict[str, float] = {}
        batches = len(self.loader)
        for number, (images, targets) in enumerate(self.loader.epoch(self.epoch)):
            step = self.epoch * batches + number
            accumulate = self._set_rates(step)
            raw_maps = list(self.network(to_input(images.to(self.device))))
            result = self.loss(raw_maps, targets.to(self.device))
            result.total.backward()
            self._since_step += 1
            if self._since_step >= accumulate:
                nn.utils.clip_grad_norm_(self.network.parameters(), self._clip)
                self.optimizer.step()
                self.optimizer.zero_grad()
                self.average.update(self.network)
                self._since_step = 0
            for name, value in result.parts.items():
                total[name] = total.get(name, 0.0) + float(value) / batches
            if progress:
                progress(step + 1, self.epochs * batches)
        return total

    def _set_rates(self, step: int) -> int:
        """Set learning rates and momentum of a step; answers how many batches make an optimizer step."""
        rates = self._schedule.rates(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rates.biases if group["role"] == "bias" else rates.weights
            group["momentum"] = rates.momentum
        warmup_steps = max(1.0, self.parameters.warmup_epochs * len(self.loader))
        risen = min(1.0, step / warmup_steps)
        return max(1, round(1 + (self._accumulate - 1) * risen))

    def _write(self, result: EpochResult) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        row = {"epoch": result.epoch, **result.losses, "score": result.score, "lr": result.learning_rate}
        log = self._folder / "results.csv"
        is_new = not log.exists()
        with log.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_new:
                writer.writeheader()
            writer.writerow(row)
        partial = self._folder / "last.pt.partial"
        torch.save(self.state_dict(), partial)
        partial.replace(self._folder / "last.pt")

    def state_dict(self) -> dict[str, Any]:
        """Everything that resuming needs."""
        return {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "updates": self.average.updates,
            "optimizer": self.optimizer.state_dict(),
            "gradients": [p.grad for p in self.network.parameters()],
            "since_step": self._since_step,
            "best": self.best,
            "best_score": self.best_score,
            "epoch": self.epoch,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; the curve is that of an unbroken run."""
        self.network.load_state_dict(state["network"])
        self.average.network.load_state_dict(state["average"])
        self.average.updates = state["updates"]
        self.optimizer.load_state_dict(state["optimizer"])
        for parameter, gradient in zip(self.network.parameters(), state["gradients"], strict=True):
            parameter.grad = gradient
        self._since_step = state["since_step"]
        self.best, self.best_score, self.epoch = state["best"], state["best_score"], state["epoch"]
