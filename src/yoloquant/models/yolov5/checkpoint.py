"""What YOLOv5's checkpoints are known by, and the head in them."""

from __future__ import annotations

from torch import Tensor

from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import canonical
from yoloquant.models.family import CheckpointReader
from yoloquant.models.record import Record, head_record
from yoloquant.models.yolov5.network import AnchorHead, Detect

_HEAD = "models.yolo.Detect"


def _recognises(network: Record) -> bool:
    return canonical(head_record(network).path) == _HEAD


def anchor_head(record: Record, layer: Detect, strides: tuple[int, ...]) -> AnchorHead:
    """The head behind a detection layer with anchors, which files hold in units of the stride.

    Args:
        record: Record of the layer.
        layer: Layer as built.
        strides: Strides of the levels, pixels.

    Raises:
        CheckpointError: There are no anchors.
    """
    anchors = record.state.get("_buffers", {}).get("anchors")
    if not isinstance(anchors, Tensor) or anchors.shape[0] != len(strides):
        raise CheckpointError("it lacks the anchors of its detection head: the checkpoint is damaged")
    pixels = [(level.float() * stride).view(-1, 2).tolist() for level, stride in zip(anchors, strides, strict=True)]
    return AnchorHead(int(layer.nc), list(strides), pixels)


READER = CheckpointReader(packages=("models.", "utils.loss."), recognises=_recognises, heads={_HEAD: anchor_head})
