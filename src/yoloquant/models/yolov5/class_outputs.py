"""Other classes for maps whose channels stand anchor by anchor: box, objectness, classes."""

from __future__ import annotations

from torch import nn

from yoloquant.models.class_outputs import Kept, renew_children
from yoloquant.models.yolov5.network import Detect

# Values of an anchor before its classes: box and objectness.
BOX_VALUES = 5


def renew_detect(layer: Detect, kept: Kept) -> None:
    """Make the class outputs of YOLOv5's detection layer anew."""
    renew_anchor_maps(layer.m, kept, layer.nc)
    layer.nc = len(kept)


def renew_anchor_maps(convolutions: nn.ModuleList, kept: Kept, count: int) -> None:
    """Make the class outputs of the last convolutions anew.

    Args:
        convolutions: Convolutions, one for each level.
        kept: Old class of each new class, see `yoloquant.models.class_outputs`.
        count: Number of old classes.
    """
    for name, convolution in convolutions.named_children():
        assert isinstance(convolution, nn.Conv2d)
        renew_children(convolutions, anchor_rows(kept, count, convolution.out_channels), [name])


def anchor_rows(kept: Kept, count: int, channels: int) -> Kept:
    """For each new channel of all anchors the old one, or none; `channels` is how many there were."""
    old = BOX_VALUES + count
    rows: Kept = []
    for first in range(0, channels, old):
        rows += range(first, first + BOX_VALUES)
        rows += [None if index is None else first + BOX_VALUES + index for index in kept]
    return rows
