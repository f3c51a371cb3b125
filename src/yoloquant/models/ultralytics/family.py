"""What shared code asks of the families that the package ultralytics trains, YOLOv8 to YOLO26 and YOLOv5u.

All of them have one head, and all but YOLO26 one loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import nn

from yoloquant.errors import CheckpointError
from yoloquant.models.branches import ONE_TO_MANY, ONE_TO_ONE, head_with_branch
from yoloquant.models.class_outputs import Kept, renew_children
from yoloquant.models.detector import Detector
from yoloquant.models.distance_head import DistanceHead, output_channels
from yoloquant.models.family import BuildRequest, CheckpointReader, Family, LossRequest, OnnxReader
from yoloquant.models.record import Record, classes_in, head_record, to_number
from yoloquant.models.ultralytics.build import build_ultralytics
from yoloquant.models.ultralytics.loss import YOLO26Loss, YOLOv8Loss
from yoloquant.models.ultralytics.network import DecoupledDetect
from yoloquant.models.ultralytics.onnx_files import onnx_branch, onnx_facts
from yoloquant.models.ultralytics.plans import PLANS

# The first block found decides: later families also hold the blocks of earlier ones.
_FAMILY_OF_BLOCK = (
    ("v10Detect", "yolov10"),
    ("A2C2f", "yolo12"),
    ("C3k2", "yolo11"),
    ("RepNCSPELAN4", "yolov9"),
    ("C2f", "yolov8"),
    ("C3", "yolov5u"),
)
# A network of blocks that no release has.
_UNRELEASED = "ultralytics"


def _name_of(network: Record) -> str | None:
    """Name of a network's family; none if it is not of the package."""
    if not network.path.startswith("ultralytics."):
        return None
    blocks = {path.rpartition(".")[2] for path in classes_in(network)}
    if "C3k2" in blocks and to_number(head_record(network).state.get("reg_max")) == 1:
        return "yolo26"
    return next((family for block, family in _FAMILY_OF_BLOCK if block in blocks), _UNRELEASED)


def _head(_record: Record, layer: DecoupledDetect, strides: tuple[int, ...]) -> DistanceHead:
    # Whatever the file is marked with: ultralytics 8.4, too, chooses anew each time, and exports this one.
    branch = ONE_TO_MANY if layer.has_both() else ONE_TO_ONE if hasattr(layer, "one2one_cv2") else None
    boxes, classes = layer.branches()
    bins, class_count = output_channels(boxes) // 4, output_channels(classes)
    if bins < 1 or len(boxes) != len(strides):
        raise CheckpointError("its detection head does not fit its strides: the checkpoint is damaged")
    return head_with_branch(class_count, list(strides), bins, branch)


def _reader(name: str) -> CheckpointReader:
    return CheckpointReader(
        packages=("ultralytics.nn.", "ultralytics.utils.loss.", "ultralytics.yolo.utils.loss."),
        values=frozenset({"ultralytics.utils.IterableSimpleNamespace", "ultralytics.yolo.utils.IterableSimpleNamespace"}),
        recognises=lambda network: _name_of(network) == name,
        heads={"ultralytics.nn.modules.Detect": _head, "ultralytics.nn.modules.v10Detect": _head},
    )


def _build(request: BuildRequest) -> Detector:
    return build_ultralytics(request.architecture, request.names, request.input_size, request.width, request.depth)


def _loss(request: LossRequest) -> YOLOv8Loss:
    head, p = request.detector.head, request.parameters
    assert isinstance(head, DistanceHead)
    return YOLOv8Loss(head, box=p.box, cls=p.cls, dfl=p.dfl)


def _loss_of_yolo26(request: LossRequest) -> YOLO26Loss:
    head, p = request.detector.head, request.parameters
    assert isinstance(head, DistanceHead)
    return YOLO26Loss(head, epochs=request.epochs, box=p.box, cls=p.cls, dfl=p.dfl)


def _renew_classes(layer: DecoupledDetect, kept: Kept) -> None:
    """The last convolution of each class branch."""
    for pair in ("cv3", "one2one_cv3"):
        for branch in getattr(layer, pair, nn.ModuleList()).children():
            renew_children(branch, kept, [list(branch.named_children())[-1][0]])
    layer.nc = len(kept)


def _family(name: str, loss: Callable[[LossRequest], nn.Module] = _loss) -> Family:
    architectures = tuple(architecture for architecture, plan in PLANS.items() if plan.family == name)
    return Family(
        name=name,
        head=DistanceHead,
        architectures=architectures,
        build=_build if architectures else None,
        checkpoint=_reader(name),
        loss=loss,
        class_layers={DecoupledDetect: _renew_classes},
    )


FAMILIES = (
    # What the package's exporter writes is the same for all of them.
    replace(_family(_UNRELEASED), is_default_of_head=True, onnx=OnnxReader(facts=onnx_facts, branch=onnx_branch)),
    _family("yolov5u"),
    _family("yolov8"),
    _family("yolov9"),
    _family("yolov10"),
    _family("yolo11"),
    _family("yolo12"),
    _family("yolo26", _loss_of_yolo26),
)
