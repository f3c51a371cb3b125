"""Which branch an ONNX file outputs the boxes of, where its network has two."""

from __future__ import annotations

import onnx

from yoloquant.models.onnx.metadata import ModelMetadata, properties_of
from yoloquant.models.registry import FAMILIES


def branch_in(model: onnx.ModelProto) -> str | None:
    """The branch, by this project's metadata or by what a family knows of its files; none where nothing says so."""
    own = ModelMetadata.from_properties(properties_of(model))
    if own is not None:
        return own.extra.get("branch")
    readers = [family.onnx.branch for family in FAMILIES.values() if family.onnx is not None and family.onnx.branch is not None]
    return next((branch for branch in (read(model) for read in readers) if branch is not None), None)
