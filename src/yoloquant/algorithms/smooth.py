"""Smoothing: outlier channels of activations are made smaller, and the weights that read them larger.

Xiao et al. 2023, "SmoothQuant", equation 4. The layers around a value take up the scale, also through ReLU, LeakyReLU, ReLU6,
concats, shuffles, additions, pooling and gates. A depthwise layer takes up any scale at no cost, because the weights of each of
its channels have a scale of their own. On each side of SiLU, Hardswish and other activations, through which no scale passes, a
multiplication by one constant for each channel is put in.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.algorithms.channel_scaling import divide_cap, divide_rows, input_strength, multiply_input, parameter
from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.data.images import to_input
from yoloquant.graph.capture import layer_name
from yoloquant.graph.channel_constants import multiply_channels, multiply_input_channels, note_scaled
from yoloquant.graph.channel_links import Channels, Stretch, free_stretches
from yoloquant.graph.interpret import observe
from yoloquant.graph.operators import SAME_VALUES, channel_axis, group_count, is_homogeneous, kind
from yoloquant.graph.sizes import readers
from yoloquant.progress import Progress
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


def smooth(
    graph_module: GraphModule,
    batches: Iterable[Tensor],
    alpha: float = 0.5,
    min_gain: float = 4.0,
    total: int = 0,
    progress: Progress | None = None,
    *,
    min_free_gain: float = 1.0,
    min_depthwise_gain: float | None = None,
    before_activations: bool = True,
) -> dict[str, float]:
    """Smooth every value whose channels may be scaled, in place.

    Args:
        graph_module: Captured graph, BatchNorm folded, without quantizers.
        batches: Images, uint8 `(N, 3, H, W)`, RGB.
        alpha: Share of the difference between channels that moves into the weights, 0..1.
        min_gain: Ratio of the largest channel's range to the median one's from which a multiplication is put in.
        total: Number of batches, for `progress`.
        progress: Callback, called with (batches done, total).
        min_free_gain: Same as `min_gain` where no multiplication is needed.
        min_depthwise_gain: Same as `min_gain` where a multiplication is needed and a depthwise layer makes or reads the value; by
            default `min_gain`.
        before_activations: Whether values that only activations read are smoothed, too; where the runtime computes an activation
            within the layer before it, such a value is never quantized.

    Returns:
        Layer name of the first value of each group smoothed together -> how far its largest channel reached, in times of the
        median one.
    """
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        return {}
    stretches = free_stretches(graph_module, to_input(first[:1]))
    reaches = _reaches(graph_module, stretches, itertools.chain([first], batches), total, progress)
    smoothed = {}
    for stretch in stretches:
        if not before_activations and stretch.activations_behind and not stretch.readers:
            continue
        gain = max((_gain(reaches[node]) for node, _ in stretch.values if node in reaches), default=0.0)
        if not (stretch.activations_before or stretch.activations_behind):
            least = min_free_gain
        elif min_depthwise_gain is not None and _by_depthwise(graph_module, stretch, stretches):
            least = min_depthwise_gain
        else:
            least = min_gain
        if gain >= least and (stretch.readers or stretch.activations_behind):
            _divide(graph_module, stretch, _scales(graph_module, stretch, reaches, alpha))
            note_scaled(graph_module, stretch.values[0].node.name)
            smoothed[layer_name(stretch.values[0].node)] = gain
    return smoothed


def _reaches(
    graph_module: GraphModule, stretches: list[Stretch], batches: Iterable[Tensor], total: int, progress: Progress | None
) -> dict[Node, Tensor]:
    """How far each channel of each new value reaches from 0, `(C,)`."""
    wanted = {node for stretch in stretches for node, _ in stretch.values if _is_new(node)}
    reaches: dict[Node, Tensor] = {}

    def look(node: Node, value: Any) -> None:
        if node in wanted:
            found = value.abs().transpose(0, channel_axis(node)).flatten(1).amax(1)
            reaches[node] = torch.maximum(reaches[node], found) if node in reaches else found

    observe(graph_module, batches, look, total, progress)
    return reaches


def _is_new(node: Node) -> bool:
    """The value is not that of a node before it, moved, and not what ReLU is still to cut."""
    return kind(node) not in SAME_VALUES and not all(is_homogeneous(reader) for reader in readers(node))


def _gain(reach: Tensor) -> float:
    """How many times as far as the median channel the largest one reaches, dead ones left out."""
    alive = reach[reach > 0]
    return float(alive.max() / alive.median()) if len(alive) else 1.0


class _Scales:
    """A scale for each label of a stretch."""

    def __init__(self, labels: Tensor, scales: Tensor) -> None:
        self._labels, self._scales = labels, scales

    def of(self, channels: Channels) -> Tensor:
        return self._scales[torch.searchsorted(self._labels, channels.labels)]


def _scales(graph_module: GraphModule, stretch: Stretch, reaches: dict[Node, Tensor], alpha: float) -> _Scales:
    """`max|X|^alpha / max|W|^(1 - alpha)` of each label; 1 for channels that are dead on either side.

    A layer whose channels have one weight scale each, and a multiplication, take up any difference: where no other reads the
    values, the scale is `max|X|`.
    """
    labels = torch.cat([found for part in stretch for _, found in part]).unique()

    def largest(found: Iterable[tuple[Tensor, Tensor]]) -> Tensor:
        together = torch.full((len(labels),), -1.0)
        for of, values in found:
            together.scatter_reduce_(0, torch.searchsorted(labels, of), values.cpu().float(), "amax")
        return together

    reach = largest((channels.labels, reaches[channels.node]) for channels in stretch.values if channels.node in reaches)
    sensitive = [channels for channels in stretch.readers if not _takes_any_scale(graph_module, channels.node)]
    if not sensitive:
        scales = torch.where(reach > 0, reach, 1.0)
    else:
        strength = largest((found, input_strength(graph_module, node)) for node, found in sensitive)
        alive = strength[strength > 0]
        elsewhere = alive.log().mean().exp() if len(alive) else torch.tensor(1.0)
        strength = torch.where(strength < 0, elsewhere, strength)
        usable = (reach > 0) & (strength > 0)
        scales = torch.where(usable, reach.clamp(min=1e-12).pow(alpha) / strength.clamp(min=1e-12).pow(1.0 - alpha), 1.0)
    return _Scales(labels, scales.clamp(1e-4, 1e4))


def _by_depthwise(graph_module: GraphModule, stretch: Stretch, stretches: list[Stretch]) -> bool:
    """A depthwise layer makes the stretch's values, or reads them, before or behind their activation."""
    activations = {channels.node for channels in stretch.activations_behind}
    behind = [other for other in stretches if any(channels.node in activations for channels in other.activations_before)]
    layers = [*stretch.makers, *(channels for part in (stretch, *behind) for channels in part.readers)]
    return any(_takes_any_scale(graph_module, channels.node) for channels in layers)


