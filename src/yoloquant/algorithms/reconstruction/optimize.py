"""Learn the rounding, activation scales and biases of one region."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.qparams import SMALLEST_SCALE

if TYPE_CHECKING:
    from yoloquant.algorithms.reconstruction.step import Reconstruct

# Values of all inputs and outputs of a step, at most: early layers have large maps, of which one image shows enough.
STEP_VALUES = 1 << 22


@dataclass(frozen=True)
class Part:
    """What is learned in a region.

    Attributes:
        weights: Mapping quantizer -> the weight it rounds.
        floats: Mapping quantizer -> its weight in the float network.
        activations: Quantizers of values, whose scales are learned.
        biases: Biases of the region's weighted layers.
    """

    weights: dict[FakeQuantize, nn.Parameter]
    floats: dict[FakeQuantize, Tensor]
    activations: list[FakeQuantize]
    biases: list[nn.Parameter]

    def state(self) -> list[Tensor]:
        """Everything that learning changes, in a fixed order."""
        return [*self.weights.values(), *(quantizer.scale for quantizer in self.activations), *self.biases]

    def restore(self, state: Iterable[Tensor]) -> None:
        """Take back what `state` gave."""
        with torch.no_grad():
            for tensor, value in zip(self.state(), state, strict=True):
                tensor.copy_(value)


def part_of(module: GraphModule, reference: GraphModule, settings: Reconstruct) -> Part:
    """What the settings allow to learn in a region's module; `reference` is the whole float network."""
    floats: dict[FakeQuantize, Tensor] = {}
    weights: dict[FakeQuantize, nn.Parameter] = {}
    activations: dict[FakeQuantize, None] = {}
    biases: dict[nn.Parameter, None] = {}
    for node in module.graph.nodes:
        if kind(node) == "quantizer":
            quantizer = module.get_submodule(str(node.target))
            assert isinstance(quantizer, FakeQuantize)
            source = node.all_input_nodes[0]
            if source.op == "get_attr" and settings.rounding != "nearest":
                weights[quantizer] = module.get_parameter(str(source.target))
                floats[quantizer] = reference.get_parameter(str(source.target)).detach()
            elif source.op != "get_attr" and settings.scales and not quantizer.spec.power_of_two:
                activations[quantizer] = None
        elif kind(node) in WEIGHTED and settings.biases and len(node.args) > 2 and node.args[2] is not None:
            biases[module.get_parameter(str(node.args[2].target))] = None
    return Part(weights, floats, list(activations), list(biases))


