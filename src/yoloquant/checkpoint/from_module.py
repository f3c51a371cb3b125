"""Detectors from networks that are already in memory: those of the original repositories, and any other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from yoloquant.checkpoint.read import detector_from_checkpoint
from yoloquant.checkpoint.safetensors_file import CUSTOM
from yoloquant.errors import CheckpointError
from yoloquant.models.detector import Detector, Head
from yoloquant.models.output_formats import LAYOUTS
from yoloquant.models.preprocessing import PLAIN, Preprocessing
from yoloquant.models.record import Record


def detector_from_live(model: Any) -> Detector:
    """The detector in an object of an original repository: `ultralytics.YOLO("x.pt")`, or a network of YOLOv5, v6, v7.

    Args:
        model: The network, or an object whose attribute `model` holds it. It is not changed.

    Raises:
        CheckpointError: It is no detector of these repositories.
    """
    network = model
    while not isinstance(network, nn.Module) or _is_wrapper(network):
        network = getattr(network, "model", None)
        if network is None:
            raise CheckpointError(
                f"a {type(model).__name__} is no detector: give a file, a Detector, an ultralytics YOLO object, or build one "
                "with yoloquant.from_module"
            )
    return detector_from_checkpoint({"model": _record(network)}, Path(type(model).__name__))


def _is_wrapper(network: nn.Module) -> bool:
    """A module around the network itself, as torch.hub and deployment wrappers make them."""
    inner = getattr(network, "model", None)
    return isinstance(inner, nn.Module) and not isinstance(inner, nn.Sequential)


def _record(module: nn.Module) -> Record:
    """A live module as the inert record that reading its pickle gives."""
    record = Record(f"{type(module).__module__}.{type(module).__qualname__}")
    record.state = dict(vars(module))
    children = record.state["_modules"].items()
    record.state["_modules"] = {name: None if child is None else _record(child) for name, child in children}
    for kind in ("_parameters", "_buffers"):
        tensors = getattr(module, kind)
        record.state[kind] = {name: tensor.detach().clone() for name, tensor in tensors.items() if tensor is not None}
    return record


class FunctionHead(Head):
    """A head that a user gives as a function; it runs in float, and files hold it as the torch exporter writes it."""

    def __init__(self, decode: Callable[[list[Tensor]], Tensor], layout: str, class_count: int):
        """Keep the function.

        Args:
            decode: Function from raw maps to decoded output in the layout.
            layout: Layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
            class_count: C.
        """
        super().__init__()
        self.decode, self.layout, self.class_count = decode, layout, class_count

    def forward(self, raw_maps: list[Tensor]) -> Tensor:
        """See `Head`."""
        return self.decode(raw_maps)


def from_module(
    network: nn.Module,
    decode: Callable[[list[Tensor]], Tensor],
    *,
    names: Sequence[str],
    strides: Sequence[int],
    input_size: int | tuple[int, int] = 640,
    layout: str = "columns_classes",
    preprocessing: Preprocessing = PLAIN,
) -> Detector:
    """A detector of any network.

    Args:
        network: Module from images `(N, 3, H, W)`, RGB, 0..1, to a list of raw maps, each the output of a last convolution.
            `torch.export` must be able to capture it.
        decode: Function from raw maps to decoded output, in float.
        names: Class names.
        strides: Strides of the levels, pixels.
        input_size: `(height, width)` or one side, pixels; multiples of the largest stride.
        layout: Layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        preprocessing: Position of the image in the input; the network converts values itself.

    Raises:
        CheckpointError: The layout is unknown.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"there is no layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
    size = (input_size, input_size) if isinstance(input_size, int) else input_size
    head = FunctionHead(decode, layout, len(names))
    return Detector(network.eval(), head.eval(), tuple(names), tuple(strides), size, CUSTOM, preprocessing)
