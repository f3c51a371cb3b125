"""Build a YOLOv5 detector from a model YAML of that repository."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from yoloquant.errors import CheckpointError, first_line
from yoloquant.files.reading import is_file, parse_yaml, read_text
from yoloquant.models.detector import Detector
from yoloquant.models.family import Anchors, BuildRequest
from yoloquant.models.layer_stack import divisible, initialise_anchor_biases, measure_strides, settle_norms
from yoloquant.models.layered import LayeredNetwork
from yoloquant.models.yolov5 import blocks
from yoloquant.models.yolov5.network import AnchorHead, Detect

# Blocks that take (input channels, output channels, ...); the second group repeats inside itself.
_WITH_CHANNELS = {
    name: getattr(blocks, name)
    for name in (
        "Conv", "DWConv", "DWConvTranspose2d", "Bottleneck", "CrossConv", "SPP", "SPPF", "Focus", "GhostConv", "GhostBottleneck",
        "MixConv2d", "BottleneckCSP", "C3", "C3x", "C3TR", "C3SPP", "C3Ghost",
    )
}  # fmt: skip
_REPEATING = frozenset({"BottleneckCSP", "C3", "C3x", "C3TR", "C3Ghost"})

# Rows of the official 6.0 architecture: from, repeats, block, arguments.
_BACKBONE: list[list[Any]] = [
    [-1, 1, "Conv", [64, 6, 2, 2]],
    [-1, 1, "Conv", [128, 3, 2]],
    [-1, 3, "C3", [128]],
    [-1, 1, "Conv", [256, 3, 2]],
    [-1, 6, "C3", [256]],
    [-1, 1, "Conv", [512, 3, 2]],
    [-1, 9, "C3", [512]],
    [-1, 1, "Conv", [1024, 3, 2]],
    [-1, 3, "C3", [1024]],
    [-1, 1, "SPPF", [1024, 5]],
]
_HEAD: list[list[Any]] = [
    [-1, 1, "Conv", [512, 1, 1]],
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 6], 1, "Concat", [1]],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [256, 1, 1]],
    [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
    [[-1, 4], 1, "Concat", [1]],
    [-1, 3, "C3", [256, False]],
    [-1, 1, "Conv", [256, 3, 2]],
    [[-1, 14], 1, "Concat", [1]],
    [-1, 3, "C3", [512, False]],
    [-1, 1, "Conv", [512, 3, 2]],
    [[-1, 10], 1, "Concat", [1]],
    [-1, 3, "C3", [1024, False]],
    [[17, 20, 23], 1, "Detect", ["nc", "anchors"]],
]
# Level -> anchor -> width and height in pixels.
COCO_ANCHORS = [
    [[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]],
    [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]],
    [[116.0, 90.0], [156.0, 198.0], [373.0, 326.0]],
]
# Depth, width.
SIZES = {"n": (0.33, 0.25), "s": (0.33, 0.50), "m": (0.67, 0.75), "l": (1.0, 1.0), "x": (1.33, 1.25)}


def official_config(size: str, class_count: int = 80, anchors: Anchors = COCO_ANCHORS) -> dict[str, Any]:
    """Configuration of YOLOv5 n, s, m, l or x.

    Args:
        size: A key of `SIZES`.
        class_count: C.
        anchors: Mapping level -> anchor -> width and height in pixels.
    """
    depth, width = SIZES[size]
    return {
        "nc": class_count,
        "depth_multiple": depth,
        "width_multiple": width,
        "anchors": [[side for anchor in level for side in anchor] for level in anchors],
        "backbone": _BACKBONE,
        "head": _HEAD,
    }


def build(request: BuildRequest) -> Detector:
    """A detector of one of the official sizes with random weights; see `build_yolov5`."""
    config = official_config(request.architecture[-1], len(request.names), request.anchors or COCO_ANCHORS)
    multiples = {"width_multiple": request.width, "depth_multiple": request.depth}
    config.update({name: value for name, value in multiples.items() if value is not None})
    return build_yolov5(config, request.names, request.input_size)


def build_yolov5(
    config: str | Path | Mapping[str, Any],
    names: Sequence[str] | None = None,
    input_size: int = 640,
    seed: int | None = None,
) -> Detector:
    """A detector with random weights, initialised as YOLOv5 initialises them.

    Args:
        config: `yolov5n` .. `yolov5x`, a model YAML's path, or its content.
        names: Class names; they decide the class count.
        input_size: Side of the square input, pixels.
        seed: Seed of the weights.

    Raises:
        CheckpointError: The configuration is not one of detection blocks, or does not fit together.
    """
    values = dict(_read_config(config))
    class_count = len(names) if names is not None else values.get("nc")
    if not isinstance(class_count, int) or class_count < 1:
        raise CheckpointError("the model configuration needs nc, the number of classes, or pass class names")
    values["nc"] = class_count
    if seed is not None:
        torch.manual_seed(seed)
    network = LayeredNetwork()
    layers, anchors = _layers(values)
    network.model = nn.Sequential(*layers)
    settle_norms(network)
    strides = _measure_strides(network)
    pixel_anchors = [[[float(a), float(b)] for a, b in zip(level[::2], level[1::2], strict=True)] for level in anchors]
    detect = network.model[-1]
    assert isinstance(detect, Detect)
    initialise_anchor_biases(detect.m, detect.na, strides, class_count)
    head = AnchorHead(class_count, list(strides), pixel_anchors)
    named = tuple(names) if names is not None else tuple(f"class {index}" for index in range(class_count))
    return Detector(network.eval(), head.eval(), named, strides, (input_size, input_size), "yolov5")


def _read_config(config: str | Path | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(config, str) and config.startswith("yolov5") and config[6:] in SIZES:
        return official_config(config[6:])
    if isinstance(config, str | Path):
        if not is_file(Path(config)):
            raise CheckpointError(f"there is no model configuration {config}: give yolov5n to yolov5x, or a YAML file")
        config = parse_yaml(read_text(Path(config), CheckpointError), str(config), CheckpointError)
    missing = {"anchors", "backbone", "head"} - set(config if isinstance(config, Mapping) else ())
    if missing:
        raise CheckpointError(f"the model configuration lacks {', '.join(sorted(missing))}: is it a YOLOv5 model YAML?")
    return config  # type: ignore[return-value]


def _layers(values: dict[str, Any]) -> tuple[list[nn.Module], list[list[float]]]:
    depth, width = float(values.get("depth_multiple", 1.0)), float(values.get("width_multiple", 1.0))
    anchors = values["anchors"]
    if isinstance(anchors, int):
        # Only a count: sizes spread evenly; training would fit them to its data.
        anchors = [[side for _ in range(anchors) for side in (2**level, 2**level)] for level in (4, 6, 8)]
    channels, layers = [3], []
    for index, row in enumerate([*values["backbone"], *values["head"]]):
        try:
            source, repeats, name, arguments = row
            module, out = _layer(str(name), source, max(round(repeats * depth), 1) if repeats > 1 else repeats,
                                 [_argument(a, values, anchors) for a in arguments], channels, width)  # fmt: skip
        except (TypeError, ValueError, IndexError, KeyError) as error:
            raise CheckpointError(f"row {index} of the model configuration, {row}, cannot be built: {error}") from error
        vars(module).update(f=source, i=index)
        layers.append(module)
        channels = [out] if index == 0 else [*channels, out]
    if not isinstance(layers[-1], Detect):
        raise CheckpointError("the model configuration must end in Detect: only detectors are supported")
    return layers, anchors


def _argument(value: Any, values: dict[str, Any], anchors: Any) -> Any:
    if value == "nc":
        return values["nc"]
    if value == "anchors":
        return anchors
    if isinstance(value, str):
        try:
            return ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return value
    return value


def _layer(
    name: str, source: Any, repeats: int, arguments: list[Any], channels: list[int], width: float
) -> tuple[nn.Module, int]:
    short = name.removeprefix("nn.")
    if short in _WITH_CHANNELS:
        inputs, outputs = channels[source], divisible(arguments[0] * width)
        rest = arguments[1:]
        if short in _REPEATING:
            return _WITH_CHANNELS[short](inputs, outputs, repeats, *rest), outputs
        module = [_WITH_CHANNELS[short](inputs if n == 0 else outputs, outputs, *rest) for n in range(repeats)]
        return (module[0] if repeats == 1 else nn.Sequential(*module)), outputs
    if short == "Concat":
        return blocks.Concat(*arguments), sum(channels[index] for index in source)
    if short == "Sum":
        return blocks.Sum(*arguments), channels[source[0]]
    if short == "Contract":
        return blocks.Contract(*arguments), channels[source] * arguments[0] ** 2
    if short == "Expand":
        return blocks.Expand(*arguments), channels[source] // arguments[0] ** 2
    if short in ("Upsample", "MaxPool2d", "ZeroPad2d", "Identity"):
        return getattr(nn, short)(*arguments), channels[source]
    if short == "BatchNorm2d":
        return nn.BatchNorm2d(channels[source]), channels[source]
    if short == "Detect":
        return Detect(arguments[0], len(arguments[1][0]) // 2, [channels[index] for index in source]), 0
    raise ValueError(f"{name} is not a detection block of YOLOv5")


def _measure_strides(network: LayeredNetwork) -> tuple[int, ...]:
    try:
        return measure_strides(network)
    except (RuntimeError, IndexError, TypeError) as error:
        raise CheckpointError(f"the layers of the model configuration do not fit together: {first_line(error)}") from error
