"""Run images through a captured network and look at its values on the way."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from yoloquant.data.images import to_input
from yoloquant.graph.operators import kind
from yoloquant.progress import Progress

# A node and what it answers.
Look = Callable[[Node, Any], None]


def watch(network: GraphModule, batches: Iterable[Tensor], look: Look, total: int = 0, progress: Progress | None = None) -> int:
    """Run batches without gradients and show every node's answer.

    Args:
        network: captured, with quantizers in any state or without.
        batches: images, uint8 `(N, 3, H, W)`, RGB.
        look: called with every node and its answer.
        total: number of batches, for `progress`.
        progress: called with (batches done, total).

    Returns:
        How many batches there were.
    """
    runner = _Watching(network, look)
    count = 0
    with torch.no_grad():
        for count, images in enumerate(batches, start=1):
            runner.run(to_input(images))
            if progress:
                progress(count, max(total, count))
    return count


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
        network: captured.
        batches: images, uint8 `(N, 3, H, W)`, RGB.
        layers: convolutions (not transposed ones) and linear layers to answer for.
        of: what of the input, elementwise; the input itself by default.
        total: number of batches, for `progress`.
        progress: called with (batches done, total).
    """
    sums: dict[Node, Tensor] = {}

    def look(node: Node, value: Any) -> None:
        for reader in node.users:
            if reader in layers and reader.args[0] is node:
                channel = value.dim() - 1 if kind(reader) == "linear" else 1
                mean = of(value).mean(dim=[axis for axis in range(value.dim()) if axis != channel])
                sums[reader] = sums[reader] + mean if reader in sums else mean

    count = watch(network, batches, look, total, progress)
    return {node: found / count for node, found in sums.items()}


class _Watching(Interpreter):
    def __init__(self, network: GraphModule, look: Look) -> None:
        super().__init__(network)
        self._look = look

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        self._look(n, value)
        return value
