"""What the outputs of an ONNX file look like, and what a family knows of such a file."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import onnx

from yoloquant.errors import CheckpointError
from yoloquant.models.detector import Head
from yoloquant.models.onnx.cut import constants_of, find_cut
from yoloquant.models.preprocessing import PLAIN, Preprocessing

# Family of files that no family knows as its own, or that need nothing else of it.
UNNAMED = "onnx"
# Classes of COCO: those of files without names.
USUAL_COUNT = 80


@dataclass(frozen=True)
class OnnxFacts:
    """A detector's file.

    Attributes:
        names: Class names.
        strides: Strides of the levels, pixels.
        input_size: `(height, width)`, pixels.
        layout: Layout of the decoded output.
        decoder: Module that turns the outputs into the layout; None if the first output has it already.
        preprocessing: Preprocessing that the file wants.
        family: Family that `Detector.family` names.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    layout: str
    decoder: Head | None = None
    preprocessing: Preprocessing = PLAIN
    family: str = UNNAMED


@dataclass(frozen=True, kw_only=True)
class OnnxOutputs:
    """The outputs of a file, by which its exporter is known.

    Attributes:
        graph: Graph of the file.
        shapes: Shapes of the outputs, measured where the file leaves them free.
        names: Class names in the metadata; None if there are none.
        strides: Strides of the levels, pixels, as far as metadata and number of boxes say.
        input_size: `(height, width)` of the images, pixels.
        layout: Layout of a first output that is decoded, a key of `yoloquant.models.output_formats.LAYOUTS`; None for other
            outputs.
    """

    graph: onnx.GraphProto
    shapes: list[tuple[int, ...]]
    names: tuple[str, ...] | None
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    layout: str | None = None

    @property
    def are_maps(self) -> bool:
        """The outputs are three maps, one for each level, undecoded."""
        return len(self.shapes) == 3 and all(len(shape) in (4, 5) for shape in self.shapes)

    @property
    def map_values(self) -> int:
        """Values of a map: channels `(N, channels, H, W)`, or values of each of the anchors `(N, anchors, H, W, values)`."""
        first = self.shapes[0]
        return first[4] if len(first) == 5 else first[1]

    @property
    def anchor_classes(self) -> int | None:
        """Number of classes if the maps hold box, objectness and classes for each of three anchors; none if they do not."""
        if len(self.shapes[0]) == 5:
            return self.map_values - 5
        count = self.map_values // 3 - 5
        return count if self.map_values % 3 == 0 and count == len(self.names_or(USUAL_COUNT)) else None

    @property
    def map_strides(self) -> tuple[int, ...]:
        """Strides of the maps, pixels."""
        height = self.input_size[0]
        return tuple(height // (shape[2] if len(shape) == 4 or shape[1] <= 4 else shape[1]) for shape in self.shapes)

    @cached_property
    def head_operators(self) -> frozenset[str]:
        """Operators behind the last convolutions."""
        try:
            cut = find_cut(self.graph, constants_of(self.graph))
        except CheckpointError:
            return frozenset()
        return frozenset(self.graph.node[index].op_type for index in cut.head)

    def names_or(self, count: int = USUAL_COUNT) -> tuple[str, ...]:
        """Class names of the file, or numbered ones."""
        return self.names or numbered_names(count)


def numbered_names(count: int) -> tuple[str, ...]:
    """Names of classes that have none."""
    return tuple(f"class {index}" for index in range(count))
