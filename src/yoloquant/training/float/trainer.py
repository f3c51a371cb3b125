"""The training loop: SGD with parameter groups, warm-up, schedule, moving average of the weights, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from yoloquant.data.images import to_input
from yoloquant.distributed import process_count, process_number, sum_over_processes
from yoloquant.errors import CheckpointError, YoloquantError
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.losses.parts import LossParts
from yoloquant.progress import Update
from yoloquant.training.amp import Precision, in_float32
from yoloquant.training.distributed import distribute
from yoloquant.training.float.distillation import Teacher
from yoloquant.training.float.ema import ExponentialMovingAverage
from yoloquant.training.float.log import RunLog
from yoloquant.training.float.parameter_groups import parameter_groups
from yoloquant.training.float.protocols import EpochAware, EpochResult, Hook, Loss, LossResult, Score
from yoloquant.training.loader import TrainingLoader
from yoloquant.training.memory_format import memory_format
from yoloquant.training.run_state import (
    gradient_tensors,
    load_gradient_tensors,
    load_optimizer_tensors,
    load_state,
    optimizer_tensors,
    save_state,
)
from yoloquant.training.schedule import Schedule

# The batch that hyperparameters are given for; smaller batches add up gradients until they have seen as many images.
NOMINAL_BATCH = 64
STATE_NAME = "last.safetensors"


class Trainer:
    """Trains a network.

    Attributes:
        network: Network in training.
        average: Moving average of the network, which is what is evaluated and kept.
        best: State dict of the average at the best score so far.
        best_score: Best score so far.
        best_epoch: Epoch of the best score.
        epoch: The next epoch to run.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Loss,
        loader: TrainingLoader,
        epochs: int,
        parameters: Hyperparameters | None = None,
        *,
        evaluate: Callable[[nn.Module], float | Score] | None = None,
        evaluate_every: int = 1,
        patience: int | None = None,
        cosine: bool = False,
        gradient_clip: float = 10.0,
        device: str = "cpu",
        amp: bool = False,
        folder: Path | None = None,
        tensorboard: bool = False,
        nominal_batch: int = NOMINAL_BATCH,
        teacher: Teacher | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        """Set up optimizer and schedule.

        Args:
            network: Module from images to raw maps; changed in place.
            loss: Module that computes the loss of raw maps.
            loader: Loader of batches.
            epochs: Total number of epochs; the schedule ends there.
            parameters: Hyperparameters; YOLOv5's defaults without.
            evaluate: Function from a network to a score, higher is better; called on the moving average, in every process.
            evaluate_every: Number of epochs between evaluations; the last is always evaluated.
            patience: Number of epochs without a better score after which the run ends.
            cosine: Whether the learning rate falls in a cosine instead of a line.
            gradient_clip: Largest norm of the gradient.
            device: Device to train on.
            amp: Whether to train in mixed precision, see `Precision`.
            folder: Folder for `last.safetensors` (see `resume`) and `results.csv`; nothing is written without.
            tensorboard: Whether TensorBoard's event files are written into the folder, too.
            nominal_batch: Images that make an optimizer step; smaller batches are added up.
            teacher: Module that adds a distillation loss between student and teacher outputs.
            hooks: Hooks, called in their order.
        """
        self.parameters = parameters or Hyperparameters()
        self.device = torch.device(device)
        # Images and weights in the same order save a conversion in each layer.
        self._format = memory_format(network, self.device)
        self.network = network.to(self.device).to(memory_format=self._format)  # type: ignore[call-overload]
        if isinstance(loss, nn.Module):
            loss.to(self.device)
        self.loss, self.loader, self.epochs, self.hooks = loss, loader, epochs, tuple(hooks)
        self._teacher = teacher
        self._evaluate, self._every, self._patience, self._clip = evaluate, evaluate_every, patience, gradient_clip
        self._folder = folder if process_number() == 0 else None
        self._state_path = None if folder is None else folder / STATE_NAME
        self._log = None if self._folder is None else RunLog(self._folder, tensorboard=tensorboard)
        self._schedule = Schedule(self.parameters, epochs, len(loader), "cosine" if cosine else "linear")
        self._accumulate = max(1, round(nominal_batch / loader.batch_size))
        decay = self.parameters.weight_decay * loader.batch_size * self._accumulate / nominal_batch
        self.average = ExponentialMovingAverage(self.network)
        # After the average was copied, which so keeps the layers that files know.
        self._in_step = distribute(self.network, self.device)
        groups = parameter_groups(self.network, decay)
        self.optimizer = torch.optim.SGD(groups, lr=self.parameters.lr0, momentum=self.parameters.momentum, nesterov=True)
        self.precision = Precision(self.device, amp=amp)
        self.best: dict[str, Tensor] | None = None
        self.best_score, self.best_epoch = -math.inf, -1
        self.epoch = 0
        self._since_step = 0

    def run(self, progress: Update | None = None, on_epoch: Callable[[EpochResult], None] | None = None) -> None:
        """Train the epochs that are left.

        Args:
            progress: Callback, called with (batches done, batches) of the whole run, and the losses so far.
            on_epoch: Callback after each epoch.

        Raises:
            YoloquantError: The loss is not finite.
        """
        while self.epoch < self.epochs and not self._is_out_of_patience():
            for hook in self.hooks:
                hook.epoch_started(self)
            losses = self._train_epoch(progress)
            score = self._scored()
            rate = self.optimizer.param_groups[-1]["lr"]
            result = EpochResult(self.epoch, losses, score.value, rate, dict(score.figures))
            self.epoch += 1
            for hook in self.hooks:
                hook.epoch_done(self, result)
            self._write(result)
            if on_epoch:
                on_epoch(result)

    def batch_loss(self, images: Tensor, targets: Tensor) -> LossResult:
        """Loss of one batch.

        Args:
            images: Images, float32 `(N, 3, H, W)`, 0..1, on the device.
            targets: `(n, 6)` image index, class, centre x, centre y, width, height; normalised to 0..1.
        """
        with self.precision.autocast():
            raw_maps = in_float32(self._in_step(images))
        result = self.loss(raw_maps, targets)
        if self._teacher is None:
            return result
        cost = self._teacher(images, raw_maps)
        return LossParts(result.total + cost, {**result.parts, "teach": cost.detach() / (len(images) * process_count())})

    def _is_out_of_patience(self) -> bool:
        return self._patience is not None and self.best is not None and self.epoch - 1 - self.best_epoch >= self._patience

    def _scored(self) -> Score:
        last = self.epoch + 1 == self.epochs
        if self._evaluate is None or not (last or (self.epoch + 1) % self._every == 0):
            return Score(math.nan)
        answer = self._evaluate(self.average.network)
        score = answer if isinstance(answer, Score) else Score(answer)
        if score.value > self.best_score:
            self.best_score, self.best_epoch = score.value, self.epoch
            self.best = {name: value.clone() for name, value in self.average.network.state_dict().items()}
        return score

    def _train_epoch(self, progress: Update | None) -> dict[str, float]:
        self.network.train()
        if isinstance(self.loss, EpochAware):
            self.loss.start_epoch(self.epoch)
        total: dict[str, Tensor] = {}
        batches = len(self.loader)
        for number, (images, targets) in enumerate(self.loader.epoch(self.epoch)):
            step = self.epoch * batches + number
            accumulate = self._set_rates(step)
            inputs = to_input(images.to(self.device)).contiguous(memory_format=self._format)
            result = self.batch_loss(inputs, targets.to(self.device))
            if not torch.isfinite(sum_over_processes(result.total)):
                raise YoloquantError(f"the loss is not finite in epoch {self.epoch}: lower lr0, or raise warmup_epochs")
            # DistributedDataParallel averages gradients; the shares of a loss want their sum.
            self.precision.backward(result.total * process_count())
            self._since_step += 1
            if self._since_step >= accumulate:
                self._step()
            for name, value in result.parts.items():
                total[name] = total.get(name, torch.zeros_like(value)) + value
            if progress:
                # Of this process alone, which is close enough for a bar.
                scale = process_count() / (number + 1)
                so_far = " ".join(f"{name} {float(value) * scale:.4f}" for name, value in total.items())
                progress(step + 1, self.epochs * batches, so_far)
        return {name: float(sum_over_processes(value)) / batches for name, value in total.items()}

    def _step(self) -> None:
        for hook in self.hooks:
            hook.gradients_ready(self)
        self.precision.step(self.optimizer, self.network, self._clip)
        self.optimizer.zero_grad()
        self.average.update(self.network)
        self._since_step = 0
        for hook in self.hooks:
            hook.stepped(self)

    def _set_rates(self, step: int) -> int:
        """Set learning rates and momentum of a step; returns how many batches make an optimizer step."""
        rates = self._schedule.rates(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rates.biases if group["role"] == "bias" else rates.weights
            group["momentum"] = rates.momentum
        risen = min(1.0, step / max(self._schedule.warmup_steps, 1))
        return max(1, round(1 + (self._accumulate - 1) * risen))

    def _write(self, result: EpochResult) -> None:
        if self._log is None:
            return
        row = {"epoch": result.epoch, **result.losses, **result.figures, "score": result.score, "lr": result.learning_rate}
        self._log.write(row)
        self.save()

    def save(self) -> None:
        """Write `last.safetensors` into the folder."""
        assert self._state_path is not None
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
            "best_epoch": self.best_epoch,
            "scaler": self.precision.scaler.state_dict(),
        }
        save_state(self._state_path, groups, facts)

    def resume(self) -> bool:
        """Continue where the state in the folder was left; the curve is that of an unbroken run.

        Returns:
            Whether there was a state.

        Raises:
            CheckpointError: The state is damaged or of another network.
        """
        if self._state_path is None or not self._state_path.is_file():
            return False
        groups, facts = load_state(self._state_path)
        try:
            self.network.load_state_dict(groups["network"])
            self.average.network.load_state_dict(groups["average"])
            load_optimizer_tensors(self.optimizer, groups.get("optimizer", {}))
            load_gradient_tensors(self.network.parameters(), groups.get("gradients", {}))
            self.average.updates, self.epoch = int(facts["updates"]), int(facts["epoch"])
            self._since_step, self.best_epoch = int(facts["since_step"]), int(facts["best_epoch"])
            self.best = groups.get("best")
            self.best_score = -math.inf if facts["best_score"] is None else float(facts["best_score"])
            self.precision.scaler.load_state_dict(facts["scaler"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self._state_path} is of another network, or damaged: train into an empty folder") from error
        return True
