"""What is known of the ONNX files that the package ultralytics exports."""

from __future__ import annotations

import onnx
from torch import Tensor

from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import architecture
from yoloquant.models.branches import ONE_TO_MANY, ONE_TO_ONE
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.onnx.metadata import properties_of
from yoloquant.models.onnx.outputs import OnnxFacts, OnnxOutputs, numbered_names
from yoloquant.models.onnx.undecoded import RegroupedMapsHead

# Part of the names of nodes and weights of the one-to-one branch.
_MARK = "one2one_cv"
# Words in the description that stands in the metadata of files of networks with two pairs of branches.
_TWO_BRANCHES = ("yolov10", "yolo26")
# Box channels of a map with distributions of 16 distances.
_BOX_CHANNELS = 64


@architecture("yoloquant.JoinedMapsHead")
class JoinedMapsHead(RegroupedMapsHead):
    """Maps of YOLOv8 and later before decoding, box channels and class channels in one map for each level."""

    layout = "columns_classes"

    def regrouped(self, raw_maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, 4*bins+C, H, W)` -> box map and class map of each, as `DistanceHead` reads them."""
        pairs: list[Tensor] = []
        for raw in raw_maps:
            boxes = raw.shape[1] - self.class_count
            pairs += raw.split([boxes, self.class_count], 1)
        return pairs


def onnx_facts(outputs: OnnxOutputs) -> OnnxFacts | None:
    """Maps with the box channels and the class channels of a level side by side.

    Raises:
        CheckpointError: They have too few channels.
    """
    if not outputs.are_maps or outputs.anchor_classes is not None:
        return None
    names, strides = outputs.names or numbered_names(outputs.map_values - _BOX_CHANNELS), outputs.map_strides
    bins = (outputs.map_values - len(names)) // 4
    if bins < 1:
        raise CheckpointError(
            f"its maps have {outputs.map_values} channels, too few for {len(names)} classes: export it with its detection head"
        )
    decoder = JoinedMapsHead(DistanceHead(JoinedMapsHead.layout, len(names), list(strides), bins))
    return OnnxFacts(names, strides, outputs.input_size, decoder.layout, decoder)


def onnx_branch(model: onnx.ModelProto) -> str | None:
    """The branch that a file outputs, by its metadata or by the names of its nodes; none where nothing says so."""
    properties = properties_of(model)
    names = (name for node in model.graph.node for name in (node.name, *node.input))
    if properties.get("end2end") == "True" or any(_MARK in name for name in names):
        return ONE_TO_ONE
    described = properties.get("description", "").lower()
    return ONE_TO_MANY if any(family in described for family in _TWO_BRANCHES) else None
