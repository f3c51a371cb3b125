"""A detector for other classes: the outputs of its classes are made anew, everything else stays."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from yoloquant.errors import YoloquantError
from yoloquant.models.class_outputs import Kept
from yoloquant.models.detector import Detector
from yoloquant.models.registry import family_for


def with_classes(detector: Detector, names: Sequence[str]) -> Detector:
    """The detector with class outputs for other names; its network is changed in place.

    A class whose name it already has keeps its weights; others begin at a probability of 1 percent.

    Args:
        detector: Detector of a known family.
        names: Class names.

    Raises:
        YoloquantError: The detector's head is none that can be rebuilt.
    """
    if tuple(names) == detector.names:
        return detector
    layer, renew = _class_layer(detector)
    renew(layer, [detector.names.index(name) if name in detector.names else None for name in names])
    head = copy.copy(detector.head)
    head.class_count = len(names)
    return replace(detector, head=head, names=tuple(names))


def _class_layer(detector: Detector) -> tuple[nn.Module, Callable[[nn.Module, Kept], None]]:
    """The layer that outputs classes, and what makes these outputs anew."""
    family = family_for(detector)
    renewals = family.class_layers if family is not None else {}
    for layer in detector.network.modules():
        if type(layer) in renewals:
            return layer, renewals[type(layer)]
    raise YoloquantError(
        f"the classes of this {detector.family} detector cannot be changed: train from a checkpoint of YOLOv5 to YOLO26"
    )
