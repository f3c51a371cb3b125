"""How much each value matters for the detections: the diagonal of the Fisher information, in a compact form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.analysis.detection_error import detection_error
from yoloquant.data.images import to_input
from yoloquant.graph.interpret import Observed
from yoloquant.quant.quantized_detector import QuantizedDetector


@dataclass(frozen=True)
class Importance:
    """Weights of the squared error at one node, with mean 1.

    The squared gradients of a map are kept as the product of their means over channels and over places: where objects are, and
    in which channels, instead of a second copy of every map.

    Attributes:
        places: `(N, 1, H, W)`, or all dimensions but the channels' for other shapes.
        channels: `(1, C, 1, 1)`.
    """

    places: Tensor
    channels: Tensor

    def of(self, numbers: Tensor) -> Tensor:
        """Weights for the images of these numbers; they broadcast against the node's values."""
        return self.places[numbers] * self.channels


def importances(
    detector: QuantizedDetector,
    reference: GraphModule,
    images: Tensor,
    nodes: Sequence[Node],
    device: torch.device | None = None,
) -> dict[str, Importance]:
    """Squared gradients of the detection error at nodes of the quantized network, one image at a time.

    BRECQ (Li et al. 2021, section 3.3) weighs the error of a block's output by the squared gradient of the task's loss there. The
    loss here is the error of boxes and scores against the float network, which needs no labels.

    Args:
        detector: Calibrated detector.
        reference: The float network.
        images: Images, uint8 `(N, 3, H, W)`.
        nodes: Nodes whose values' weights are wanted.
        device: Device of the networks.

    Returns:
        Node name -> weights.
    """
    squares: dict[str, list[Tensor]] = {}
    channels: dict[str, Tensor] = {}
    wanted, kept = set(nodes), dict[str, Tensor]()

    def keep(node: Node, value: object) -> None:
        if node in wanted and isinstance(value, Tensor):
            value.retain_grad()
            kept[node.name] = value

    runner = Observed(detector.network, keep)
    for image in images:
        x = to_input(image[None], device)
        with torch.no_grad():
            expected = detector.head.candidates(list(reference(x)))
        kept.clear()
        with torch.enable_grad():
            answer = detector.head.candidates(list(runner.run(x.requires_grad_())))
            boxes, scores = detection_error(expected, answer)
            (boxes + scores).backward()
        for name, value in kept.items():
            if value.grad is None:
                continue
            square = value.grad.square()
            squares.setdefault(name, []).append(square.mean(dim=1, keepdim=True))
            over = [axis for axis in range(square.dim()) if axis != 1]
            channels[name] = channels.get(name, torch.zeros(())) + square.mean(dim=over, keepdim=True)
    for parameter in detector.network.parameters():
        parameter.grad = None
    return {name: _normalized(torch.cat(squares[name]), channels[name]) for name in squares}


def _normalized(places: Tensor, channels: Tensor) -> Importance:
    """Each factor with mean 1, so that losses keep their size."""
    smallest = torch.finfo(torch.float32).tiny
    return Importance(places / places.mean().clamp(min=smallest), channels / channels.mean().clamp(min=smallest))
