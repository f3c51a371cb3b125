"""What shared code asks of YOLOv6."""

from __future__ import annotations

from torch import nn

from yoloquant.errors import CheckpointError
from yoloquant.models.class_outputs import Kept, renew_children
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead, output_channels
from yoloquant.models.family import BuildRequest, CheckpointReader, Family, LossRequest
from yoloquant.models.record import Record, is_module
from yoloquant.models.yolov6.build import WIDTHS, build_yolov6
from yoloquant.models.yolov6.loss import YOLOv6Loss
from yoloquant.models.yolov6.network import HEADS, EfficientDetect

_PACKAGE = "yolov6."


def _build(request: BuildRequest) -> Detector:
    return build_yolov6(request.architecture[-1], request.names, request.input_size, request.width)


def _recognises(network: Record) -> bool:
    return network.path.startswith(_PACKAGE)


def _head(record: Record, layer: EfficientDetect, strides: tuple[int, ...]) -> DistanceHead:
    if is_module(record.state["_modules"].get("obj_preds")):
        raise CheckpointError(
            "it is of YOLOv6's release 0.1, whose head has an objectness branch: only releases from 0.2 on are supported"
        )
    boxes, classes = layer.branches()
    return DistanceHead("rows_objectness", output_channels(classes), list(strides), output_channels(boxes) // 4)


def _loss(request: LossRequest) -> YOLOv6Loss:
    """The box loss and the warm-up with ATSS are those that the size was trained with, unless given."""
    head, p = request.detector.head, request.parameters
    assert isinstance(head, DistanceHead)
    iou_type = p.iou_type or ("siou" if _first_channels(request.detector.network) <= 16 else "giou")
    warmup = p.atss_warmup_epoch if p.atss_warmup_epoch is not None else (4 if 64 in head.strides else 0)
    return YOLOv6Loss(head, iou_type=iou_type, atss_warmup_epoch=warmup, box=p.box, cls=p.cls, dfl=p.dfl)


def _first_channels(network: nn.Module) -> int:
    """Channels behind the first convolution: 16 in the smallest size, more in the others."""
    return next((len(parameter) for parameter in network.parameters() if parameter.dim() == 4), 0)


def _renew_classes(layer: EfficientDetect, kept: Kept) -> None:
    for name, branches in layer.named_children():
        if name.startswith("cls_preds"):
            renew_children(branches, kept)
    layer.nc = len(kept)


FAMILY = Family(
    name="yolov6",
    head=DistanceHead,
    architectures=tuple(f"yolov6{size}" for size in WIDTHS),
    build=_build,
    checkpoint=CheckpointReader(
        packages=tuple(f"{_PACKAGE}{name}." for name in ("layers", "models", "assigners")),
        values=frozenset({f"{_PACKAGE}utils.config.ConfigDict", f"{_PACKAGE}utils.config.Config"}),
        recognises=_recognises,
        heads=dict.fromkeys(HEADS, _head),
    ),
    loss=_loss,
    hyperparameters={"box": 2.5, "cls": 1.0, "dfl": 0.5, "lr0": 0.02, "close_mosaic": 15, "warmup_iterations": 1000},
    class_layers={EfficientDetect: _renew_classes},
)
