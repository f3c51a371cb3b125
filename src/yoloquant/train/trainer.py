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
from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.progress import Update
from yoloquant.train.data import TrainingLoader
from yoloquant.train.ema import ExponentialMovingAverage
from yoloquant.train.hyperparameters import Hyperparameters
from yoloquant.train.schedule import Schedule
from yoloquant.train.state import (
    gradient_tensors,
    load_gradient_tensors,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_state,
)

# The batch that hyperparameters are given for; smaller batches add up gradients until they have seen as many images.
NOMINAL_BATCH = 64
STATE_NAME, LOG_NAME = "last.safetensors", "results.csv"


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
    """Three groups, as YOLOv5 has them: biases, weights of norms (neither decays), all other weights (these decay).

    Other vectors and scalars, such as learned scales of quantizers, are kept with the norms.
    """
    norms = tuple(cls for name, cls in nn.__dict__.items() if isinstance(cls, type) and "Norm" in name)
    biases, plain, decayed = [], [], []
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if name == "bias":
                biases.append(parameter)
            elif isinstance(module, norms) or parameter.ndim < 2:
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
        nominal_batch: int = NOMINAL_BATCH,
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
            folder: for `last.safetensors` (see `resume`) and `results.csv`; nothing is written without.
            nominal_batch: images that make an optimizer step; smaller batches are added up.
        """
        self.parameters = parameters or Hyperparameters()
        self.device = torch.device(device)
        # Images come channels last, see `to_input`; weights in the same order save a conversion in each layer.
        self.network = network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if isinstance(loss, nn.Module):
            loss.to(self.device)
        self.loss, self.loader, self.epochs = loss, loader, epochs
        self._evaluate, self._every, self._clip, self._folder = evaluate, evaluate_every, gradient_clip, folder
        self._schedule = Schedule(self.parameters, epochs, len(loader), "cosine" if cosine else "linear")
        self._accumulate = max(1, round(nominal_batch / loader.batch_size))
        decay = self.parameters.weight_decay * loader.batch_size * self._accumulate / nominal_batch
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

        Raises:
            YoloquantError: the loss is not finite.
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
            if not torch.isfinite(result.total):
                raise YoloquantError(f"the loss is not finite in epoch {self.epoch}: lower lr0, or raise warmup_epochs")
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
        is_first = result.epoch == 0
        with (self._folder / LOG_NAME).open("w" if is_first else "a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, row)
            if is_first:
                writer.writeheader()
            writer.writerow(row)
        self._save(self._folder / STATE_NAME)

    def _save(self, path: Path) -> None:
        groups = {
            "network": self.network.state_dict(),
            "average": self.average.network.state_dict(),
            "best": self.best or {},
            "optimizer": optimizer_tensors(self.optimizer),
            "gradients": gradient_tensors(self.network.parameters()),
        }
        facts = {
            "epoch": self.epoch,
            "updates": self.average.updates,
            "since_step": self._since_step,
            "best_score": None if self.best is None else self.best_score,
        }
        save_state(path, groups, facts)

    def resume(self) -> bool:
        """Continue where the state in the folder was left; the curve is that of an unbroken run.

        Returns:
            Whether there was a state.

        Raises:
            CheckpointError: the state is damaged or of another network.
        """
        if self._folder is None or not (path := self._folder / STATE_NAME).is_file():
            return False
        groups, facts = load_state(path)
        try:
            self.network.load_state_dict(groups["network"])
            self.average.network.load_state_dict(groups["average"])
            load_optimizer_tensors(self.optimizer, groups.get("optimizer", {}))
            load_gradient_tensors(self.network.parameters(), groups.get("gradients", {}))
            self.average.updates, self.epoch = int(facts["updates"]), int(facts["epoch"])
            self._since_step = int(facts["since_step"])
            self.best = groups.get("best")
            self.best_score = -math.inf if facts["best_score"] is None else float(facts["best_score"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{path} is of another network, or damaged: train into an empty folder") from error
        return True
