"""What each quantizer's noise adds to the error of boxes and scores, all of them from one backward pass an image.

Near its minimum the error is half of `d' H d`, `d` the change of boxes and scores and `H` the error's curvature. Noise
`e = Q(x) - x` of one quantizer changes them by `J e`. With random signs `r` for the gradient `g = J' H^(1/2) r` the expectation
of `(g . e)^2` is `(J e)' H (J e)` (Hutchinson 1990), and one backward pass has `g` behind every quantizer. Measuring
each by itself takes a pass for each, and what is measured is mostly chance: the noise of others adds to it or takes from it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.analysis.detection_error import LEAST_SCORE, LEAST_WEIGHT
from yoloquant.data.images import to_input
from yoloquant.graph.interpret import COMPUTE, Observed
from yoloquant.graph.operators import kind
from yoloquant.models.detector import Head
from yoloquant.models.output_formats import Candidates
from yoloquant.progress import Progress
from yoloquant.quant.arithmetic import expand_parameter
from yoloquant.quant.fake_quantize import FakeQuantize, passing
from yoloquant.quant.quantized_detector import QuantizedDetector

# Noise of rounding reaches half a step; what is farther away was clipped, and a small change before it changes nothing.
_ROUNDED = 0.501
# Steps that half precision can hold.
_FARTHEST = 6e4
# A map's noise is taken apart into so many tiles a side: they reach boxes of their own, and their squares are as many samples.
_TILES = 4
# Overlap falls with the distance, not its square: a box's curvature is that of its distance now, or of this share of its side.
_LEAST_SHIFT = 0.01
_SMALLEST = 1e-6


def noise_costs(detector: QuantizedDetector, images: Tensor, progress: Progress | None = None) -> dict[str, float]:
    """Quantizer name -> share of the detection error that its noise makes, 0..1, all together 1.

    One image at a time; beside the float network's values the noise is held, at half precision.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        progress: Callback, called with (images done, all).
    """
    quantizers = dict(detector.quantizers())
    squares = dict.fromkeys(quantizers, 0.0)
    noisy = _noisy(detector.network, squares)
    signs = torch.Generator().manual_seed(0)
    with _constant_parameters(detector.network):
        for count, image in enumerate(images, start=1):
            x = to_input(image[None])
            with torch.no_grad(), passing(list(quantizers.values())):
                expected = list(detector.network(x))
            answers, curvatures = _answers(detector.head, expected, list(noisy.run(x)))
            drawn = [torch.randint(0, 2, each.shape, generator=signs) * 2.0 - 1.0 for each in curvatures]
            torch.autograd.backward(answers, [sign * each.sqrt() for sign, each in zip(drawn, curvatures, strict=True)])
            if progress:
                progress(count, len(images))
    total = max(sum(squares.values()), torch.finfo(torch.float32).tiny)
    return {name: square / total for name, square in squares.items()}


def _answers(head: Head, expected: list[Tensor], found: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What counts of the noisy network's output, and how much the error curves along each value: boxes and scores.

    Raw maps where the head has no derivative: each channel in its own spread, each place by how far it stands out, as objects do
    and the background does not.
    """
    candidates = head.candidates(found)
    with torch.no_grad():
        if candidates.scores.requires_grad:
            return list(candidates), list(_curvatures(head.candidates(expected), candidates))
        return found, [_prominence(each) for each in expected]


def _curvatures(expected: Candidates, found: Candidates) -> tuple[Tensor, Tensor]:
    """Second derivatives of the error of boxes and of scores, the first by what gives the distance itself when summed."""
    weights = expected.scores.amax(-1, keepdim=True)
    side = (expected.boxes[..., 2:] - expected.boxes[..., :2]).clamp(min=1.0).repeat(1, 1, 2)
    shift = torch.maximum((found.boxes - expected.boxes).abs(), _LEAST_SHIFT * side)
    boxes = torch.where(weights > LEAST_SCORE, weights, 0.0) / (side * shift)
    probability = expected.scores.clamp(_SMALLEST, 1.0 - _SMALLEST)
    return boxes, weights.clamp(min=LEAST_WEIGHT) / (probability * (1.0 - probability))


def _prominence(expected: Tensor) -> Tensor:
    places = [axis for axis in range(expected.dim()) if axis != 1]
    spread = expected.std(dim=places, keepdim=True).clamp(min=_SMALLEST)
    distance = ((expected - expected.mean(dim=places, keepdim=True)) / spread).square().mean(dim=1, keepdim=True)
    return distance.square() / spread.square()


def _noisy(network: GraphModule, squares: dict[str, float]) -> Observed:
    """A network whose quantizers add up the squares of what their noise does."""
    # Something to derive for, where a quantizer reads the image or a weight.
    derived = torch.zeros((), requires_grad=True)

    def instead(node: Node, env: Mapping[Node, Any]) -> Any:
        if kind(node) != "quantizer":
            return COMPUTE
        quantizer = network.get_submodule(str(node.target))
        return _Noise.apply(env[node.all_input_nodes[0]], derived, quantizer, squares)  # type: ignore[no-untyped-call]  # untyped in torch

    return Observed(network, instead=instead)


class _Noise(torch.autograd.Function):
    """A quantizer; values pass straight through on the way back, unless they are clipped."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, _derived: Tensor, quantizer: FakeQuantize, squares: dict[str, float]) -> Tensor:
        quantized: Tensor = quantizer(x)
        scale = expand_parameter(quantizer.scale, x, quantizer.axis, quantizer.group_size)
        # In steps of the scale, so that half precision always holds it.
        ctx.save_for_backward(quantized.sub(x).div_(scale).clamp_(-_FARTHEST, _FARTHEST).half(), scale)
        ctx.quantizer, ctx.squares = quantizer, squares
        return quantized

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,), (steps, scale) = gradients, ctx.saved_tensors
        effect = gradient * steps * scale
        parts = effect.flatten(1).sum(1) if ctx.quantizer.of_weight else _tiles(effect)
        ctx.squares[ctx.quantizer.name] += float(parts.square().sum())
        before = torch.where(steps.abs() <= _ROUNDED, gradient, 0.0) if ctx.needs_input_grad[0] else None
        return before, None, None, None


def _tiles(effect: Tensor) -> Tensor:
    """Sums over the tiles of a map `(1, C, H, W)`, or over all of another value."""
    if effect.dim() != 4:
        return effect.sum()
    whole = effect.sum(dim=1)
    size = [min(_TILES, side) for side in whole.shape[1:]]
    edges = [torch.arange(side) * count // side for side, count in zip(whole.shape[1:], size, strict=True)]
    rows = torch.zeros(size[0], whole.shape[2]).index_add_(0, edges[0], whole[0])
    return torch.zeros(size[0], size[1]).index_add_(1, edges[1], rows)


@contextmanager
def _constant_parameters(network: GraphModule) -> Iterator[None]:
    """No gradients for the network's own parameters, whose noise is followed."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in learned:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in learned:
            parameter.requires_grad = True
