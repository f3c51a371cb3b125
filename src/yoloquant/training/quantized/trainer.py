"""The loop of quantization-aware training: what is trained, validated, kept, and taken back when it goes wrong."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from yoloquant.data.images import to_input
from yoloquant.distributed import device_of, process_number, sum_over_processes
from yoloquant.errors import CheckpointError
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.training.distributed import sum_gradients
from yoloquant.training.loader import TrainingLoader
from yoloquant.training.memory_format import memory_format
from yoloquant.training.quantized.guard import Fault, Guard
from yoloquant.training.quantized.objectives import Objective
from yoloquant.training.quantized.oscillation import Oscillations, damp
from yoloquant.training.quantized.relative_rates import RelativeSteps

if TYPE_CHECKING:
    from yoloquant.training.quantized.step import Train
from yoloquant.training.quantized.trainable import TrainedParts, begin_training, finish_training
from yoloquant.training.run_state import load_optimizer_tensors, load_state, optimizer_tensors, save_state
from yoloquant.training.schedule import decay

# Each time the guard steps back, the learning rate becomes this share of itself.
_SLOWER = 0.5
_SGD_MOMENTUM = 0.937

# (steps done, steps in all, words on where it stands)
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TrainResult:
    """What training gained.

    Attributes:
        before: Error on the validation images at the start.
        after: Error of the kept state; never larger.
        faults: Findings of the guard, in order.
    """

    before: float
    after: float
    faults: tuple[str, ...]


class QuantizedTraining:
    """Trains a quantized detector in place.

    Several processes train as one does: losses and gradients are those of the whole batch in all of them, so that each takes the
    same steps and finds the same faults. They must begin with the same network.

    Attributes:
        parts: Parameters to train.
        guard: Guard that watches the training.
        epoch: The next epoch to run.
        best_error: Minimum validation error so far.
    """

    def __init__(
        self,
        detector: QuantizedDetector,
        objective: Objective,
        judge: Callable[[], float],
        loader: TrainingLoader,
        settings: Train,
        *,
        checkpoint: Path | None = None,
        note: Callable[[str], None] = lambda _message: None,
    ) -> None:
        """Put quantizers into training.

        Args:
            detector: Calibrated detector.
            objective: Function that computes the loss of a batch.
            judge: Function that returns the error of the network on images that are not trained on; lower is better, and the same
                in all processes.
            loader: Training batches.
            settings: Settings of the recipe.
            checkpoint: File that the run is kept in after each epoch, and goes on from; None for no file.
            note: Callback for what the guard finds.
        """
        self.detector, self.objective, self.judge, self.loader, self.settings = detector, objective, judge, loader, settings
        self._checkpoint, self._note = checkpoint, note
        self._device = device_of(detector.network)
        self._order = memory_format(detector.network, torch.device("cpu"))
        detector.network.to(memory_format=self._order)  # type: ignore[call-overload]
        self._original = self._state()
        self.parts = begin_training(detector, settings)
        self.optimizer = _optimizer(self.parts, settings)
        self.guard = Guard(self.parts.trained)
        trained = [*self.parts.weights.values(), *self.parts.others] if settings.relative else []
        self._sizes = RelativeSteps(trained)
        few_bits = {quantizer: weight for quantizer, weight in self.parts.weights.items() if quantizer.spec.bits <= 4}
        self._oscillations = Oscillations({} if self.parts.owners else few_bits)
        self.epoch, self._slowdown, self._faults = 0, 1.0, list[str]()
        self._batches = min(len(loader), settings.batches or len(loader))
        self._start_error = self.best_error = math.inf
        self._good = self._state()
        self._best, self._average = self._good, self._state()

    def run(self, progress: Progress = lambda _done, _total, _detail: None) -> TrainResult:
        """Train the epochs that are left, then make everything a constant, with the best validation error.

        Args:
            progress: Callback after each step.

        Raises:
            CheckpointError: The checkpoint is damaged.
        """
        if not self._resume():
            self._start_error = self.best_error = self.judge()
        with torch.enable_grad():
            while self.epoch < self.settings.epochs and len(self._faults) <= self.settings.max_rollbacks:
                self._train_epoch(progress)
                is_judged = (self.epoch + 1) % self.settings.val_every == 0 or self.epoch + 1 == self.settings.epochs
                if is_judged:
                    self._judge_epoch()
                self.epoch += 1
                if is_judged:
                    self._save()
        self._load(self._best)
        finish_training(self.detector, self.parts)
        kept = self.best_error
        if not self.best_error < (1.0 - self.settings.min_gain) * self._start_error:
            kept = self._start_error
            # To the last bit: the logarithm of a scale and back is not the scale.
            self._load(self._original)
        return TrainResult(self._start_error, kept, tuple(self._faults))

    def _train_epoch(self, progress: Progress) -> None:
        if self.settings.scale_epochs is not None and self.epoch >= self.settings.scale_epochs:
            for trained in self.parts.moving().values():
                trained.stop()
        batches = self.loader.epoch(self.epoch)
        for number in range(self._batches):
            images, targets = next(batches)
            done = self.epoch + number / self._batches
            loss, fault = self._step(to_input(images, self._device).contiguous(memory_format=self._order), targets, done)
            if fault is not None:
                self._step_back(fault)
                if len(self._faults) > self.settings.max_rollbacks:
                    break
            detail = f"loss {loss:.3f}, validated {self.best_error:.3f} of {self._start_error:.3f}"
            progress(self.epoch * self._batches + number + 1, self.settings.epochs * self._batches, detail)
        batches.close()  # type: ignore[attr-defined]

    def _step(self, images: Tensor, targets: Tensor, done: float) -> tuple[float, Fault | None]:
        """One optimizer step; `done` counts epochs."""
        targets = targets.to(self._device)
        settings, share = self.settings, done / self.settings.epochs
        factor = decay(settings.schedule, settings.epochs, settings.lrf)(done) * self._slowdown
        if share < settings.warm_up:
            factor *= min((share + 1.0 / (settings.epochs * self._batches)) / settings.warm_up, 1.0)
        for group in self.optimizer.param_groups:
            group["lr"] = factor * (settings.scale_learning_rate if group["role"] == "scale" else settings.rate_at(int(done)))
        self.optimizer.zero_grad()
        with torch.autocast(self._device.type, torch.bfloat16, enabled=settings.amp):
            loss = self.objective(images, targets)
        value = float(sum_over_processes(loss))
        norm = math.inf
        if math.isfinite(value):
            loss.backward()
            sum_gradients(self._parameters())
            norm = float(nn.utils.clip_grad_norm_(self._parameters(), settings.gradient_clip))
        if math.isfinite(norm):
            with self._sizes.scaled():
                self.optimizer.step()
            damp(self.parts.weights, 0.0 if self.parts.owners else settings.damping * share)
            self._oscillations.update()
        fault = self.guard.after_step(value, norm)
        if fault is None:
            self._follow()
        return value, fault

    def _parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.optimizer.param_groups for parameter in group["params"]]

    @torch.no_grad()
    def _follow(self) -> None:
        """Move the average towards the network."""
        if self.settings.ema:
            for name, value in self.detector.network.state_dict().items():
                if value.is_floating_point():
                    self._average[name].lerp_(value, 1.0 - self.settings.ema)

    def _judge_epoch(self) -> None:
        current = self._state()
        candidate = {name: value.clone() for name, value in self._average.items()} if self.settings.ema else current
        self._load(candidate)
        error = self.judge()
        self._load(current)
        if error < self.best_error:
            self.best_error, self._best = error, candidate
        fault = self.guard.after_judging(error, self.best_error)
        if fault is not None:
            self._step_back(fault)
        else:
            self._good = current
            self.guard.mark_good()

    def _step_back(self, fault: Fault) -> None:
        """Go on from the last good state, slower, and without moving the scales at fault."""
        self._load(self._good)
        for name in fault.quantizers:
            self.parts.trained[name].stop()
        self._slowdown *= _SLOWER
        self.optimizer.state.clear()
        self._average = {name: value.clone() for name, value in self._good.items()}
        self._faults.append(str(fault))
        self._note(f"training stepped back in epoch {self.epoch + 1} and goes on at {self._slowdown:g} of its rate: {fault}")

    def _state(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.detector.network.state_dict().items()}

    def _load(self, state: dict[str, Tensor]) -> None:
        self.detector.network.load_state_dict(state)

    def _save(self) -> None:
        if self._checkpoint is None or process_number() != 0:
            return
        self._checkpoint.parent.mkdir(parents=True, exist_ok=True)
        groups = {
            "network": self._good,
            "best": self._best,
            "average": self._average if self.settings.ema else {},
            "optimizer": optimizer_tensors(self.optimizer),
            "oscillations": self._oscillations.tensors(),
        }
        facts: dict[str, Any] = {
            "epoch": self.epoch,
            "slowdown": self._slowdown,
            "errors": [self._start_error, self.best_error],
            "faults": self._faults,
            "losses": list(self.guard.losses),
            "stopped": [name for name, trained in self.parts.trained.items() if not trained.moving],
        }
        save_state(self._checkpoint, groups, facts)

    def _resume(self) -> bool:
        if self._checkpoint is None or not self._checkpoint.is_file():
            return False
        groups, facts = load_state(self._checkpoint)
        try:
            self._load(groups["network"])
            self._good, self._best = self._state(), groups["best"]
            self._average = groups.get("average") or self._state()
            load_optimizer_tensors(self.optimizer, groups.get("optimizer", {}))
            self._oscillations.restore(groups.get("oscillations", {}))
            self.epoch, self._slowdown = int(facts["epoch"]), float(facts["slowdown"])
            self._start_error, self.best_error = facts["errors"]
            self._faults = list(facts["faults"])
            self.guard.losses.extend(facts["losses"])
            for name in facts["stopped"]:
                self.parts.trained[name].stop()
            self.guard.mark_good()
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self._checkpoint} does not fit this run: delete it to begin anew") from error
        return True


def _optimizer(parts: TrainedParts, settings: Train) -> torch.optim.Optimizer:
    groups: list[dict[str, Any]] = [
        {"params": [*parts.weights.values()], "role": "weight"},
        {"params": parts.others, "role": "other"},
        {"params": parts.scale_parameters(), "role": "scale"},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=_SGD_MOMENTUM, nesterov=True)
    return torch.optim.Adam(groups, lr=1.0)
