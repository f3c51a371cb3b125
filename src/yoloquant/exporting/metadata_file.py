"""`metadata.yaml`, or `metadata.json` in an archive: what files say about themselves where their format has no place for it.

Names, stride, task, batch size and input size stand under the keys that ultralytics' exporters write and its `YOLO` class reads;
everything that this project's runners need is JSON under one more key, as in ONNX files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parse_yaml, read_text
from yoloquant.files.writing import write_text
from yoloquant.models.onnx.metadata import KEY, ModelMetadata

METADATA = "metadata.yaml"
# The same in the archive behind a `.tflite` file.
TFLITE_METADATA = "metadata.json"
_HOW_TO_MEND = "deliver the quantized folder again"


def facts_of(metadata: ModelMetadata) -> dict[str, Any]:
    """The content of `metadata.yaml`, as JSON values."""
    return {
        "description": f"{metadata.family} quantized by yoloquant for {metadata.target}",
        "stride": max(metadata.strides),
        "task": "detect",
        "batch": 1,
        "imgsz": list(metadata.input_size),
        "channels": 3,
        "names": dict(enumerate(metadata.names)),
        KEY: metadata.to_properties()[KEY],
    }


def write_metadata(metadata: ModelMetadata, folder: Path) -> None:
    """Write `metadata.yaml` into a folder."""
    write_text(folder / METADATA, yaml.safe_dump(facts_of(metadata), sort_keys=False, allow_unicode=True))


def metadata_from(facts: Any, name: str) -> ModelMetadata:
    """Metadata from the result of `facts_of`, read back from a file.

    Raises:
        CheckpointError: This project did not write them, or they are damaged.
    """
    own = facts.get(KEY) if isinstance(facts, dict) else None
    metadata = ModelMetadata.from_properties({KEY: own}) if isinstance(own, str) else None
    if metadata is None:
        raise CheckpointError(f"{name} holds no metadata of yoloquant: {_HOW_TO_MEND}")
    return metadata


def read_metadata_file(folder: Path) -> ModelMetadata:
    """Read `metadata.yaml` of a folder.

    Raises:
        CheckpointError: It is missing, this project did not write it, or it is damaged.
    """
    path = folder / METADATA
    if not path.is_file():
        raise CheckpointError(f"there is no {METADATA} in {folder}, which names classes and sizes: {_HOW_TO_MEND}")
    return metadata_from(parse_yaml(read_text(path, CheckpointError), str(path), CheckpointError), str(path))
