"""What a detector is trained with, under the names that YOLO's users know."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Hyperparameters(BaseModel):
    """Optimizer, loss gains and augmentation; the defaults are YOLOv5's "low" set.

    Attributes:
        lr0: Learning rate after warm-up.
        lrf: The last epoch's learning rate as a share of `lr0`.
        momentum: Momentum of SGD (Nesterov).
        weight_decay: Decay of convolution weights, for a batch of 64.
        warmup_epochs: Epochs over which learning rate and momentum rise; 0 for no warm-up.
        warmup_iterations: Batches that warm-up takes at least; the last epoch is always beyond it.
        warmup_momentum: Momentum at the start.
        warmup_bias_lr: Learning rate of biases at the start.
        box: Gain of the box loss.
        cls: Gain of the class loss.
        obj: Gain of the objectness loss.
        cls_pw: Weight of positive classes.
        obj_pw: Weight of positive objectness.
        dfl: Gain of the distribution focal loss.
        anchor_t: Anchor-multiple threshold.
        loss_ota: YOLOv7 chooses by cost which cells learn an object; else all that fit learn it, as in YOLOv5.
        iou_type: Overlap of YOLOv6's box loss; by default as the size was trained.
        atss_warmup_epoch: Epochs of YOLOv6 that begin with ATSS; by default as the size was trained.
        distill: Gain of what a teacher adds, for an image.
        label_smoothing: 0..1.
        hsv_h: Largest change of hue, as a share of the circle.
        hsv_s: Largest relative change of saturation.
        hsv_v: Largest relative change of value.
        degrees: Largest rotation.
        translate: Largest shift, as a share of the image.
        scale: Largest relative change of size.
        shear: Largest shear, degrees.
        flipud: Probability of an upside-down flip.
        fliplr: Probability of a left-right flip.
        mosaic: Probability that four images make one.
        mixup: Probability that two images are blended.
        close_mosaic: Last epochs, without mosaic and mixup.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    lr0: float = Field(0.01, gt=0)
    lrf: float = Field(0.01, ge=0, le=1)
    momentum: float = Field(0.937, ge=0, lt=1)
    weight_decay: float = Field(0.0005, ge=0)
    warmup_epochs: float = Field(3.0, ge=0)
    warmup_iterations: int = Field(100, ge=0)
    warmup_momentum: float = Field(0.8, ge=0, lt=1)
    warmup_bias_lr: float = Field(0.1, ge=0)
    box: float = Field(0.05, ge=0)
    cls: float = Field(0.5, ge=0)
    obj: float = Field(1.0, ge=0)
    cls_pw: float = Field(1.0, gt=0)
    obj_pw: float = Field(1.0, gt=0)
    dfl: float = Field(1.5, ge=0)
    anchor_t: float = Field(4.0, gt=1)
    loss_ota: bool = True
    iou_type: Literal["giou", "siou", "ciou"] | None = None
    atss_warmup_epoch: int | None = Field(None, ge=0)
    distill: float = Field(1.0, ge=0)
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    hsv_h: float = Field(0.015, ge=0, le=1)
    hsv_s: float = Field(0.7, ge=0, le=1)
    hsv_v: float = Field(0.4, ge=0, le=1)
    degrees: float = Field(0.0, ge=0, le=180)
    translate: float = Field(0.1, ge=0, le=0.9)
    scale: float = Field(0.5, ge=0, lt=1)
    shear: float = Field(0.0, ge=0, le=45)
    flipud: float = Field(0.0, ge=0, le=1)
    fliplr: float = Field(0.5, ge=0, le=1)
    mosaic: float = Field(1.0, ge=0, le=1)
    mixup: float = Field(0.0, ge=0, le=1)
    close_mosaic: int = Field(0, ge=0)
