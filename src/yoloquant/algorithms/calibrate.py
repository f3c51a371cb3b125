"""Calibration: run images through the network and take every scale from its observer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from yoloquant.errors import YoloquantError
from yoloquant.quant.module import FakeQuantize, State
from yoloquant.quant.network import QuantizedDetector

Progress = Callable[[int, int], None]


def to_input(images: Tensor, device: torch.device | None = None) -> Tensor:
    """Images uint8 `(N, 3, H, W)` -> float32 in 0..1, channels last, as networks take them; where they are, or on a device."""
    return images.to(device or images.device, memory_format=torch.channels_last).float().div_(255.0)


def calibrate(detector: QuantizedDetector, batches: Iterable[Tensor], total: int = 0, progress: Progress | None = None) -> None:
    """Observe batches with all quantizers passing values on, then freeze every scale, in place.

    Weights are observed once: their values do not depend on images.

    Args:
        detector: with fresh quantizers.
        batches: images, uint8 `(N, 3, H, W)`, RGB. They are read once and not kept.
        total: number of batches, for `progress`.
        progress: called with (batches done, total).

    Raises:
        YoloquantError: there was no batch, or a layer answered with NaN or infinity.
    """
    weights = _observe_weights(detector)
    count = 0
    with torch.inference_mode():
        for count, images in enumerate(batches, start=1):
            _check_finite(detector.network(to_input(images)))
            if progress:
                progress(count, max(total, count))
    if count == 0:
        raise YoloquantError("there are no calibration images: name a list, a folder or a data.yaml with a train split")
    for name, quantizer in detector.quantizers():
        if name not in weights:
            quantizer.freeze_observer()
    detector.set_state(State.QUANTIZE)


def _observe_weights(detector: QuantizedDetector) -> set[str]:
    """Freeze the quantizers of weights; returns their names."""
    names = set()
    for node in detector.network.graph.nodes:
        if node.op == "call_module" and node.args[0].op == "get_attr":
            quantizer = detector.network.get_submodule(node.target)
            assert isinstance(quantizer, FakeQuantize)
            owner, _, leaf = node.args[0].target.rpartition(".")
            with torch.no_grad():
                quantizer.observe(getattr(detector.network.get_submodule(owner), leaf))
            quantizer.freeze_observer()
            # The float weight passes until calibration ends, so that activations are observed as the float network has them.
            quantizer.state = State.PASS
            names.add(quantizer.name)
    return names


def _check_finite(maps: Iterable[Tensor]) -> None:
    for level, raw_map in enumerate(maps):
        if not torch.isfinite(raw_map).all():
            raise YoloquantError(
                f"the float network answers NaN or infinity at detection level {level}: check the checkpoint, "
                "for example with `yoloquant eval`"
            )
