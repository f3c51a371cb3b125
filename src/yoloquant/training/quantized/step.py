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
    """Train the quantized network; it never ends worse than it began, by images that it does not train on.

    Attributes:
        images: Number of training images, drawn from where the calibration images are; None for the calibration images alone.
        epochs: Number of passes over the training images.
        batches: Maximum number of batches in an epoch; None for all.
        batch_size: Number of images in a step.
        crop_size: Side of square training images, pixels; smaller ones than the network's input are cut from images of its size.
            None for the network's own.
        teacher: Source of the loss: "detections" (boxes and scores of the float network, each weighted by its score),
            "features" (squared error of the outputs of the network's blocks), "both", or "labels".
        block_stride: Distance between the blocks that "features" compares; the last before the head is always compared.
        detection_weight: Weight of "detections" in "both"; their gradients are far larger than those of features.
        optimizer: "adam" or "sgd" (Nesterov's momentum 0.937).
        learning_rate: Learning rate of weights and biases, or a mapping from epochs to the learning rate from there on.
        relative: Whether the learning rate is a share of the root mean square of each output channel (of biases a tenth of
            theirs), so that small and large channels move alike; about six times the number moves YOLOv5n as far on average.
        schedule: Course of the learning rate over the run, down to the share `lrf`: "cosine" or "linear".
        lrf: Share of the learning rate that is left in the end.
        warm_up: Share of the run in which the learning rate rises, since Adam's first steps move everything alike.
        amp: Whether to train in mixed precision: layers compute in bf16, while weights, losses and validation stay float32. For
            4-bit activations, whose steps are far coarser; those of 8 bits are as fine as bf16 itself.
        train_weights: Whether weights and biases change, too, and not the quantizers alone.
        weights: Treatment of weight scales: "fixed", "observed" (they follow the weights), "lsq" (learned), or "dorefa" (fixed,
            while weights pass through a hyperbolic tangent).
        activations: Treatment of activation scales: "fixed", "observed", "lsq", "lsq+" (zero points are learned, too), or "pact"
            (learned from saturated values alone).
        scale_learning_rate: Learning rate of scales, in octaves: their logarithm to the base 2 is learned.
        scale_epochs: Number of epochs after which scales and zero points stay; None for all.
        damping: Share of its distance from the middle of its step that a weight loses in each optimizer step in the end; it rises
            from 0 over the run. Against oscillation at few bits.
        gradient_clip: Maximum norm of the gradient.
        ema: Decay of the moving average of everything that is trained; the average is then validated and kept. 0 for none.
        val_images: Number of these images that validate and do not train.
        val_every: Number of epochs between validations; the network is saved at each, and kept where it is the best. The last
            epoch is always validated.
        min_gain: Minimum share of its error that the network must lose on the validation images, else it stays as it was: smaller
            gains there are chance, and mAP does not follow them.
        max_rollbacks: Maximum number of steps back after training ran away, before the run ends with the best state.
        augmentation: Hyperparameters of images by YOLOv5's names; without augmentation by default.
        seed: Seed of the order of images and their augmentation.
    """

    name: Literal["train"] = "train"
    images: Annotated[int, Field(ge=4)] | None = None
    epochs: Count = 8
    batches: Count | None = None
    batch_size: Count = 8
    crop_size: Annotated[int, Field(ge=32)] | None = None
    teacher: Literal["detections", "features", "both", "labels"] = "both"
    block_stride: Count = 1
    detection_weight: Annotated[float, Field(gt=0.0)] = 0.3
    optimizer: Literal["adam", "sgd"] = "adam"
    learning_rate: Rate | dict[Annotated[int, Field(ge=0)], Rate] = 2e-5
    relative: bool = False
    schedule: Literal["linear", "cosine"] = "cosine"
    lrf: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    warm_up: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    amp: bool = False
    train_weights: bool = True
    weights: Literal["fixed", "observed", "lsq", "dorefa"] = "lsq"
    activations: Literal["fixed", "observed", "lsq", "lsq+", "pact"] = "lsq"
    scale_learning_rate: Rate = 0.003
    scale_epochs: Annotated[int, Field(ge=0)] | None = None
    damping: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    gradient_clip: Rate = 10.0
    ema: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    val_images: Count = 24
    val_every: Count = 1
    min_gain: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.05
    max_rollbacks: Annotated[int, Field(ge=0)] = 6
    augmentation: dict[str, float] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if isinstance(self.learning_rate, dict) and 0 not in self.learning_rate:
            raise ValueError("learning_rate names epochs but not epoch 0, where the run begins")
        if not self.train_weights and {self.weights, self.activations} <= {"fixed", "observed", "dorefa"}:
            raise ValueError("nothing is trained: set train_weights, or learn scales with weights or activations lsq")
        return self

    def rate_at(self, epoch: int) -> float:
        """Learning rate of an epoch, before it falls with the run."""
        if not isinstance(self.learning_rate, dict):
            return self.learning_rate
        return self.learning_rate[max(start for start in self.learning_rate if start <= epoch)]

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
