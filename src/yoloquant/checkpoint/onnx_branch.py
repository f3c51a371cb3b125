"""Which branch of a YOLOv10 or YOLO26 an ONNX file answers with."""

from __future__ import annotations

import onnx

from yoloquant.models.branches import ONE_TO_MANY, ONE_TO_ONE
from yoloquant.models.onnx.metadata import ModelMetadata

# Part of the names of nodes and weights of the one-to-one branch, as ultralytics' exports have them.
_MARK = "one2one_cv"
# Words in the description that ultralytics writes into the metadata.
_FAMILIES = ("yolov10", "yolo26")


def branch_in(model: onnx.ModelProto) -> str | None:
    """The branch, by the metadata of this project or of ultralytics or by the names of nodes; none where nothing tells of one."""
    properties = {entry.key: entry.value for entry in model.metadata_props}
    own = ModelMetadata.from_properties(properties)
    if own is not None:
        return own.extra.get("branch")
    names = (name for node in model.graph.node for name in (node.name, *node.input))
    if properties.get("end2end") == "True" or any(_MARK in name for name in names):
        return ONE_TO_ONE
    described = properties.get("description", "").lower()
    return ONE_TO_MANY if any(family in described for family in _FAMILIES) else None