def learn(
    part: Part,
    loss_of: Callable[[Tensor], Tensor],
    count: int,
    batch: int,
    settings: Reconstruct,
    seed: int,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[float, float]:
    """Learn until every weight's rounding is decided, in place.

    The loss is that of `loss_of` over its value before learning, plus the rounding's indecision, whose exponent falls along a
    cosine while the learning rate does (Nagel et al. 2020, section 3.3).

    Args:
        part: Part of the network to learn.
        loss_of: Function from image numbers to a differentiable loss.
        count: Number of images.
        batch: Number of images in a step.
        settings: Settings of the step: learning rates, iterations, weights.
        seed: Seed of the order of images and of dropped quantization.
        progress: Callback, called with (iterations done, loss as a share of the loss before).

    Returns:
        Mean loss with rounding to nearest, before, and after; of the same images.
    """
    judged = torch.arange(0, count, max(1, count // 8))[: max(1, min(8, count))]
    before = _mean_loss(loss_of, judged, batch)
    if before <= 0.0 or not part.state():
        return before, before
    kept = [tensor.detach().clone() for tensor in part.state()]
    optimizer = _optimizer(part, settings)
    rates = [group["lr"] for group in optimizer.param_groups] if optimizer else []
    generator = torch.Generator().manual_seed(seed)
    for quantizer in part.activations:
        quantizer.drop = settings.qdrop
    order: list[int] = []
    devices = {tensor.device for tensor in part.state() if tensor.device.type == "cuda"}
    with torch.random.fork_rng(devices=devices), torch.enable_grad():
        torch.manual_seed(seed)
        for step in range(settings.iterations):
            if len(order) < batch:
                order += torch.randperm(count, generator=generator).tolist()
            numbers, order = torch.tensor(order[:batch]), order[batch:]
            done = step / settings.iterations
            loss = loss_of(numbers) / before
            whole = loss
            if part.weights and settings.rounding == "soft":
                whole = loss + settings.rounding_weight * _indecision(part, done, settings)
            if optimizer:
                optimizer.zero_grad()
            whole.backward()
            if optimizer:
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * 0.5 * (1.0 + math.cos(math.pi * done)) if group["decays"] else rate
                optimizer.step()
            _step_by_sign(part, settings, done)
            _keep_positive(part.activations)
            if progress:
                progress(step + 1, float(loss.detach()))
    _finish(part)
    after = _mean_loss(loss_of, judged, batch)
    if not after < before:
        # Learned on few images, it may have become worse than rounding to nearest; then nothing is changed.
        part.restore(kept)
        after = before
    return before, after


def _indecision(part: Part, done: float, settings: Reconstruct) -> Tensor | float:
    """Mean over weights, each tensor counted by its size; 0 during warm-up."""
    if done < settings.warm_up:
        return 0.0
    share = (done - settings.warm_up) / (1.0 - settings.warm_up)
    high, low = settings.beta
    beta = low + 0.5 * (high - low) * (1.0 + math.cos(math.pi * share))
    sizes = [weight.numel() for weight in part.weights.values()]
    terms = [quantizer.rounding.indecision(beta) * size for quantizer, size in zip(part.weights, sizes, strict=True)]  # type: ignore[union-attr]
    return torch.stack(terms).sum() / sum(sizes)


def _optimizer(part: Part, settings: Reconstruct) -> torch.optim.Adam | None:
    """Adam for all but SignRound's choices; none if there is nothing else."""
    groups: list[dict[str, Any]] = []
    for quantizer, weight in part.weights.items():
        plain = part.floats[quantizer]
        # A weight that is not the float network's was rounded by an earlier step of the recipe.
        rounded = None if torch.equal(plain, weight) else weight
        quantizer.learn_rounding(plain, settings.rounding, rounded, settings.max_shift)
    choices = [quantizer.rounding.choice for quantizer in part.weights if quantizer.rounding is not None]
    if choices and settings.rounding == "soft":
        groups.append({"params": choices, "lr": settings.rounding_learning_rate, "decays": False})
    for quantizer in part.activations:
        quantizer.learn_scale()
        assert isinstance(quantizer.scale, nn.Parameter)
        groups.append(
            {"params": [quantizer.scale], "lr": settings.scale_learning_rate * float(quantizer.scale.detach()), "decays": True}
        )
    for bias in part.biases:
        bias.requires_grad = True
        size = float(bias.detach().abs().mean()) + 1e-3
        groups.append({"params": [bias], "lr": settings.bias_learning_rate * size, "decays": True})
    return torch.optim.Adam(groups) if groups else None


def _step_by_sign(part: Part, settings: Reconstruct, done: float) -> None:
    """Signed gradient descent on SignRound's choices: the rate falls linearly, so that all steps together cross a whole step."""
    if settings.rounding != "sign":
        return
    rate = settings.sign_learning_rate * 2.0 * (1.0 - done) / settings.iterations
    with torch.no_grad():
        for quantizer in part.weights:
            choice = quantizer.rounding.choice  # type: ignore[union-attr]
            if choice.grad is not None:
                choice.sub_(choice.grad.sign_(), alpha=rate).clamp_(-settings.max_shift, settings.max_shift)
                choice.grad = None


def _keep_positive(quantizers: list[FakeQuantize]) -> None:
    with torch.no_grad():
        for quantizer in quantizers:
            quantizer.scale.clamp_(min=SMALLEST_SCALE)


def _finish(part: Part) -> None:
    """Decide every rounding, and make everything a constant again."""
    for quantizer, weight in part.weights.items():
        assert quantizer.rounding is not None
        weight.data = quantizer.rounding.decided()
        quantizer.rounding = None
    for quantizer in part.activations:
        quantizer.fix_scale()
        quantizer.drop = 0.0
    for bias in part.biases:
        bias.requires_grad = False
        bias.grad = None


def _mean_loss(loss_of: Callable[[Tensor], Tensor], numbers: Tensor, batch: int) -> float:
    with torch.no_grad():
        losses = [float(loss_of(part)) * len(part) for part in numbers.split(batch)]
    return sum(losses) / len(numbers)
