"""What an exported file says about itself, so that the file alone is enough to run it."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict, dataclass, field
from typing import Any

KEY = "yoloquant"


@dataclass(frozen=True)
class ModelMetadata:
    """Facts that travel in a file's metadata.

    Attributes:
        names: class names.
        strides: of the detection levels, pixels.
        input_size: `(height, width)`, pixels.
        family: of the detector.
        layout: of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        target: the deployment target, or "float".
        extra: further JSON values.
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
        """Read what `to_properties` wrote; none if the file is not from this project."""
        if KEY not in properties:
            return None
        values = json.loads(properties[KEY])
        for key in ("names", "strides", "input_size"):
            values[key] = tuple(values[key])
        return cls(**values)


def names_of(properties: dict[str, str]) -> tuple[str, ...] | None:
    """Class names from the `names` entry that YOLOv5's and ultralytics' exporters write; none if absent or unreadable."""
    try:
        names = ast.literal_eval(properties["names"])
    except (KeyError, ValueError, SyntaxError):
        return None
    return tuple(str(name) for name in (names.values() if isinstance(names, dict) else names))
