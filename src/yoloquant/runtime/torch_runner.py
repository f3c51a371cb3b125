"""Run a detector in torch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from yoloquant.models.detector import Detector
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.runner import ClosedRunnerError


class TorchRunner:
    """A float or quantized detector as a `Runner`."""

    def __init__(self, detector: Detector | QuantizedDetector, device: str = "cpu") -> None:
        """Move the detector to `device` and keep convolutions in channels-last order, which CPUs run faster."""
        self.name = "torch"
        self.layout = detector.head.layout
        self.branch = detector.head.branch
        self.names = detector.names
        self.input_size = detector.input_size
        self.batch_size: int | None = None
        self.stride = max(detector.strides)
        self.free_size = detector.head.free_size and _has_free_size(detector.network)
        self.preprocessing = detector.preprocessing
        self._device = torch.device(device)
        self._network: nn.Module | None = detector.network.to(self._device)
        self._head = detector.head.to(self._device)

    def decode(self, images: Tensor) -> Tensor:
        """Decoded output for images `(N, 3, H, W)` on any device."""
        if self._network is None:
            raise ClosedRunnerError
        with torch.inference_mode():
            batch = images.to(self._device, memory_format=torch.channels_last)
            out: Tensor = self._head(list(self._network(batch)))
            return out

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """See `Runner`."""
        return self.decode(torch.from_numpy(images)).float().cpu().numpy()

    def close(self) -> None:
        """Drop the network."""
        self._network = None


def _has_free_size(network: nn.Module) -> bool:
    """A network takes images of any height and width; captured ones may have been written for one size."""
    if not isinstance(network, GraphModule):
        return True
    images = next(node for node in network.graph.nodes if node.op == "placeholder")
    example = images.meta.get("val")
    return example is None or not any(isinstance(side, int) for side in example.shape[2:])
