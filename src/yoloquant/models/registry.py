"""Families by name, those listed here and those of installed plug-ins; fresh detectors by the name of an architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import yoloquant.models.onnx.head
import yoloquant.models.onnx.network  # noqa: F401  (registers the modules of detectors of no family)
from yoloquant.environment import plug_ins
from yoloquant.errors import CheckpointError
from yoloquant.models.detector import Detector
from yoloquant.models.family import Anchors, BuildRequest, Family, Trainable
from yoloquant.models.ultralytics.family import FAMILIES as ULTRALYTICS
from yoloquant.models.yolov5.family import FAMILY as YOLOV5
from yoloquant.models.yolov6.family import FAMILY as YOLOV6
from yoloquant.models.yolov7.family import FAMILY as YOLOV7
from yoloquant.models.yolox.family import FAMILY as YOLOX

# A family that builds on the classes of another one stands behind it: what several recognise belongs to the last of them.
_ALL = (YOLOV5, YOLOV6, YOLOV7, *ULTRALYTICS, YOLOX)
FAMILIES: dict[str, Family] = {family.name: family for family in (*_ALL, *plug_ins("yoloquant.families").values())}
_BUILDERS = {name: family.build for family in FAMILIES.values() if family.build for name in family.architectures}
ARCHITECTURES = tuple(_BUILDERS)


def family_for(detector: Trainable) -> Family | None:
    """The family whose loss and class outputs a detector has.

    Its own if its head is one of that family; else the family that stands for all detectors with such a head; none if there is
    none, as for detectors read from ONNX files.
    """
    own = FAMILIES.get(detector.family)
    if own is not None and isinstance(detector.head, own.head):
        return own
    standing_in = (family for family in FAMILIES.values() if family.is_default_of_head)
    return next((family for family in standing_in if isinstance(detector.head, family.head)), None)


def build_detector(
    name: str,
    names: Sequence[str],
    input_size: int = 640,
    *,
    seed: int | None = None,
    width: float | None = None,
    depth: float | None = None,
    anchors: Anchors | None = None,
) -> Detector:
    """A detector with random weights.

    Args:
        name: One of `ARCHITECTURES`.
        names: Class names.
        input_size: Side of the square input, pixels.
        seed: Seed of the weights.
        width: Multiple of the channels; by default the architecture's.
        depth: Multiple of the repeated blocks, for YOLOv5 and the families of ultralytics; by default the architecture's.
        anchors: Mapping level -> anchor -> width and height in pixels, for YOLOv5 and YOLOv7; those for COCO by default.

    Raises:
        CheckpointError: There is no such architecture.
    """
    if name not in _BUILDERS:
        raise CheckpointError(f"there is no architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    if seed is not None:
        torch.manual_seed(seed)
    request = BuildRequest(
        architecture=name, names=tuple(names), input_size=input_size, width=width, depth=depth, anchors=anchors
    )
    return _BUILDERS[name](request)
