"""The recipe's step `train`: quantization-aware training, with labels or without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from yoloquant.algorithms.step import Step, step
from yoloquant.spec import Count
from yoloquant.training.quantized.run import train_quantized

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

Rate = Annotated[float, Field(gt=0.0)]


@step
class Train(Step):
    """Train the quantized network; it never ends worse than it began, as images that it does not train on judge it.

    Attributes:
        images: to train on, drawn from where the calibration images are; none for just those.
        epochs: over the training images.
        batches: of an epoch, at most; none for all.
        batch_size: images in a step.
        size: side of square training images, pixels; smaller ones than the network's input are cut from images of its size. None
            for the network's own.
        teacher: what gives the loss: "detections" (boxes and scores of the float network, each weighted by its score),
            "features" (squared error of the outputs of the network's blocks), "both", or "labels".
        stride: "features" takes every so many blocks, and the last before the head.
        detection_share: weight of "detections" in "both"; their gradients are far larger than those of features.
        optimizer: "adam" or "sgd" (Nesterov's momentum 0.937).
        rate: learning rate of weights and biases, or epoch -> rate from there on.
        relative: a rate is a share of the root mean square of each output channel (of biases a tenth of theirs), so that small
            and large channels move alike; about six times the number moves YOLOv5n as far on average.
        shape: how the rate falls to `last_rate` of itself over the run.
        last_rate: share of the rate that is left in the end.
        warm_up: share of the run in which the rate rises, since Adam's first steps move everything alike.
        amp: mixed precision: layers compute in bf16, while weights, losses and what is judged stay float32. For 4-bit
            activations, whose steps are far coarser; those of 8 bits are as fine as bf16 itself.
        train_weights: change weights and biases, too, and not the quantizers alone.
        weights: what becomes of weight scales: "fixed", "observed" (they follow the weights), "lsq" (learned), or "dorefa"
            (fixed, while weights pass through a hyperbolic tangent).
        activations: what becomes of activation scales: "fixed", "observed", "lsq", "lsq+" (zero points are learned, too), or
            "pact" (learned from saturated values alone).
        scale_rate: learning rate of scales, in octaves: their logarithm to the base 2 is learned.
        scale_epochs: epochs after which scales and zero points stay; none for all.
        damping: share of its distance from the middle of its step that a weight loses in each optimizer step in the end; it rises
            from 0 over the run. Against oscillation at few bits.
        gradient_clip: largest norm of the gradient.
        average: decay of the moving average of everything that is trained, which is what is judged and kept; 0 for none.
        judge_images: of these images, so many judge and do not train.
        judge_every: epochs after which the network is judged, kept where it is the best, and saved; the last one always.
        least_gain: share of its error that the network must lose on the images that judge, else it stays as it was: what they see
            of smaller gains is chance, and mAP does not follow it.
        recoveries: how often the guard steps back before the run ends with the best it has.
        augmentation: hyperparameters of images by YOLOv5's names; none of them without.
        seed: of the order of images and their augmentation.
    """

    name: Literal["train"] = "train"
    images: Annotated[int, Field(ge=4)] | None = None
    epochs: Count = 8
    batches: Count | None = None
    batch_size: Count = 8
    size: Annotated[int, Field(ge=32)] | None = None
    teacher: Literal["detections", "features", "both", "labels"] = "both"
    stride: Count = 1
    detection_share: Annotated[float, Field(gt=0.0)] = 0.3
    optimizer: Literal["adam", "sgd"] = "adam"
    rate: Rate | dict[Annotated[int, Field(ge=0)], Rate] = 2e-5
    relative: bool = False
    shape: Literal["linear", "cosine"] = "cosine"
    last_rate: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    warm_up: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    amp: bool = False
    train_weights: bool = True
    weights: Literal["fixed", "observed", "lsq", "dorefa"] = "lsq"
    activations: Literal["fixed", "observed", "lsq", "lsq+", "pact"] = "lsq"
    scale_rate: Rate = 0.003
    scale_epochs: Annotated[int, Field(ge=0)] | None = None
    damping: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    gradient_clip: Rate = 10.0
    average: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    judge_images: Count = 24
    judge_every: Count = 1
    least_gain: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    recoveries: Annotated[int, Field(ge=0)] = 6
    augmentation: dict[str, float] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if isinstance(self.rate, dict) and 0 not in self.rate:
            raise ValueError("rate names epochs but not epoch 0, where the run begins")
        if not self.train_weights and {self.weights, self.activations} <= {"fixed", "observed", "dorefa"}:
            raise ValueError("nothing is trained: set train_weights, or learn scales with weights or activations lsq")
        return self

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, before it falls with the run."""
        if not isinstance(self.rate, dict):
            return self.rate
        return self.rate[max(start for start in self.rate if start <= epoch)]

    def compares_boxes(self) -> bool:
        """Where the float network's boxes teach."""
        return self.teacher in ("detections", "both")

    def apply(self, job: Job) -> None:
        """Train the quantized network."""
        train_quantized(
            job.quantized,
            job.reference,
            self,
            job.images.sample(self.images),
            job.partial,
            job.reporter,
            job.device,
            remember=job.reference_matches,
        )
