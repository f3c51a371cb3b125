"""Which repository a checkpoint is from, by its contents, and the head that decodes its maps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from yoloquant.checkpoint.records import is_module
from yoloquant.checkpoint.unpickler import Record, to_number
from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import canonical
from yoloquant.models.branches import ONE_TO_MANY, ONE_TO_ONE, head_with_branch
from yoloquant.models.detector import Head
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.ultralytics.network import DecoupledDetect
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.models.yolov6.network import EfficientDetect

# YOLOv5 and YOLOv7 share class paths; these classes only the latter has.
_ONLY_YOLOV7 = frozenset(
    f"models.{name}"
    for name in (
        "common.MP", "common.SP", "common.ReOrg", "common.SPPCSPC", "common.RepConv", "common.DownC", "common.Chuncat",
        "common.Shortcut", "common.Foldcut", "common.Stem", "common.Res", "common.RobustConv", "common.ImplicitA",
        "common.BottleneckCSPA", "common.BottleneckCSPB", "common.BottleneckCSPC", "yolo.IDetect", "yolo.IAuxDetect",
    )
)  # fmt: skip

# The first block found decides: later families also hold the blocks of earlier ones.
_ULTRALYTICS_FAMILIES = (
    ("v10Detect", "yolov10"),
    ("A2C2f", "yolo12"),
    ("C3k2", "yolo11"),
    ("RepNCSPELAN4", "yolov9"),
    ("C2f", "yolov8"),
    ("C3", "yolov5u"),
)


def head_record(network: Record) -> Record:
    """The record of a network's detection head: its child `detect`, or the last of its layers.

    Raises:
        CheckpointError: it has no layers.
    """
    children = network.state["_modules"]
    detect = children.get("detect")
    if is_module(detect):
        return detect
    layers = children.get("model")
    if not is_module(layers) or not layers.state["_modules"]:
        raise CheckpointError("it holds a network without layers: the checkpoint is damaged")
    last = list(layers.state["_modules"].values())[-1]
    if not is_module(last):
        raise CheckpointError("the last layer of its network is none: the checkpoint is damaged")
    return last


def family_of(network: Record) -> str:
    """Name of the family: `yolov5`, `yolov6`, ..., or `ultralytics` for a network of blocks that no release has."""
    classes = {canonical(record.path) for record in _modules(network)}
    if network.path.startswith("yolov6."):
        return "yolov6"
    if not network.path.startswith("ultralytics."):
        return "yolov7" if classes & _ONLY_YOLOV7 else "yolov5"
    names = {path.rpartition(".")[2] for path in classes}
    if "C3k2" in names and to_number(head_record(network).state.get("reg_max")) == 1:
        return "yolo26"
    return next((family for block, family in _ULTRALYTICS_FAMILIES if block in names), "ultralytics")


def _modules(record: Record) -> Iterator[Record]:
    yield record
    for child in record.state["_modules"].values():
        if is_module(child):
            yield from _modules(child)


def build_head(network_record: Record, network: nn.Module) -> tuple[Head, tuple[int, ...]]:
    """The head that decodes the maps, and the strides of its levels in pixels.

    Args:
        network_record: the whole network.
        network: the same, built; branches of its detection layer that inference does not use are taken out.

    Raises:
        CheckpointError: the network does not end in a detection layer that is known, or that lacks what decoding needs.
    """
    record = head_record(network_record)
    layer = network.get_submodule("detect") if hasattr(network, "detect") else list(network.get_submodule("model").children())[-1]
    make = _HEADS.get(canonical(record.path))
    if make is None:
        raise CheckpointError(f"it ends in a {record.path}, not in a detection head: only detectors are supported")
    value = record.state.get("stride")
    strides = _strides(network_record.state.get("stride") if value is None else value)
    return make(record, layer, strides).eval(), strides


def _strides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Tensor) or value.numel() == 0 or float(value.min()) < 1:
        raise CheckpointError("it does not tell the strides of its detection head: the checkpoint is damaged")
    return tuple(round(stride) for stride in value.flatten().tolist())


def _anchor_head(record: Record, layer: nn.Module, strides: tuple[int, ...]) -> Head:
    """Files hold anchors in units of the stride."""
    anchors = record.state.get("_buffers", {}).get("anchors")
    if not isinstance(anchors, Tensor) or anchors.shape[0] != len(strides):
        raise CheckpointError("it lacks the anchors of its detection head: the checkpoint is damaged")
    pixels = [(level.float() * stride).view(-1, 2).tolist() for level, stride in zip(anchors, strides, strict=True)]
    return AnchorHead(int(layer.nc), list(strides), pixels)  # type: ignore[arg-type]


def _ultralytics_head(_record: Record, layer: nn.Module, strides: tuple[int, ...]) -> Head:
    assert isinstance(layer, DecoupledDetect)
    # Whatever the file is marked with: ultralytics 8.4, too, chooses anew each time, and exports this one.
    branch = ONE_TO_MANY if layer.has_both() else ONE_TO_ONE if hasattr(layer, "one2one_cv2") else None
    boxes, classes = layer.branches()
    bins, class_count = _channels(boxes) // 4, _channels(classes)
    if bins < 1 or len(boxes) != len(strides):
        raise CheckpointError("its detection head does not fit its strides: the checkpoint is damaged")
    return head_with_branch(class_count, list(strides), bins, branch)


def _channels(branches: nn.ModuleList) -> int:
    """Output channels of a branch's last convolution."""
    last = [module for module in branches[0].modules() if isinstance(module, nn.Conv2d)][-1]
    return last.out_channels


def _yolov6_head(record: Record, layer: nn.Module, strides: tuple[int, ...]) -> Head:
    assert isinstance(layer, EfficientDetect)
    if is_module(record.state["_modules"].get("obj_preds")):
        raise CheckpointError(
            "it is of YOLOv6's release 0.1, whose head has an objectness branch: only releases from 0.2 on are supported"
        )
    boxes, classes = layer.branches()
    return DistanceHead("rows_objectness", _channels(classes), list(strides), _channels(boxes) // 4)


_HEADS: dict[str, Callable[[Record, nn.Module, tuple[int, ...]], Head]] = {
    "models.yolo.Detect": _anchor_head,
    "models.yolo.IDetect": _anchor_head,
    "models.yolo.IAuxDetect": _anchor_head,
    "ultralytics.nn.modules.Detect": _ultralytics_head,
    "ultralytics.nn.modules.v10Detect": _ultralytics_head,
    "yolov6.models.effidehead.Detect": _yolov6_head,
    "yolov6.models.heads.effidehead_fuseab.Detect": _yolov6_head,
    "yolov6.models.heads.effidehead_distill_ns.Detect": _yolov6_head,
    "yolov6.models.heads.effidehead_lite.Detect": _yolov6_head,
}
