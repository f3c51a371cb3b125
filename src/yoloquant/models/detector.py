"""The `Detector`: what every file becomes and every later step takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from yoloquant.errors import YoloquantError
from yoloquant.models.output_formats import LAYOUTS, Candidates
from yoloquant.models.preprocessing import PLAIN, Preprocessing


class Head(nn.Module):
    """Turns the network's raw maps into the decoded output of its family; always computed in float.

    Subclasses implement `forward`. A head holds no layer that is quantized: the last convolutions belong to the network.

    Attributes:
        layout: Name of the layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        class_count: Number of classes C.
        branch: `one-to-one` or `one-to-many`, the pair of branches whose maps it decodes where a network has two; see
            `yoloquant.models.branches`.
    """

    layout: str
    class_count: int
    branch: str | None = None

    @property
    def suppresses(self) -> bool:
        """It keeps only final detections, so that the boxes of two networks cannot be compared one by one."""
        return False

    @property
    def free_size(self) -> bool:
        """It decodes the maps of images of any size."""
        return True

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """Decode raw maps.

        Args:
            raw_maps: The network's outputs, each `(N, channels, H/stride, W/stride)`.

        Returns:
            The decoded output in `self.layout`; boxes are in pixels of the network's input.
        """
        raise NotImplementedError

    def candidates(self, raw_maps: list[Tensor]) -> Candidates:
        """Boxes and scores of raw maps, differentiable, each box at a place of its own whatever it scores."""
        return LAYOUTS[self.layout].candidates(self(raw_maps))


@dataclass(frozen=True)
class Origin:
    """Which file a detector was read from, and what was chosen then.

    Flows name it in the commands that repeat them, and no output of theirs replaces it.

    Attributes:
        file: Checkpoint or ONNX file.
        options: Options of the command line that choose the same, without dashes -> value.
    """

    file: Path
    options: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass
class Detector:
    """A YOLO detector in evaluation mode, in float32, cut where quantization ends.

    Attributes:
        network: Module from images `(N, 3, H, W)`, RGB, in 0..1, to a list of raw head maps. It ends at the last convolution of
            each head branch. Submodule paths are the layer names users know from the original repository (`model.0.conv`).
        head: Module from raw maps to decoded output.
        names: Class names, index is the class number.
        strides: Strides of each detection level, in pixels, e.g. `(8, 16, 32)`.
        input_size: `(height, width)` in pixels that the model was trained or exported at.
        family: `"yolov5"`, `"yolov6"`, ...
        preprocessing: Position of the image in the input; the network converts values itself.
        source: Free facts about the file for reports (release, epoch, training date), all JSON values.
        origin: File that it was read from; None for detectors made in memory.
    """

    network: nn.Module
    head: Head
    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    family: str
    preprocessing: Preprocessing = PLAIN
    source: dict[str, Any] = field(default_factory=dict)
    origin: Origin | None = field(default=None, compare=False)

    def __call__(self, images: Tensor) -> Tensor:
        """Decoded output for images `(N, 3, H, W)`, RGB, 0..1."""
        out: Tensor = self.head(list(self.network(images)))
        return out


class Sized(Protocol):
    """A float or quantized detector, as far as sizes of images go."""

    head: Head
    strides: tuple[int, ...]
    input_size: tuple[int, int]


def check_size(detector: Sized, size: tuple[int, int]) -> None:
    """Make sure that a detector takes images of a size.

    Args:
        detector: Detector, float or quantized.
        size: `(height, width)` in pixels.

    Raises:
        YoloquantError: It is no multiple of the stride, or the detector is from a file of one size.
    """
    if size != detector.input_size and not detector.head.free_size:
        height, width = detector.input_size
        raise YoloquantError(
            f"this ONNX file takes images of {height}x{width} pixels alone: leave out --image-size, or export the original with "
            "free height and width"
        )
    check_input_size(size, max(detector.strides))


def at_size(detector: Detector, size: tuple[int, int]) -> Detector:
    """The same detector for images of another size; see `check_size`."""
    check_size(detector, size)
    return replace(detector, input_size=size)


def check_input_size(size: tuple[int, int], stride: int) -> None:
    """Make sure that a network's maps are whole at an input size.

    Args:
        size: `(height, width)` in pixels.
        stride: Largest stride of the network, in pixels.

    Raises:
        YoloquantError: It is no multiple of the stride.
    """
    height, width = size
    if height % stride or width % stride:
        near = " and ".join(dict.fromkeys(str(-(-side // stride) * stride) for side in size))
        raise YoloquantError(
            f"the input size {height}x{width} is not a multiple of the network's stride {stride}: choose multiples, as {near}"
        )


def digest_of(detector: Detector, *facts: object) -> str:
    """A name for a detector's content and whatever else a measurement depends on: its weights, head and the facts' `repr`."""
    digest = hashlib.sha256(repr((facts, detector.names, detector.input_size, detector.preprocessing, detector.head)).encode())
    for part in (detector.network, detector.head):
        for name, tensor in sorted(part.state_dict().items()):
            digest.update(f"{name} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
