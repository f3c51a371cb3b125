"""What shared code asks of YOLOv7."""

from __future__ import annotations

from yoloquant.models.detector import Detector
from yoloquant.models.family import BuildRequest, CheckpointReader, Family, LossRequest, OnnxReader
from yoloquant.models.record import Record, classes_in
from yoloquant.models.yolov5.checkpoint import READER as OF_YOLOV5
from yoloquant.models.yolov5.checkpoint import anchor_head
from yoloquant.models.yolov5.class_outputs import renew_detect
from yoloquant.models.yolov5.loss import anchor_settings
from yoloquant.models.yolov5.network import AnchorHead, Detect
from yoloquant.models.yolov7.build import build_yolov7_tiny
from yoloquant.models.yolov7.class_outputs import renew_idetect
from yoloquant.models.yolov7.loss import YOLOv7Loss
from yoloquant.models.yolov7.network import IDetect
from yoloquant.models.yolov7.onnx_outputs import onnx_facts

# Its class paths are those of YOLOv5, which has none of these.
_OWN_CLASSES = frozenset(
    f"models.{name}"
    for name in (
        "common.MP", "common.SP", "common.ReOrg", "common.SPPCSPC", "common.RepConv", "common.DownC", "common.Chuncat",
        "common.Shortcut", "common.Foldcut", "common.Stem", "common.Res", "common.RobustConv", "common.ImplicitA",
        "common.BottleneckCSPA", "common.BottleneckCSPB", "common.BottleneckCSPC", "yolo.IDetect", "yolo.IAuxDetect",
    )
)  # fmt: skip


def _build(request: BuildRequest) -> Detector:
    return build_yolov7_tiny(request.names, request.input_size, request.width, request.anchors)


def _recognises(network: Record) -> bool:
    return bool(classes_in(network) & _OWN_CLASSES)


def _loss(request: LossRequest) -> YOLOv7Loss:
    head = request.detector.head
    assert isinstance(head, AnchorHead)
    chooses = request.parameters.loss_ota
    return YOLOv7Loss(head.anchors, tuple(head.strides), head.class_count, chooses=chooses, **anchor_settings(head, request))


FAMILY = Family(
    name="yolov7",
    head=AnchorHead,
    architectures=("yolov7-tiny",),
    build=_build,
    checkpoint=CheckpointReader(
        packages=OF_YOLOV5.packages,
        recognises=_recognises,
        heads={**OF_YOLOV5.heads, "models.yolo.IDetect": anchor_head, "models.yolo.IAuxDetect": anchor_head},
    ),
    onnx=OnnxReader(facts=onnx_facts),
    loss=_loss,
    # Those of the size tiny.
    hyperparameters={"box": 0.05, "cls": 0.5, "obj": 1.0, "mixup": 0.05, "warmup_iterations": 1000},
    class_layers={Detect: renew_detect, IDetect: renew_idetect},
)