def _takes_any_scale(graph_module: GraphModule, layer: Node) -> bool:
    return group_count(layer) > 1 and parameter(graph_module, layer.args[1]).shape[1] == 1


def _divide(graph_module: GraphModule, stretch: Stretch, scales: _Scales) -> None:
    """Divide the values of a stretch, and multiply where they are read."""
    for channels in stretch.caps:
        divide_cap(graph_module, channels.node, scales.of(channels))
    for channels in stretch.makers:
        divide_rows(graph_module, channels.node, scales.of(channels))
    for channels in stretch.readers:
        multiply_input(graph_module, channels.node, scales.of(channels))
    for channels in stretch.activations_before:
        multiply_channels(graph_module, channels.node, 1.0 / scales.of(channels))
    for channels in stretch.activations_behind:
        multiply_input_channels(graph_module, channels.node, scales.of(channels))


@step
class Smooth(Step):
    """Before calibration, move outlier channels of activations into the weights around them (SmoothQuant).

    Attributes:
        alpha: Share of the difference between channels that moves, 0..1.
        min_gain: Minimum ratio of the largest channel's range to the median one's from which values are smoothed where a
            multiplication must be put in.
        min_free_gain: Same as `min_gain` where the layers before can take up the scale.
        min_depthwise_gain: Same as `min_gain` where a depthwise layer makes or reads the values, and by default `min_gain`: each
            of its output channels reads one channel alone, so that the error of a small channel is not averaged with those of
            others.
        images: Calibration images that activations are watched on.
    """

    name: Literal["smooth"] = "smooth"
    alpha: Annotated[float, Field(ge=0.0, le=1.0)] = 0.5
    min_gain: Annotated[float, Field(ge=1.0)] = 4.0
    min_free_gain: Annotated[float, Field(ge=1.0)] = 1.0
    min_depthwise_gain: Annotated[float, Field(ge=1.0)] | None = None
    images: Count = 32
    stage: ClassVar[Stage] = Stage.PREPARE

    def apply(self, job: Job) -> None:
        """Smooth the float network's activations."""
        loader = job.batches(self.images)
        with job.reporter.step("Smooth activations") as update:
            smoothed = smooth(
                job.reference,
                (batch.images for batch in loader),
                self.alpha,
                self.min_gain,
                len(loader),
                update,
                min_free_gain=self.min_free_gain,
                min_depthwise_gain=self.min_depthwise_gain,
                before_activations=not job.target.fuses_activations,
            )
        if smoothed:
            job.reporter.note(f"{len(smoothed)} activations smoothed")
