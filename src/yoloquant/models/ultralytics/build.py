"""Build detectors of the ultralytics families with random weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from yoloquant.models.branches import ONE_TO_MANY, head_with_branch
from yoloquant.models.detector import Detector
from yoloquant.models.layer_stack import LayerStack, assemble, divisible
from yoloquant.models.ultralytics.block_builders import box_branch, light_class_branch, make_block
from yoloquant.models.ultralytics.network import DecoupledDetect
from yoloquant.models.ultralytics.plans import PLANS, Block, Plan
from yoloquant.models.yolov5.blocks import Concat, Conv

STRIDES = (8, 16, 32)


def build_ultralytics(
    name: str, names: Sequence[str], input_size: int = 640, width: float | None = None, depth: float | None = None
) -> Detector:
    """A detector with random weights, initialised as the package ultralytics initialises them.

    Args:
        name: Key of `plans.PLANS`, e.g. `yolo11n`.
        names: Class names.
        input_size: Side of the square input, pixels.
        width: Multiple of the channels; by default the size's.
        depth: Multiple of the repeated blocks; by default the size's.
    """
    plan = PLANS[name]
    layers = _Layers(plan, plan.scale.width if width is None else width, plan.scale.depth if depth is None else depth)
    outputs = layers.add_all()
    detect = _detect(plan, [layers.stack.channels(index) for index in outputs], len(names))
    layers.stack.add(detect, 0, outputs)
    head = head_with_branch(len(names), list(STRIDES), plan.bins, ONE_TO_MANY if plan.end_to_end else None)
    size = (input_size, input_size)
    return Detector(layers.stack.network().eval(), head.eval(), tuple(names), STRIDES, size, plan.family)


class _Layers:
    """The layers of a plan, in their order."""

    def __init__(self, plan: Plan, width: float, depth: float) -> None:
        self.plan, self.width, self.depth = plan, width, depth
        self.stack = LayerStack()

    def add_all(self) -> list[int]:
        """Add all layers before the head; indices of the three levels, finest first."""
        plan, levels = self.plan, []
        stem = self._channels(plan.stem)
        self.stack.add(Conv(3, stem, 3, 2), stem)
        for stage in plan.stages:
            self._add(stage.down)
            levels.append(self._add(stage.body))
        top = levels[-1]
        for block in plan.top:
            top = self._add(block)
        middle = self._up(plan.up[0], levels[2])
        outputs = [self._up(plan.up[1], levels[1])]
        for stage, lateral in zip(plan.back, (middle, top), strict=True):
            self._add(stage.down)
            self._join(lateral)
            outputs.append(self._add(stage.body))
        return outputs

    def _up(self, block: Block, lateral: int) -> int:
        self.stack.add(nn.Upsample(None, 2, "nearest"), self.stack.channels())
        self._join(lateral)
        return self._add(block)

    def _join(self, lateral: int) -> None:
        self.stack.add(Concat(1), self.stack.channels([-1, lateral]), [-1, lateral])

    def _add(self, block: Block) -> int:
        outputs = self._channels(block.channels)
        made = make_block(block.kind, self.stack.channels(), outputs, **self._scaled(block.options))
        return self.stack.add(made, outputs)

    def _scaled(self, options: dict[str, Any]) -> dict[str, Any]:
        scaled = dict(options)
        if options.get("repeats", 1) > 1:
            scaled["repeats"] = max(round(options["repeats"] * self.depth), 1)
        if "hidden" in options:
            scaled["hidden"] = self._channels(options["hidden"])
        return scaled

    def _channels(self, full: int) -> int:
        return divisible(min(full, self.plan.scale.most) * self.width)


def _detect(plan: Plan, channels: list[int], class_count: int) -> DecoupledDetect:
    of_boxes, of_classes = max(16, channels[0] // 4, 4 * plan.bins), max(channels[0], min(class_count, 100))
    class_branch = light_class_branch if plan.light else box_branch
    boxes = nn.ModuleList(box_branch(inputs, of_boxes, 4 * plan.bins) for inputs in channels)
    classes = nn.ModuleList(class_branch(inputs, of_classes, class_count) for inputs in channels)
    for box, kind, stride in zip(boxes, classes, STRIDES, strict=True):
        box[-1].bias.data.fill_(2.0)  # type: ignore[index]
        # Five objects in an image of 640 pixels.
        kind[-1].bias.data.fill_(math.log(5 / class_count / (640 / stride) ** 2))  # type: ignore[index]
    made = assemble(DecoupledDetect(), nc=class_count, reg_max=plan.bins, cv2=boxes, cv3=classes)
    if plan.end_to_end:
        assemble(made, one2one_cv2=copy.deepcopy(boxes), one2one_cv3=copy.deepcopy(classes))
    return made
