"""Means of the inputs of layers over images."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.graph.interpret import observe
from yoloquant.graph.operators import kind
from yoloquant.progress import Progress


def mean_inputs(
    network: GraphModule,
    batches: Iterable[Tensor],
    layers: Container[Node],
    of: Callable[[Tensor], Tensor] = lambda value: value,
    total: int = 0,
    progress: Progress | None = None,
) -> dict[Node, Tensor]:
    """Mean over images and places of something of each input channel, `(I,)`, of weighted layers.

    Args:
        network: Captured network.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        layers: Convolutions (not transposed ones) and linear layers to average the inputs of.
        of: Elementwise function of the input to average; identity by default.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).
    """
    sums: dict[Node, Tensor] = {}

    def look(node: Node, value: Any) -> None:
        for reader in node.users:
            if reader in layers and reader.args[0] is node:
                channel = value.dim() - 1 if kind(reader) == "linear" else 1
                mean = of(value).mean(dim=[axis for axis in range(value.dim()) if axis != channel])
                sums[reader] = sums[reader] + mean if reader in sums else mean

    count = observe(network, batches, look, total, progress)
    return {node: found / count for node, found in sums.items()}
