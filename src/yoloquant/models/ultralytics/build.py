"""Build a YOLOv8 detector with random weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from yoloquant.models.building import LayerStack, assemble, divisible
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.ultralytics.blocks import C2f
from yoloquant.models.ultralytics.network import DecoupledDetect
from yoloquant.models.yolov5.blocks import SPPF, Bottleneck, Concat, Conv

# Depth, width, most channels.
SIZES = {"n": (0.33, 0.25, 1024), "s": (0.33, 0.5, 1024), "m": (0.67, 0.75, 768), "l": (1.0, 1.0, 512), "x": (1.0, 1.25, 512)}
STRIDES = (8, 16, 32)
BINS = 16


def build_yolov8(size: str, names: Sequence[str], input_size: int = 640, width: float | None = None) -> Detector:
    """A detector with random weights, initialised as YOLOv8 initialises them.

    Args:
        size: n, s, m, l or x.
        names: class names.
        input_size: side of the square input, pixels.
        width: multiple of the channels; by default the size's.
    """
    depth, usual, most = SIZES[size]
    multiple = usual if width is None else width
    channels = {full: divisible(min(full, most) * multiple) for full in (64, 128, 256, 512, 1024)}

    def stage(full: int, repeats: int, shortcut: bool) -> int:
        blocks = max(round(repeats * depth), 1)
        return stack.add(_c2f(stack.channels(), channels[full], blocks, shortcut), channels[full])

    def down(full: int) -> None:
        stack.add(Conv(stack.channels(), channels[full], 3, 2), channels[full])

    def join(*sources: int) -> None:
        stack.add(Concat(1), stack.channels(sources), list(sources))

    def up() -> None:
        stack.add(nn.Upsample(None, 2, "nearest"), stack.channels())

    stack = LayerStack()
    levels = []
    down(64)
    for full, repeats in ((128, 3), (256, 6), (512, 6), (1024, 3)):
        down(full)
        levels.append(stage(full, repeats, True))
    top = stack.add(SPPF(channels[1024], channels[1024], 5), channels[1024])
    up()
    join(-1, levels[2])
    middle = stage(512, 3, False)
    up()
    join(-1, levels[1])
    outputs = [stage(256, 3, False)]
    for full, lateral in ((512, middle), (1024, top)):
        # The way down keeps the channels of the finer level.
        down(full // 2)
        join(-1, lateral)
        outputs.append(stage(full, 3, False))
    stack.add(_detect([stack.channels(index) for index in outputs], len(names)), 0, outputs)
    head = DistanceHead("columns_classes", len(names), list(STRIDES), BINS)
    return Detector(stack.network().eval(), head.eval(), tuple(names), STRIDES, (input_size, input_size), "yolov8")


def _c2f(inputs: int, outputs: int, repeats: int, shortcut: bool) -> C2f:
    hidden = outputs // 2
    inner = [assemble(Bottleneck(hidden, hidden, shortcut, e=1.0), cv1=Conv(hidden, hidden, 3)) for _ in range(repeats)]
    return assemble(C2f(), cv1=Conv(inputs, 2 * hidden), cv2=Conv((2 + repeats) * hidden, outputs), m=nn.ModuleList(inner))


def _detect(channels: list[int], class_count: int) -> DecoupledDetect:
    of_boxes, of_classes = max(16, channels[0] // 4, 4 * BINS), max(channels[0], min(class_count, 100))
    boxes = nn.ModuleList(_branch(inputs, of_boxes, 4 * BINS) for inputs in channels)
    classes = nn.ModuleList(_branch(inputs, of_classes, class_count) for inputs in channels)
    for box, kind, stride in zip(boxes, classes, STRIDES, strict=True):
        box[-1].bias.data.fill_(1.0)  # type: ignore[index]
        # Five objects in an image of 640 pixels.
        kind[-1].bias.data.fill_(math.log(5 / class_count / (640 / stride) ** 2))  # type: ignore[index]
    return assemble(DecoupledDetect(), nc=class_count, reg_max=BINS, cv2=boxes, cv3=classes)


def _branch(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(Conv(inputs, hidden, 3), Conv(hidden, hidden, 3), nn.Conv2d(hidden, outputs, 1))
