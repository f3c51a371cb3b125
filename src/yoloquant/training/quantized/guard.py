"""Watches a run of quantization-aware training, and says when it goes wrong and which quantizers are at fault.

A run collapses in few ways: the loss is no number, it jumps and stays, a scale runs away, or the validation error grows.
With power-of-two scales one range that grows a little can double a scale in a single step, so that all that reads it loses a bit
at once: the loss doubles and training does not recover.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from torch import Tensor

from yoloquant.quant.learned import TrainedQuantization
from yoloquant.training.quantized.trainable import octaves

# A loss that is so many times as large as it was, on average over so many steps, has jumped.
_SPIKE, _SPIKE_STEPS, _MEMORY = 2.0, 8, 64

# Octaves that a scale may move in a run; one that moved by half an octave since things were good may be what made the loss jump.
_RUNAWAY, _SUSPICIOUS = 3.0, 0.5

# A judged error that is so many times as large as the best one is a collapse, however smooth the way there.
_WORSE = 1.5


@dataclass(frozen=True)
class Fault:
    """Something went wrong.

    Attributes:
        reason: Reason, as half a sentence.
        quantizers: Names of the quantizers at fault, whose scales should stay at their last good values.
    """

    reason: str
    quantizers: tuple[str, ...] = ()

    def __str__(self) -> str:
        """The reason, and the quantizers by name."""
        if not self.quantizers:
            return self.reason
        more = f" and {len(self.quantizers) - 3} more" if len(self.quantizers) > 3 else ""
        return f"{self.reason}; scales that stay from now on: {', '.join(self.quantizers[:3])}{more}"


class Guard:
    """Looks at losses and scales after every step.

    Attributes:
        losses: Losses of the last steps that went well.
    """

    def __init__(self, trained: Mapping[str, TrainedQuantization]) -> None:
        """Take the scales as they are now for good."""
        self._trained = trained
        self._start = {name: octaves(one).clone() for name, one in trained.items()}
        self._good = dict(self._start)
        self.losses: deque[float] = deque(maxlen=_MEMORY)

    def mark_good(self) -> None:
        """Things are good as they are now."""
        self._good = {name: octaves(one).clone() for name, one in self._trained.items()}

    def after_step(self, loss: float, gradient_norm: float = 0.0) -> Fault | None:
        """What is wrong after a step, if anything.

        Args:
            loss: Loss of the step.
            gradient_norm: Gradient norm of the step.
        """
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            what = "loss" if not math.isfinite(loss) else "gradient"
            return Fault(f"the {what} is not finite", self._moved(_SUSPICIOUS))
        runaway = self._runaway()
        if runaway:
            return Fault("a scale ran away", runaway)
        self.losses.append(loss)
        recent, earlier = list(self.losses)[-_SPIKE_STEPS:], list(self.losses)[:-_SPIKE_STEPS]
        if len(earlier) >= _SPIKE_STEPS:
            ratio = sum(recent) / len(recent) / max(median(earlier), 1e-12)
            if ratio > _SPIKE:
                self.losses = deque(earlier, maxlen=_MEMORY)
                return Fault(f"the loss rose to {ratio:.1f} times what it was", self._moved(_SUSPICIOUS))
        return None

    def after_judging(self, error: float, best: float) -> Fault | None:
        """What is wrong with a validation error, if anything."""
        if math.isfinite(error) and error <= _WORSE * best:
            return None
        return Fault(
            f"the error of images that are not trained on rose to {error / best:.1f} times the best", self._moved(_SUSPICIOUS)
        )

    def _runaway(self) -> tuple[str, ...]:
        return self._beyond(self._start, _RUNAWAY)

    def _moved(self, least: float) -> tuple[str, ...]:
        return self._beyond(self._good, least)

    def _beyond(self, origin: Mapping[str, Tensor], least: float) -> tuple[str, ...]:
        """Names of moving quantizers with a scale that is no number, or at least a number of octaves from where it was."""
        distances = {name: (octaves(one) - origin[name]).abs().amax() for name, one in self._trained.items() if one.moving}
        return tuple(name for name, distance in distances.items() if not distance < least)
