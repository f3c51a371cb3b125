"""Cross-layer equalisation: channels of two layers in a row get the same range, without changing the network's output.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.1. Behind ReLU6, whose cap
becomes another number in each channel, the caps are kept as constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.fx import GraphModule, Node

from yoloquant.algorithms.channel_scaling import (
    Source,
    divide_output,
    input_strength,
    multiply_input,
    parameter,
    source_of,
    takes_scaled_input,
)
from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import kind
from yoloquant.graph.sizes import readers
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


def equalize(graph_module: GraphModule, rounds: int = 20) -> dict[str, str]:
    """Equalise all pairs of layers between which only (capped) positively homogeneous operators stand, in place.

    Args:
        graph_module: Captured graph, BatchNorm folded, without quantizers.
        rounds: Sweeps over all pairs, at most; a layer may stand in two pairs.

    Returns:
        First layer -> second layer, of each pair.
    """
    pairs = list(_pairs(graph_module))
    for _ in range(rounds):
        most = 0.0
        for index, (source, second) in enumerate(pairs):
            scale = _balancing(graph_module, source.layer, second)
            pairs[index] = divide_output(graph_module, source, scale), second
            multiply_input(graph_module, second, scale)
            most = max(most, float((scale - 1.0).abs().max()))
        if most < 1e-3:
            break
    return {layer_name(source.layer): layer_name(second) for source, second in pairs}


def _pairs(graph_module: GraphModule) -> Iterator[tuple[Source, Node]]:
    for second in list(graph_module.graph.nodes):
        if takes_scaled_input(second) and len(readers(second.args[0])) == 1:
            source = source_of(second.args[0])
            if source is not None and kind(source.layer) == kind(second):
                yield source, second


def _balancing(graph_module: GraphModule, first: Node, second: Node) -> torch.Tensor:
    """What the first layer's output channels are divided by, `(C,)`: equation 11, after which both ranges are the geometric mean
    of what they were."""
    own = parameter(graph_module, first.args[1]).detach().abs().flatten(1).amax(1)
    next_ = input_strength(graph_module, second)
    usable = (own > 0) & (next_ > 0)
    return torch.where(usable, (own / next_.clamp(min=1e-30)).sqrt(), 1.0).clamp(1e-4, 1e4)


@step
class Equalize(Step):
    """Before calibration, give the channels of layers in a row the same range, where ReLU, LeakyReLU or ReLU6 stands between.

    Attributes:
        rounds: Maximum number of sweeps over all pairs of layers.
    """

    name: Literal["equalize"] = "equalize"
    rounds: Count = 20
    stage: ClassVar[Stage] = Stage.PREPARE
    reads_images: ClassVar[bool] = False

    def apply(self, job: Job) -> None:
        """Equalise the float network."""
        equalize(job.reference, self.rounds)
