"""What a model file holds, for people."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from yoloquant.checkpoint.read import read_detector
from yoloquant.models.branches import BRANCHES, two_pairs
from yoloquant.models.detector import Detector


@dataclass(frozen=True)
class LayerFacts:
    """A layer with weights.

    Attributes:
        name: Name as recipes and reports write it.
        kind: Class of the module.
        shape: Shape of the weight.
        parameters: Number of its parameters.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class FileFacts:
    """A detector's file.

    Attributes:
        family: "yolov5", ...
        names: Class names.
        parameters: Total number of parameters.
        strides: Stride of each detection level, pixels.
        input_size: `(height, width)`, pixels.
        layers: Layers with weights, in order.
        source: Further facts in the file.
        branches: `one-to-many`, `one-to-one` or both, the one that is used first; empty where the family has no choice.
    """

    family: str
    names: tuple[str, ...]
    parameters: int
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    layers: tuple[LayerFacts, ...]
    source: dict[str, Any]
    branches: tuple[str, ...] = ()


def inspect_file(path: str | Path) -> FileFacts:
    """Read a checkpoint and describe its content.

    Raises:
        CheckpointError: It cannot be read.
    """
    return facts_of(read_detector(path))


def facts_of(detector: Detector) -> FileFacts:
    """Facts of a detector in memory."""
    layers = []
    known_as = getattr(detector.network, "layer_names", {})
    for path, module in detector.network.named_modules():
        name = known_as.get(path, path)
        weight = getattr(module, "weight", None)
        if isinstance(weight, nn.Parameter) and weight.dim() > 1:
            count = sum(parameter.numel() for parameter in module.parameters(recurse=False))
            layers.append(LayerFacts(name, getattr(module, "op", type(module).__name__), tuple(weight.shape), count))
    return FileFacts(
        detector.family,
        detector.names,
        sum(parameter.numel() for parameter in detector.network.parameters()),
        detector.strides,
        detector.input_size,
        tuple(layers),
        detector.source,
        _branches(detector),
    )


def _branches(detector: Detector) -> tuple[str, ...]:
    used = detector.head.branch
    if used is None:
        return ()
    others = [branch for branch in BRANCHES if branch != used] if two_pairs(detector.network) is not None else []
    return (used, *others)
