"""What shared code asks of YOLOv5."""

from __future__ import annotations

from yoloquant.models.family import Family, LossRequest, OnnxReader
from yoloquant.models.yolov5.build import SIZES, build
from yoloquant.models.yolov5.checkpoint import READER
from yoloquant.models.yolov5.class_outputs import renew_detect
from yoloquant.models.yolov5.loss import YOLOv5Loss, anchor_settings
from yoloquant.models.yolov5.network import AnchorHead, Detect
from yoloquant.models.yolov5.onnx_outputs import onnx_facts


def _loss(request: LossRequest) -> YOLOv5Loss:
    head = request.detector.head
    assert isinstance(head, AnchorHead)
    return YOLOv5Loss(head.anchors, tuple(head.strides), head.class_count, **anchor_settings(head, request))


FAMILY = Family(
    name="yolov5",
    head=AnchorHead,
    is_default_of_head=True,
    architectures=tuple(f"yolov5{size}" for size in SIZES),
    build=build,
    checkpoint=READER,
    onnx=OnnxReader(facts=onnx_facts),
    loss=_loss,
    hyperparameters={},
    class_layers={Detect: renew_detect},
)
