"""GPTQ: round a layer's weights column by column, each error made good by the weights that are not rounded yet.

Frantar et al. 2022, "GPTQ: accurate post-training quantization for generative pre-trained transformers". A row `w` of weights,
rounded to `q`, changes its output by `(q - w) . x` for an input patch `x`. The mean square of that is `(q - w)' H (q - w)` with
`H` the mean of `x x'`. Columns are rounded in the order of falling `H[k, k]`; the error of column k is spread over those left by
the row k of the Cholesky factor of `H^-1`, which is the least-squares choice. Nothing is learned, so a layer takes milliseconds.

Two things differ from language models. Patches are those of convolutions, drawn from all places of a few images, as the quantized
network has them. And `H` is the covariance: a mean error is left to the bias, which `bias_correction` takes it out of.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from yoloquant.algorithms.step import Step, step
from yoloquant.analysis.lockstep import lockstep
from yoloquant.data.images import to_input
from yoloquant.errors import RecipeError, nearest
from yoloquant.graph.capture import layer_name
from yoloquant.graph.interpret import compute
from yoloquant.graph.operators import group_count, kind
from yoloquant.progress import Progress
from yoloquant.quant.arithmetic import expand_parameter, quantize
from yoloquant.quant.quantized_detector import QuantizedDetector, QuantizedWeight
from yoloquant.spec import Count
from yoloquant.targets.placement import input_layers

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

# Columns that are rounded before their errors reach the rest of the matrix in one product.
_BLOCK = 64
_SMALLEST = 1e-12


def round_weights(
    detector: QuantizedDetector,
    images: Tensor,
    layers: str = "*",
    *,
    samples: int = 4096,
    damping: float = 0.01,
    reference: Mapping[str, Tensor] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Round the weights of convolutions and linear layers by GPTQ, in place, in the network's order.

    Transposed convolutions, whose patches overlap in the output, are left alone.

    Args:
        detector: Calibrated.
        images: Images, uint8 `(N, 3, H, W)`, RGB; held in memory together with their activations.
        layers: A name, a pattern, or `@first` for the layers that read the image.
        samples: Patches that a layer is rounded by.
        damping: Share of the mean of `H`'s diagonal that is added to it.
        reference: The float network's parameters by name, where the network's own were changed.
        progress: Called with (layers done, layers).

    Returns:
        Layer name -> mean square of the output's error, over that of rounding to nearest. At most 1: a row that GPTQ does not
        improve stays rounded to nearest.

    Raises:
        RecipeError: `layers` matches no layer whose weight is quantized.
    """
    chosen = _chosen(detector, layers)
    runner = Interpreter(detector.network, garbage_collect_values=False)
    drawn = torch.Generator().manual_seed(0)
    ratios: dict[str, float] = {}
    for node, plain, quantized in lockstep(detector.network, to_input(images), reference):
        layer = chosen.get(node)
        if layer is not None:
            source, pair = node.all_input_nodes[:2]
            weight = plain[pair].detach()
            patches = _patches(quantized[source], node, weight, samples, drawn)
            rounded, ratios[layer_name(node)] = _rounded(layer, weight, patches, damping)
            layer.weight.data.copy_(rounded)
            quantized[pair] = layer.quantizer(layer.weight.detach())
            quantized[node] = compute(runner, node, quantized)
            if progress:
                progress(len(ratios), len(chosen))
        if len(ratios) == len(chosen):
            break
    return ratios


def _chosen(detector: QuantizedDetector, layers: str) -> dict[Node, QuantizedWeight]:
    possible = {layer_name(layer.node): layer for layer in detector.quantized_weights() if kind(layer.node) != "conv_transpose"}
    if layers == "@first":
        # It may stay in float, by the target's choice.
        return {possible[name].node: possible[name] for name in input_layers(detector.network) if name in possible}
    names = fnmatch.filter(possible, layers)
    if not names:
        near = nearest(layers.strip("*"), possible, 0.0)
        raise RecipeError(f"gptq: {layers!r} matches no layer with a quantized weight: the nearest is {near!r}")
    return {possible[name].node: possible[name] for name in names}


def _rounded(layer: QuantizedWeight, weight: Tensor, patches: Tensor, damping: float) -> tuple[Tensor, float]:
    """A weight on its quantizer's grid, and what is left of the error of rounding to nearest."""
    quantizer, groups = layer.quantizer, len(patches)

    def by_group(values: Tensor) -> Tensor:
        return values.to(weight).expand_as(weight).reshape(groups, -1, patches.shape[-1])

    scale, zero_point = (
        by_group(expand_parameter(value, weight, quantizer.axis, quantizer.group_size))
        for value in (quantizer.scale.detach(), quantizer.zero_point)
    )
    ends = quantizer.spec.quant_min, quantizer.spec.quant_max
    rows = by_group(weight)
    found, before, after = [], 0.0, 0.0
    for group in range(groups):
        curvature = _covariance(patches[group])
        grid = scale[group], zero_point[group], *ends
        nearest_ = _on_grid(rows[group], *grid)
        better = gptq(rows[group], curvature, *grid, damping=damping)
        errors = [_output_error(each - rows[group], curvature) for each in (nearest_, better)]
        found.append(torch.where((errors[1] < errors[0])[:, None], better, nearest_))
        before += float(errors[0].sum())
        after += float(torch.minimum(*errors).sum())
    return torch.stack(found).view_as(weight), after / max(before, _SMALLEST) if before > _SMALLEST else 1.0


