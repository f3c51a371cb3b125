"""Run a captured network and look at its values on the way, or put others in their place."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg

from yoloquant.data.images import to_input
from yoloquant.progress import Progress

# A node and its value.
Look = Callable[[Node, Any], None]
# A node and the values of those before it -> the value to go on with, or `COMPUTE`.
Instead = Callable[[Node, Mapping[Node, Any]], Any]
# The node is computed as the network has it.
COMPUTE = object()


class Observed(Interpreter):
    """A captured network that shows each node's value while it runs."""

    def __init__(self, network: GraphModule, look: Look | None = None, instead: Instead | None = None) -> None:
        """Observe a network.

        Args:
            network: Captured, with quantizers in any state or without.
            look: Called with every node and its value.
            instead: Called before a node is computed; may give another value.
        """
        super().__init__(network)
        self._look, self._instead = look, instead

    def run_node(self, n: Node) -> Any:
        """Compute one node."""
        value = COMPUTE if self._instead is None else self._instead(n, self.env)
        if value is COMPUTE:
            value = super().run_node(n)
        if self._look is not None:
            self._look(n, value)
        return value


def compute(network: Interpreter, node: Node, env: Mapping[Node, Any]) -> Any:
    """The value of one node from the values of those before it."""
    arguments, keywords = map_arg(node.args, lambda n: env[n]), map_arg(node.kwargs, lambda n: env[n])
    return getattr(network, node.op)(node.target, arguments, keywords)


def observe(
    network: GraphModule,
    batches: Iterable[Tensor],
    look: Look | None = None,
    total: int = 0,
    progress: Progress | None = None,
    instead: Instead | None = None,
) -> int:
    """Run batches of images without gradients.

    Args:
        network: Captured, with quantizers in any state or without.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        look: Called with every node and its value.
        total: Number of batches, for `progress`.
        progress: Called with (batches done, total).
        instead: Called before a node is computed; may give another value.

    Returns:
        Number of batches.
    """
    runner = Observed(network, look, instead)
    count = 0
    with torch.no_grad():
        for count, images in enumerate(batches, start=1):
            runner.run(to_input(images))
            if progress:
                progress(count, max(total, count))
    return count
