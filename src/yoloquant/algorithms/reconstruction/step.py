"""The step `reconstruct`."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from yoloquant.algorithms.reconstruction.checkpoints import RegionCheckpoints, state_key
from yoloquant.algorithms.reconstruction.reconstruct import RegionResult, reconstruct
from yoloquant.algorithms.step import Step, step
from yoloquant.data.contents import contents_of
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


@step
class Reconstruct(Step):
    """Let regions of the network learn, without labels, to reproduce the float network's output.

    Attributes:
        unit: Part of the network that learns at a time: "layer" (AdaRound), "region" of at most `region_layers` layers, "block"
            of the network's top level (BRECQ), or "network".
        region_layers: Maximum number of weighted layers in a "region".
        loss: "mse", "fisher" (squared error weighted by squared gradients of the detection error), or "detection" (the error of
            boxes and scores itself, for the unit "network").
        rounding: Method that learns the rounding of weights: "sign" (SignRound), "soft" (AdaRound), or "nearest", not learned.
        scales: Whether activation scales are learned.
        biases: Whether biases are learned.
        images: Number of calibration images that are used.
        iterations: Number of optimizer steps for each region.
        batch_size: Maximum number of images in a step; fewer where maps are large.
        qdrop: Share of activations that pass unquantized in training (QDrop).
        sign_learning_rate: Distance that "sign" can move each weight in all iterations together, in steps of its scale.
        max_shift: Maximum distance of a weight from its float value under "sign", in steps; one half chooses between the two
            neighbours.
        rounding_learning_rate: Learning rate of "soft".
        scale_learning_rate: Learning rate of scales, as a share of each.
        bias_learning_rate: Learning rate of biases, as a share of their mean size.
        rounding_weight: Weight of the rounding's indecision in the loss.
        beta: Exponent of the indecision, at first and at last.
        warm_up: Share of the iterations before indecision counts.
        cache: Storage of values between regions: "memory", "disk", or "auto", which takes the disk where memory is short.
    """

    name: Literal["reconstruct"] = "reconstruct"
    unit: Literal["layer", "region", "block", "network"] = "block"
    region_layers: Count = 5
    loss: Literal["mse", "fisher", "detection"] = "mse"
    rounding: Literal["sign", "soft", "nearest"] = "sign"
    scales: bool = True
    biases: bool = True
    images: Count = 128
    iterations: Count = 400
    batch_size: Count = 16
    qdrop: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    sign_learning_rate: Annotated[float, Field(gt=0.0)] = 0.5
    max_shift: Annotated[float, Field(gt=0.0)] = 0.5
    rounding_learning_rate: Annotated[float, Field(gt=0.0)] = 0.02
    scale_learning_rate: Annotated[float, Field(gt=0.0)] = 0.001
    bias_learning_rate: Annotated[float, Field(gt=0.0)] = 0.001
    rounding_weight: Annotated[float, Field(ge=0.0)] = 1.0
    beta: tuple[float, float] = (20.0, 2.0)
    warm_up: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.2
    cache: Literal["auto", "memory", "disk"] = "auto"

    @model_validator(mode="after")
    def _consistent(self) -> Reconstruct:
        if self.loss == "detection" and self.unit != "network":
            raise ValueError("loss detection is of boxes and scores, which only unit network outputs")
        return self

    def compares_boxes(self) -> bool:
        """Where its loss is of boxes, or weighted by what boxes lose."""
        return self.loss != "mse"

    def apply(self, job: Job) -> None:
        """Let every region learn."""
        images, checkpoints = job.first_images(self.images), None
        if job.partial is not None:
            key = state_key(job.quantized, self, contents_of(job.images.calibration))
            checkpoints = RegionCheckpoints(job.partial, key)
        with job.reporter.step(f"Reconstruct each {self.unit}") as update:

            def progress(number: int, count: int, name: str, done: float, loss: float) -> None:
                whole = count * self.iterations
                update(round((number + done) * self.iterations), whole, f"{name}: loss {loss:.2f} of that before")

            results = reconstruct(job.quantized, job.reference, images, self, checkpoints, progress, job.device)
        _note_gain(job, results)


def _note_gain(job: Job, results: list[RegionResult]) -> None:
    shares = [result.after / result.before for result in results if result.before > 0.0]
    if shares:
        left = f"{statistics.geometric_mean(shares):.0%}"
        job.reporter.note(f"reconstruction left {left} of the loss, the mean of {len(shares)} regions")
