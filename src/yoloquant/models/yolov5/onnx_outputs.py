"""Maps that exporters of YOLOv5 and YOLOv7 leave undecoded."""

from __future__ import annotations

from torch import Tensor

from yoloquant.models.architecture import architecture
from yoloquant.models.onnx.outputs import OnnxFacts, OnnxOutputs, numbered_names
from yoloquant.models.onnx.undecoded import RegroupedMapsHead
from yoloquant.models.yolov5.build import COCO_ANCHORS
from yoloquant.models.yolov5.network import AnchorHead


@architecture("yoloquant.RawAnchorsHead")
class RawAnchorsHead(RegroupedMapsHead):
    """Maps of YOLOv5 and YOLOv7 before decoding, where an exporter has them as `(N, anchors, H, W, values)`."""

    layout = "rows_objectness"

    def regrouped(self, raw_maps: list[Tensor]) -> list[Tensor]:
        """List of `(N, A, H, W, 5+C)` or `(N, A*(5+C), H, W)` -> the latter, as `AnchorHead` reads them."""
        return [raw.permute(0, 1, 4, 2, 3).flatten(1, 2) if raw.dim() == 5 else raw for raw in raw_maps]


def onnx_facts(outputs: OnnxOutputs) -> OnnxFacts | None:
    """Maps of three anchors. Files do not hold these: they are taken to be those for COCO."""
    classes = outputs.anchor_classes if outputs.are_maps else None
    if classes is None:
        return None
    names, strides = outputs.names or numbered_names(classes), outputs.map_strides
    decoder = RawAnchorsHead(AnchorHead(len(names), list(strides), COCO_ANCHORS))
    return OnnxFacts(names, strides, outputs.input_size, decoder.layout, decoder)
