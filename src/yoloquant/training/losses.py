"""The loss of a detector by its family, with gains for its size."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from yoloquant.errors import YoloquantError
from yoloquant.models.detector import Head
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.ultralytics.loss import YOLO26Loss, YOLOv8Loss
from yoloquant.models.yolov5.loss import YOLOv5Loss
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.models.yolov6.loss import YOLOv6Loss
from yoloquant.models.yolov7.loss import YOLOv7Loss
from yoloquant.training.float.protocols import Loss
from yoloquant.training.hyperparameters import Hyperparameters


class Trainable(Protocol):
    """What decides the loss; float and quantized detectors have it."""

    @property
    def network(self) -> nn.Module:
        """Images -> raw maps."""
        ...

    @property
    def head(self) -> Head:
        """Decodes raw maps."""
        ...

    @property
    def family(self) -> str:
        """Whose losses and hyperparameters are used."""
        ...


def loss_for(detector: Trainable, parameters: Hyperparameters, image_size: int, epochs: int = 1) -> Loss:
    """The family's loss.

    Gains are given for 80 classes, images of 640 pixels and three levels where a family scales them (YOLOv5, YOLOv7): `box` and
    `cls` with 3 over the number of levels, `cls` with the classes, `obj` with the area of the images.

    Args:
        detector: float or quantized.
        parameters: gains, and how cells are matched; see `hyperparameters_for`.
        image_size: side of the training images, pixels.
        epochs: of the run, for losses that change over it.

    Raises:
        YoloquantError: the detector's head has no loss here.
    """
    head, p = detector.head, parameters
    if isinstance(head, AnchorHead):
        levels = 3 / len(head.strides)
        kind = YOLOv7Loss if detector.family == "yolov7" else YOLOv5Loss
        loss = kind(
            head.anchors,
            tuple(head.strides),
            head.class_count,
            box=p.box * levels,
            cls=p.cls * levels * head.class_count / 80,
            obj=p.obj * levels * (image_size / 640) ** 2,
            cls_pw=p.cls_pw,
            obj_pw=p.obj_pw,
            anchor_t=p.anchor_t,
            label_smoothing=p.label_smoothing,
        )
        if isinstance(loss, YOLOv7Loss):
            loss.chooses = p.loss_ota
        return loss
    if isinstance(head, DistanceHead):
        if detector.family == "yolo26":
            return YOLO26Loss(head, epochs=epochs, box=p.box, cls=p.cls, dfl=p.dfl)
        if detector.family != "yolov6":
            return YOLOv8Loss(head, box=p.box, cls=p.cls, dfl=p.dfl)
        iou_type = p.iou_type or ("siou" if _first_channels(detector.network) <= 16 else "giou")
        warmup = p.atss_warmup_epoch if p.atss_warmup_epoch is not None else (4 if 64 in head.strides else 0)
        return YOLOv6Loss(head, iou_type=iou_type, atss_warmup_epoch=warmup, box=p.box, cls=p.cls, dfl=p.dfl)
    raise YoloquantError(
        f"there is no training loss for the head of this {detector.family} detector: train from a checkpoint of YOLOv5 to YOLO26"
    )


def _first_channels(network: nn.Module) -> int:
    """Channels behind the first convolution: 16 in the smallest size of YOLOv6, more in the others."""
    return next((len(parameter) for parameter in network.parameters() if parameter.dim() == 4), 0)