def gptq(
    weight: Tensor, curvature: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int, *, damping: float
) -> Tensor:
    """Round the rows of a matrix to a grid so that `(q - w)' H (q - w)` is small.

    Args:
        weight: `(O, K)`.
        curvature: `H`, `(K, K)`, symmetric and positive semidefinite.
        scale: `(O, K)`, positive.
        zero_point: `(O, K)`, integers.
        quant_min: Lowest integer.
        quant_max: Highest integer.
        damping: Share of the mean of the diagonal that is added to it.

    Returns:
        `(O, K)`, values of the grid.
    """
    order = curvature.diagonal().argsort(descending=True)
    left, scale, zero_point = (matrix[:, order].clone() for matrix in (weight, scale, zero_point))
    spread = _factor(curvature[order][:, order], damping).to(weight)
    rounded = torch.empty_like(left)
    count = left.shape[1]
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = torch.empty_like(left[:, start:end])
        for k in range(start, end):
            rounded[:, k] = _on_grid(left[:, k], scale[:, k], zero_point[:, k], quant_min, quant_max)
            error = (left[:, k] - rounded[:, k]) / spread[k, k]
            errors[:, k - start] = error
            left[:, k + 1 : end] -= error[:, None] * spread[k, k + 1 : end]
        left[:, end:] -= errors @ spread[start:end, end:]
    answer = torch.empty_like(rounded)
    answer[:, order] = rounded
    return answer


def _on_grid(values: Tensor, scale: Tensor, zero_point: Tensor, quant_min: int, quant_max: int) -> Tensor:
    """Values rounded to the nearest ones of a grid of their shape."""
    return (quantize(values, scale, zero_point, quant_min, quant_max) - zero_point) * scale


def _factor(curvature: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor of the damped curvature's inverse, float64."""
    curvature = curvature.double()
    added = (damping * curvature.diagonal().mean()).clamp(min=_SMALLEST)
    damped = curvature + added * torch.eye(len(curvature), dtype=curvature.dtype)
    factor: Tensor = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(damped)), upper=True)
    return factor


def _covariance(patches: Tensor) -> Tensor:
    """Of rows `(n, K)`: `(K, K)`."""
    centered = patches - patches.mean(dim=0)
    return centered.T @ centered / len(centered)


def _output_error(change: Tensor, curvature: Tensor) -> Tensor:
    """Mean square of the output's error of each row."""
    return ((change @ curvature.to(change)) * change).sum(dim=1)


def _patches(x: Tensor, node: Node, weight: Tensor, count: int, drawn: torch.Generator) -> Tensor:
    """Inputs of a layer at random places, `(groups, n, K)`, K in the order of the weight's axes behind the first."""
    if kind(node) == "linear":
        every = x.reshape(-1, x.shape[-1])
        return every[torch.randint(len(every), (min(count, len(every)),), generator=drawn)][None]
    stride, padding, dilation = (_pair(node, place, default) for place, default in ((3, 1), (4, 0), (5, 1)))
    kernel = weight.shape[2:]
    padded = nn.functional.pad(x, (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = (
        (side - step_ * (size - 1) - 1) // stride_ + 1
        for side, step_, size, stride_ in zip(padded.shape[2:], dilation, kernel, stride, strict=True)
    )
    place = torch.randint(len(x) * rows * columns, (min(count, len(x) * rows * columns),), generator=drawn)
    image, row, column = place // (rows * columns), place // columns % rows * stride[0], place % columns * stride[1]
    taken = [
        padded[image, :, row + down * dilation[0], column + right * dilation[1]]
        for down in range(kernel[0])
        for right in range(kernel[1])
    ]
    # (n, C, places of the kernel) -> (groups, n, K)
    by_group = torch.stack(taken, dim=-1).view(len(place), group_count(node), -1)
    return by_group.transpose(0, 1)


def _pair(node: Node, place: int, default: int) -> tuple[int, int]:
    """A convolution's option for rows and columns."""
    given: Any = node.args[place] if len(node.args) > place and node.args[place] is not None else default
    first, *rest = given if isinstance(given, list | tuple) else [given]
    return int(first), int(rest[0] if rest else first)


@step
class Gptq(Step):
    """Round weights by GPTQ: each rounding error is made good by the weights of the same output channel that follow.

    Attributes:
        layers: Name or pattern of the layers, or `@first` for those that read the image.
        images: Number of calibration images that input patches are drawn from.
        samples: Number of input patches of each layer.
        damping: Share of the mean of the covariance's diagonal that is added to it.
    """

    name: Literal["gptq"] = "gptq"
    layers: str = "*"
    images: Count = 16
    samples: Count = 4096
    damping: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01

    def apply(self, job: Job) -> None:
        """Round the weights."""
        with job.reporter.step("Round weights by GPTQ") as update:
            images = job.first_images(self.images)
            round_weights(
                job.quantized,
                images,
                self.layers,
                samples=self.samples,
                damping=self.damping,
                reference=job.float_weights,
                progress=update,
            )
