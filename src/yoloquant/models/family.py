"""A family of detectors as a value: all that shared code asks of it, from building a network to reading its ONNX files.

A family is a folder with a file `family.py` that holds its `Family`, and a line in `registry.py` or, in another package, an entry
point of the group `yoloquant.families`. Shared code asks `registry.FAMILIES` and compares no names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import onnx
from torch import nn

from yoloquant.models.class_outputs import Kept
from yoloquant.models.detector import Detector, Head
from yoloquant.models.hyperparameters import Hyperparameters
from yoloquant.models.onnx.outputs import OnnxFacts, OnnxOutputs
from yoloquant.models.record import Record

# Level -> anchor -> width and height in pixels.
Anchors = Sequence[Sequence[Sequence[float]]]

# Hyperparameters of YOLOv8 and the families after it where they differ from the defaults of `Hyperparameters`.
USUAL_VALUES: Mapping[str, Any] = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "close_mosaic": 10}


@dataclass(frozen=True, kw_only=True)
class BuildRequest:
    """A detector with random weights that is asked for.

    Attributes:
        architecture: Name of one of the family's architectures.
        names: Class names.
        input_size: Side of the square input, pixels.
        width: Multiple of the channels; by default the architecture's.
        depth: Multiple of the repeated blocks; by default the architecture's. Families without such a multiple ignore it.
        anchors: Anchors; those for COCO by default. Families without anchors ignore them.
    """

    architecture: str
    names: tuple[str, ...]
    input_size: int = 640
    width: float | None = None
    depth: float | None = None
    anchors: Anchors | None = None


class Trainable(Protocol):
    """What a loss is chosen by; float and quantized detectors have it."""

    @property
    def network(self) -> nn.Module:
        """Images -> raw maps."""
        ...

    @property
    def head(self) -> Head:
        """Decodes raw maps."""
        ...

    @property
    def family(self) -> str:
        """Whose losses and hyperparameters are used."""
        ...


@dataclass(frozen=True, kw_only=True)
class LossRequest:
    """A training loss that is asked for.

    Attributes:
        detector: Detector, float or quantized; its head is of the family's class.
        parameters: Hyperparameters: gains, and how cells are matched.
        image_size: Side of the training images, pixels.
        epochs: Number of epochs of the run, for losses that change over it.
    """

    detector: Trainable
    parameters: Hyperparameters
    image_size: int
    epochs: int = 1


@dataclass(frozen=True, kw_only=True)
class CheckpointReader:
    """How the checkpoints of a family's own training code are read; its network's classes are registered by `@architecture`.

    A network ends in its child `detect`, or in the last layer of its child `model`; that layer or the network holds the strides
    as the tensor `stride`.

    Attributes:
        packages: Prefixes of class paths, with the dot behind the package: modules and losses that the pickles may name.
        values: Paths of further classes that the pickles may name, all of whose objects hold plain values.
        recognises: Function that tests whether a network's record from a pickle is of this family.
        heads: Mapping class path of the last layer, as `architecture.canonical` writes it -> function of the layer's record, the
            layer as built and the strides in pixels, that makes the head. It raises `CheckpointError` where something is missing.
    """

    packages: tuple[str, ...]
    values: frozenset[str] = frozenset()
    recognises: Callable[[Record], bool]
    heads: Mapping[str, Callable[[Record, Any, tuple[int, ...]], Head]]


@dataclass(frozen=True, kw_only=True)
class OnnxReader:
    """What the ONNX files of a family's exporters are known by.

    Attributes:
        facts: Function from outputs to how they are decoded; None for outputs that its exporters do not write.
        branch: Function from a file to the branch whose boxes it outputs, see `yoloquant.models.branches`; None where nothing
            says so.
    """

    facts: Callable[[OnnxOutputs], OnnxFacts | None]
    branch: Callable[[onnx.ModelProto], str | None] | None = None


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of detectors.

    Attributes:
        name: Value of `Detector.family`.
        head: Class of the heads that decode its raw maps.
        is_default_of_head: Whether detectors of no family that end in such a head have its loss and its way to change classes.
        architectures: Names of the networks that it builds.
        build: Function from a request to a detector with random weights; None if it has no architectures.
        checkpoint: Reader of its checkpoints; None if they are not read.
        onnx: Recogniser of its ONNX files; None if they need no decoding of their own.
        loss: Function from a request to a module that computes `LossParts` of raw maps and targets; None if it cannot be trained.
        hyperparameters: Differences from the defaults of `Hyperparameters`.
        class_layers: Mapping class of the last layer -> function of such a layer and of the kept classes, that makes the layer's
            class outputs anew, see `yoloquant.models.class_outputs`; empty if its classes cannot be changed.
    """

    name: str
    head: type[Head]
    is_default_of_head: bool = False
    architectures: tuple[str, ...] = ()
    build: Callable[[BuildRequest], Detector] | None = None
    checkpoint: CheckpointReader | None = None
    onnx: OnnxReader | None = None
    loss: Callable[[LossRequest], nn.Module] | None = None
    hyperparameters: Mapping[str, Any] = field(default_factory=lambda: USUAL_VALUES)
    class_layers: Mapping[type[nn.Module], Callable[[Any, Kept], None]] = field(default_factory=dict)
