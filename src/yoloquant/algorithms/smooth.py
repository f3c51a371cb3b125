"""Smoothing: outlier channels of activations are made smaller, and the weights that read them larger.

Xiao et al. 2023, "SmoothQuant", equation 4. Where ReLU, LeakyReLU or ReLU6 makes the value, the layer before takes up the scale;
behind SiLU and other activations, of which none could, a multiplication by one constant for each channel is put in.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.algorithms.channel_scaling import divide_output, multiply_input, parameter, source_of, takes_scaled_input
from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.graph.capture import layer_name
from yoloquant.graph.channel_constants import multiply_channels
from yoloquant.graph.interpret import observe
from yoloquant.graph.operators import channel_axis
from yoloquant.graph.sizes import readers
from yoloquant.progress import Progress
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


def smooth(
    graph_module: GraphModule,
    batches: Iterable[Tensor],
    alpha: float = 0.5,
    least_gain: float = 4.0,
    total: int = 0,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Smooth every value that only convolutions (without groups) and linear layers read, in place.

    Args:
        graph_module: captured, BatchNorm folded, without quantizers.
        batches: images, uint8 `(N, 3, H, W)`, RGB.
        alpha: share of the difference between channels that moves into the weights, 0..1.
        least_gain: a multiplication is only put in where the largest channel reaches so many times as far as the median one.
        total: number of batches, for `progress`.
        progress: called with (batches done, total).

    Returns:
        Layer name of each smoothed value -> how far its largest channel reached, in times of the median one.
    """
    wanted = {node for node in graph_module.graph.nodes if _smoothable(node)}
    reaches: dict[Node, Tensor] = {}

    def look(node: Node, value: Any) -> None:
        if node in wanted:
            found = value.abs().transpose(0, channel_axis(node)).flatten(1).amax(1)
            reaches[node] = torch.maximum(reaches[node], found) if node in reaches else found

    observe(graph_module, batches, look, total, progress)
    smoothed = {}
    for value, reach in reaches.items():
        gain = float(reach.max() / reach.median().clamp(min=1e-12))
        source = source_of(value)
        if source is None and gain < least_gain:
            continue
        layers = readers(value)
        scale = _scale(reach, [parameter(graph_module, reader.args[1]).detach() for reader in layers], alpha)
        if source is not None:
            divide_output(graph_module, source, scale)
        else:
            multiply_channels(graph_module, value, 1.0 / scale)
        for reader in layers:
            multiply_input(graph_module, reader, scale)
        smoothed[layer_name(value)] = gain
    return smoothed


def _smoothable(node: Node) -> bool:
    layers = readers(node)
    value = node.meta.get("val")
    return (
        node.op == "call_function"
        and hasattr(value, "dim")
        and bool(layers)
        and all(takes_scaled_input(reader) and reader.args[0] is node for reader in layers)
    )


def _scale(reach: Tensor, weights: list[Tensor], alpha: float) -> Tensor:
    """`max|X|^alpha / max|W|^(1 - alpha)` of each channel, `(C,)`; 1 for channels that are dead on either side."""
    strength = torch.stack([weight.abs().transpose(0, 1).flatten(1).amax(1) for weight in weights]).amax(0)
    usable = (reach > 0) & (strength > 0)
    scale = reach.clamp(min=1e-12).pow(alpha) / strength.clamp(min=1e-12).pow(1.0 - alpha)
    return torch.where(usable, scale, 1.0).clamp(1e-4, 1e4)


@step
class Smooth(Step):
    """Before calibration, move outlier channels of activations into the weights that read them (SmoothQuant).

    Attributes:
        alpha: share of the difference between channels that moves, 0..1.
        least_gain: where no layer before can take up the scale, a multiplication is put in only if the largest channel reaches so
            many times as far as the median one.
        images: calibration images that activations are watched on.
    """

    name: Literal["smooth"] = "smooth"
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    least_gain: Annotated[float, Field(ge=1.0)] = 4.0
    images: Count = 32
    stage: ClassVar[Stage] = Stage.PREPARE

    def apply(self, job: Job) -> None:
        """Smooth the float network's activations."""
        loader = job.batches(self.images)
        with job.reporter.step("Smooth activations") as update:
            batches = (batch.images for batch in loader)
            smoothed = smooth(job.reference, batches, self.alpha, self.least_gain, len(loader), update)
        job.reporter.note(f"{len(smoothed)} activations smoothed")
