"""Networks given as a list of layers, each reading one or several earlier ones (YOLOv5, YOLOv7, YOLOv8 and later)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from yoloquant.models.architecture import architecture


@architecture("models.yolo.DetectionModel", "models.yolo.Model")
class LayeredNetwork(nn.Module):
    """Layers in order; each has `f`, where it reads from (-1 the layer before, else an index), and `i`, its index.

    The last layer outputs the list of raw maps.
    """

    model: nn.Sequential

    def forward(self, x: Tensor) -> list[Tensor]:
        """Images `(N, 3, H, W)` -> raw head maps."""
        outputs: list[Any] = []
        value: Any = x
        for layer in self.model:
            source = getattr(layer, "f", -1)
            if isinstance(source, int):
                value = value if source == -1 else outputs[source]
            else:
                value = [value if index == -1 else outputs[index] for index in source]
            value = layer(value)
            outputs.append(value)
        maps: list[Tensor] = value
        return maps
