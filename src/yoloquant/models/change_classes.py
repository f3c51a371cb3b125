"""A detector for other classes: the outputs of its classes are made anew, everything else stays."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from yoloquant.errors import YoloquantError
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.ultralytics.network import DecoupledDetect
from yoloquant.models.yolov5.network import AnchorHead, Detect
from yoloquant.models.yolov6.network import EfficientDetect
from yoloquant.models.yolov7.network import IDetect

# Values of an anchor before its classes: box and objectness.
_BOX_VALUES = 5
# Probability of a class that was never seen.
_PRIOR = 0.01


def with_classes(detector: Detector, names: Sequence[str]) -> Detector:
    """The detector with class outputs for other names; its network is changed in place.

    A class whose name it already has keeps its weights; others begin at a probability of 1 percent.

    Args:
        detector: any of a known family.
        names: class names.

    Raises:
        YoloquantError: the detector's head is none that can be rebuilt.
    """
    if tuple(names) == detector.names:
        return detector
    layer = next((module for module in detector.network.modules() if isinstance(module, _LAYERS)), None)
    if layer is None or not isinstance(detector.head, AnchorHead | DistanceHead):
        raise YoloquantError(
            f"the classes of this {detector.family} detector cannot be changed: train from a checkpoint of YOLOv5 to YOLO26"
        )
    kept = [detector.names.index(name) if name in detector.names else None for name in names]
    if isinstance(layer, Detect | IDetect):
        _renew_anchors(layer, kept, detector.head.class_count)
    else:
        for parent, child, convolution in _class_convolutions(layer):
            setattr(parent, child, _renewed(convolution, kept))
    layer.nc = len(names)
    head = copy.copy(detector.head)
    head.class_count = len(names)
    return Detector(
        detector.network,
        head,
        tuple(names),
        detector.strides,
        detector.input_size,
        detector.family,
        detector.preprocessing,
        detector.source,
    )


_LAYERS = (Detect, IDetect, DecoupledDetect, EfficientDetect)
Kept = list[int | None]


def _class_convolutions(layer: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """Last convolutions of every class branch, with the module that holds them."""
    for name, branches in layer.named_children():
        if name in ("cv3", "one2one_cv3"):
            for branch in branches.children():
                child, last = list(branch.named_children())[-1]
                assert isinstance(last, nn.Conv2d)
                yield branch, child, last
        if name.startswith("cls_preds"):
            for child, last in list(branches.named_children()):
                assert isinstance(last, nn.Conv2d)
                yield branches, child, last


def _renew_anchors(layer: nn.Module, kept: Kept, count: int) -> None:
    """Convolutions, and YOLOv7's factors behind them, whose channels are anchor by anchor."""
    for name in ("m", "m2"):
        for child, convolution in list(getattr(layer, name, nn.Module()).named_children()):
            anchors = convolution.out_channels // (_BOX_VALUES + count)
            setattr(getattr(layer, name), child, _renewed(convolution, _rows(kept, count, anchors)))
    for factor in getattr(layer, "im", ()):
        anchors = factor.implicit.shape[1] // (_BOX_VALUES + count)
        rows = _rows(kept, count, anchors)
        values = [factor.implicit.data[0, row, 0, 0].item() if row is not None else 1.0 for row in rows]
        factor.implicit = nn.Parameter(factor.implicit.new_tensor(values).view(1, -1, 1, 1))


def _rows(kept: Kept, count: int, anchors: int) -> Kept:
    """For each new output channel of all anchors, the old one, or none."""
    old = _BOX_VALUES + count
    rows: Kept = []
    for anchor in range(anchors):
        rows += [anchor * old + value for value in range(_BOX_VALUES)]
        rows += [None if index is None else anchor * old + _BOX_VALUES + index for index in kept]
    return rows


def _renewed(old: nn.Conv2d, rows: Kept) -> nn.Conv2d:
    """A convolution whose outputs are some of the old ones, in a new order, and fresh ones."""
    made = nn.Conv2d(
        old.in_channels,
        len(rows),
        old.kernel_size,  # type: ignore[arg-type]
        old.stride,  # type: ignore[arg-type]
        old.padding,  # type: ignore[arg-type]
        groups=old.groups,
    )
    assert made.bias is not None
    with torch.no_grad():
        made.bias.fill_(-math.log((1 - _PRIOR) / _PRIOR))
        for new, row in enumerate(rows):
            if row is not None:
                made.weight[new] = old.weight[row]
                made.bias[new] = 0.0 if old.bias is None else old.bias[row]
    return made
