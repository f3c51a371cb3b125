"""Which family a checkpoint is of, by its contents, and the head that decodes its maps."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yoloquant.errors import CheckpointError
from yoloquant.models.architecture import canonical
from yoloquant.models.detector import Head
from yoloquant.models.family import CheckpointReader
from yoloquant.models.record import Record, head_record
from yoloquant.models.registry import FAMILIES


def recognised(network: Record) -> tuple[str, CheckpointReader]:
    """The name of the family that a network is of, `yolov5`, `yolov6`, ..., and how that reads it.

    Raises:
        CheckpointError: No family knows it.
    """
    # Later families are made of the classes of earlier ones.
    for family in reversed(FAMILIES.values()):
        if family.checkpoint is not None and family.checkpoint.recognises(network):
            return family.name, family.checkpoint
    raise no_detector(head_record(network))


def no_detector(last: Record) -> CheckpointError:
    """Error message for a network whose last layer is no detection head."""
    return CheckpointError(f"it ends in a {last.path}, not in a detection head: only detectors are supported")


def build_head(reader: CheckpointReader, network_record: Record, network: nn.Module) -> tuple[Head, tuple[int, ...]]:
    """The head that decodes the maps, and the strides of its levels in pixels.

    Args:
        reader: Reader of the network's family, from `recognised`.
        network_record: Record of the whole network.
        network: Built network; branches of its detection layer that inference does not use are removed.

    Raises:
        CheckpointError: The network does not end in a detection layer that is known, or that lacks what decoding needs.
    """
    record = head_record(network_record)
    layer = network.get_submodule("detect") if hasattr(network, "detect") else list(network.get_submodule("model").children())[-1]
    make = reader.heads.get(canonical(record.path))
    if make is None:
        raise no_detector(record)
    value = record.state.get("stride")
    strides = _strides(network_record.state.get("stride") if value is None else value)
    return make(record, layer, strides).eval(), strides


def _strides(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Tensor) or value.numel() == 0 or float(value.min()) < 1:
        raise CheckpointError("it does not hold the strides of its detection head: the checkpoint is damaged")
    return tuple(round(stride) for stride in value.flatten().tolist())
