"""Fresh detectors by the name of an architecture."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from yoloquant.errors import CheckpointError
from yoloquant.models.detector import Detector
from yoloquant.models.ultralytics.build import build_ultralytics
from yoloquant.models.ultralytics.plans import PLANS
from yoloquant.models.yolov5.build import SIZES as YOLOV5_SIZES
from yoloquant.models.yolov5.build import build_yolov5, official_config
from yoloquant.models.yolov6.build import WIDTHS as YOLOV6_SIZES
from yoloquant.models.yolov6.build import build_yolov6
from yoloquant.models.yolov7.build import Anchors, build_yolov7_tiny

ARCHITECTURES = (
    *(f"yolov5{size}" for size in YOLOV5_SIZES),
    *(f"yolov6{size}" for size in YOLOV6_SIZES),
    "yolov7-tiny",
    *PLANS,
)


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
        name: one of `ARCHITECTURES`.
        names: class names.
        input_size: side of the square input, pixels.
        seed: of the weights.
        width: multiple of the channels; by default the architecture's.
        depth: multiple of the repeated blocks, for YOLOv5 and the families of ultralytics; by default the architecture's.
        anchors: level -> anchor -> width and height in pixels, for YOLOv5 and YOLOv7; those for COCO by default.

    Raises:
        CheckpointError: there is no such architecture.
    """
    if name not in ARCHITECTURES:
        raise CheckpointError(f"there is no architecture {name!r}: choose from {', '.join(ARCHITECTURES)}")
    if seed is not None:
        torch.manual_seed(seed)
    if name in PLANS:
        return build_ultralytics(name, names, input_size, width, depth)
    family, size = name[:6], name[6:]
    if family == "yolov6":
        return build_yolov6(size, names, input_size, width)
    if family == "yolov7":
        return build_yolov7_tiny(names, input_size, width, anchors)
    config = official_config(size, len(names))
    if width is not None:
        config["width_multiple"] = width
    if depth is not None:
        config["depth_multiple"] = depth
    if anchors is not None:
        config["anchors"] = [[side for anchor in level for side in anchor] for level in anchors]
    return build_yolov5(config, names, input_size)
