"""What an exported file says about itself, so that the file alone is enough to run it."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, dataclass, field
from typing import Annotated, Any, Literal

import onnx
from pydantic import BaseModel, Field, ValidationError

from yoloquant.errors import CheckpointError
from yoloquant.files.reading import MOST_CLASSES
from yoloquant.models.output_formats import LAYOUTS

KEY = "yoloquant"
# Pixels that no detector's input or stride comes near.
_LARGEST = 1 << 16
_LONGEST_LITERAL = 4 << 20
_Pixels = Annotated[int, Field(ge=1, le=_LARGEST)]


def properties_of(model: onnx.ModelProto) -> dict[str, str]:
    """The metadata of a file."""
    return {entry.key: entry.value for entry in model.metadata_props}


class _Values(BaseModel, extra="forbid", strict=False):
    """What may stand under the key."""

    names: tuple[str, ...] = Field(max_length=MOST_CLASSES)
    strides: tuple[_Pixels, ...] = Field(min_length=1, max_length=8)
    input_size: tuple[_Pixels, _Pixels]
    family: str
    layout: Literal[tuple(LAYOUTS)]  # type: ignore[valid-type]
    target: str = "float"
    extra: dict[str, Any] = {}


@dataclass(frozen=True)
class ModelMetadata:
    """Facts that travel in a file's metadata.

    Attributes:
        names: Class names.
        strides: Strides of the detection levels, pixels.
        input_size: `(height, width)`, pixels.
        family: Family of the detector.
        layout: Layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        target: Deployment target, or "float".
        extra: Further JSON values.
    """

    names: tuple[str, ...]
    strides: tuple[int, ...]
    input_size: tuple[int, int]
    family: str
    layout: str
    target: str = "float"
    extra: dict[str, Any] = field(default_factory=dict)

    def to_properties(self) -> dict[str, str]:
        """Key-value pairs for the file.

        `names` and `stride` are written as YOLOv5's and ultralytics' own exporters write them, since their users' tools
        read these; everything else is JSON under one key.
        """
        return {
            "names": str(dict(enumerate(self.names))),
            "stride": str(max(self.strides)),
            KEY: json.dumps(asdict(self)),
        }

    @classmethod
    def from_properties(cls, properties: dict[str, str]) -> ModelMetadata | None:
        """Read what `to_properties` wrote; none if the file is not from this project.

        Raises:
            CheckpointError: They are damaged.
        """
        if KEY not in properties:
            return None
        try:
            values = _Values.model_validate_json(properties[KEY])
        except (ValidationError, RecursionError) as error:
            raise CheckpointError("its own metadata are damaged: export it again") from error
        return cls(**dict(values))


def names_of(properties: dict[str, str]) -> tuple[str, ...] | None:
    """Class names from the `names` entry that YOLOv5's and ultralytics' exporters write; none if absent or unreadable."""
    try:
        names = literal(properties["names"])
    except KeyError:
        return None
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list | tuple) or not 0 < len(names) <= MOST_CLASSES:
        return None
    return tuple(str(name) for name in names)


def literal(text: str) -> Any:
    """The Python value that a text of a file's metadata writes down; none if it is damaged, or far too long to be one."""
    try:
        return ast.literal_eval(text) if len(text) <= _LONGEST_LITERAL else None
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
