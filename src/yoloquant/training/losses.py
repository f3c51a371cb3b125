"""The loss of a detector by its family."""

from __future__ import annotations

from yoloquant.errors import YoloquantError
from yoloquant.models.family import LossRequest, Trainable
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.registry import family_for
from yoloquant.training.float.protocols import Loss


def loss_for(detector: Trainable, parameters: Hyperparameters, image_size: int, epochs: int = 1) -> Loss:
    """The family's loss.

    Gains are given for 80 classes, images of 640 pixels and three levels where a family scales them, see `anchor_settings` of
    YOLOv5.

    Args:
        detector: Detector, float or quantized.
        parameters: Hyperparameters: gains, and how cells are matched; see `hyperparameters_for`.
        image_size: Side of the training images, pixels.
        epochs: Number of epochs of the run, for losses that change over it.

    Raises:
        YoloquantError: The detector's head has no loss here.
    """
    family = family_for(detector)
    if family is None or family.loss is None:
        raise YoloquantError(
            f"there is no training loss for the head of this {detector.family} detector: train from a checkpoint of YOLOv5 to "
            "YOLO26"
        )
    return family.loss(LossRequest(detector=detector, parameters=parameters, image_size=image_size, epochs=epochs))
