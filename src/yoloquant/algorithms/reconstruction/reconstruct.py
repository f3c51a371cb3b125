"""Reconstruct a quantized detector region by region."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from yoloquant.algorithms.reconstruction.activation_cache import ValueStore, batches, fits_in_memory, largest_cut
from yoloquant.algorithms.reconstruction.checkpoints import RegionCheckpoints
from yoloquant.algorithms.reconstruction.fisher import Importance, importances
from yoloquant.algorithms.reconstruction.optimize import STEP_VALUES, learn, part_of
from yoloquant.algorithms.reconstruction.regions import Region, find_regions, region_module, value_of
from yoloquant.analysis.detection_error import detection_error
from yoloquant.data.images import to_input
from yoloquant.distributed import on_device
from yoloquant.quant.quantized_detector import QuantizedDetector

if TYPE_CHECKING:
    from yoloquant.algorithms.reconstruction.step import Reconstruct

# (region number, regions, name, share of the region's iterations done, loss as a share of its start)
Progress = Callable[[int, int, str, float, float], None]


@dataclass(frozen=True)
class RegionResult:
    """What learning gained in one region.

    Attributes:
        name: Name of the region.
        before: Loss with rounding to nearest.
        after: Loss at the end, with every rounding decided.
    """

    name: str
    before: float
    after: float


def reconstruct(
    detector: QuantizedDetector,
    reference: GraphModule,
    images: Tensor,
    settings: Reconstruct,
    checkpoints: RegionCheckpoints | None = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> list[RegionResult]:
    """Learn rounding, activation scales and biases, in place, so that each region's output matches the float network's.

    Regions are learned in the order in which they run. Each reads the output of the quantized network before it, so that it
    also corrects errors made there; its target is the float network's output for float inputs (Li et al. 2021, "BRECQ").

    Args:
        detector: Calibrated detector. Its weights change to the values that rounding to nearest turns into the learned integers.
        reference: The float network, captured like the detector's: its nodes have the same names.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        settings: Settings of the recipe.
        checkpoints: Results of regions that an earlier, interrupted run learned; new ones are added.
        progress: Callback after every iteration.
        device: Device that learns; values between regions stay in the processor's memory.

    Returns:
        A result for each region, in order.
    """
    device = torch.device(device)
    with on_device(device, detector.network, detector.head, reference):
        return _reconstruct(_Run(detector, reference, images, settings, device), checkpoints, progress)


def _reconstruct(run: _Run, checkpoints: RegionCheckpoints | None, progress: Progress | None) -> list[RegionResult]:
    settings = run.settings
    regions = find_regions(run.detector.network, settings.unit, settings.region_layers)
    if settings.loss == "fisher":
        outputs = [node for region in regions for node in region.outputs]
        run.importance = importances(run.detector, run.reference, run.images, outputs, run.device)
    results = []
    with ValueStore(on_disk=run.wants_disk(regions)) as run.quantized, ValueStore(on_disk=run.wants_disk(regions)) as run.plain:
        for number, region in enumerate(regions):
            run.make_targets(region)

            def tell(done: int, loss: float, number: int = number, region: Region = region) -> None:
                if progress:
                    progress(number, len(regions), region.name, done / settings.iterations, loss)

            results.append(run.learn_region(region, number, checkpoints, tell))
            run.advance(region)
            run.forget(regions[number + 1 :])
    return results


class _Run:
    """Values and settings of one reconstruction."""

    plain: ValueStore
    quantized: ValueStore

    def __init__(
        self,
        detector: QuantizedDetector,
        reference: GraphModule,
        images: Tensor,
        settings: Reconstruct,
        device: torch.device,
    ) -> None:
        self.detector, self.reference, self.images, self.settings = detector, reference, images, settings
        self.device = device
        self.by_name = {node.name: node for node in reference.graph.nodes}
        self.importance: dict[str, Importance] = {}

    def wants_disk(self, regions: list[Region]) -> bool:
        """Values go to disk: asked for, or too large for half of the memory."""
        if self.settings.cache != "auto":
            return self.settings.cache == "disk"
        last = {node.name: number for number, region in enumerate(regions) for node in region.inputs}
        made = [(number, node) for number, region in enumerate(regions) for node in region.outputs]
        sizes = [(number, last.get(node.name, number), _bytes(node) * len(self.images)) for number, node in made]
        return not fits_in_memory(2 * largest_cut(sizes))

    def make_targets(self, region: Region) -> None:
        """The float network's values at the region's outputs."""
        plain = self._plain_region(region)
        names = [node.name for node in plain.outputs]
        self._compute(region_module(self.reference, plain), [node.name for node in plain.inputs], names, self.plain)

    def advance(self, region: Region) -> None:
        """The quantized network's values at the region's outputs, as it is learned now."""
        module = region_module(self.detector.network, region)
        names = [node.name for node in region.outputs]
        self._compute(module, [node.name for node in region.inputs], names, self.quantized)

    def learn_region(
        self, region: Region, number: int, checkpoints: RegionCheckpoints | None, tell: Callable[[int, float], None]
    ) -> RegionResult:
        module = region_module(self.detector.network, region)
        part = part_of(module, self.reference, self.settings)
        found = checkpoints.load(number) if checkpoints else None
        if found:
            state, before, after = found
            part.restore(state)
            return RegionResult(region.name, before, after)

        def loss_of(numbers: Tensor) -> Tensor:
            answers = module(*(self._input(node, numbers) for node in region.inputs))
            return self._loss(region, answers, numbers)

        size = sum(_values(node) for node in (*region.inputs, *region.outputs))
        batch = max(1, min(self.settings.batch_size, STEP_VALUES // max(1, size), len(self.images)))
        before, after = learn(part, loss_of, len(self.images), batch, self.settings, number, tell)
        if checkpoints:
            checkpoints.save(number, part.state(), before, after)
        return RegionResult(region.name, before, after)

    def forget(self, later: list[Region]) -> None:
        """Drop values that no later region reads."""
        wanted = {node.name for region in later for node in region.inputs}
        plain = {value_of(node).name for region in later for node in region.inputs}
        self.quantized.keep(wanted)
        self.plain.keep(plain)

    def _plain_region(self, region: Region) -> Region:
        """The nodes of the float network that a region stands for."""
        nodes, inputs, outputs = (
            tuple(dict.fromkeys(self.by_name[value_of(node).name] for node in some))
            for some in (region.nodes, region.inputs, region.outputs)
        )
        # A quantizer of a value that another region made has no node of its own here.
        inside = tuple(node for node in nodes if node not in inputs)
        return Region(region.name, inside, inputs, outputs)

    def _compute(self, module: GraphModule, inputs: list[str], outputs: list[str], store: ValueStore) -> None:
        count = len(self.images)
        with torch.no_grad():
            for numbers in batches(count):
                index = torch.arange(numbers.start, numbers.stop)
                answers = module(*(self._stored(store, name, index) for name in inputs))
                for name, answer in zip(outputs, answers, strict=True):
                    if name not in inputs:
                        store.write(name, numbers.start, count, answer)

    def _stored(self, store: ValueStore, name: str, numbers: Tensor) -> Tensor:
        return store[name][numbers].to(self.device) if name in store else to_input(self.images[numbers], self.device)

    def _input(self, node: Node, numbers: Tensor) -> Tensor:
        """Quantized activations at the node, randomly mixed with float ones (QDrop)."""
        found = self._stored(self.quantized, node.name, numbers)
        if self.settings.qdrop and torch.is_grad_enabled() and node.name in self.quantized:
            plain = self._stored(self.plain, value_of(node).name, numbers)
            found = torch.where(torch.rand_like(found) < self.settings.qdrop, plain, found)
        return found

    def _loss(self, region: Region, answers: tuple[Tensor, ...], numbers: Tensor) -> Tensor:
        targets = [self._stored(self.plain, value_of(node).name, numbers) for node in region.outputs]
        if self.settings.loss == "detection":
            expected, found = (self.detector.head.candidates(list(maps)) for maps in (targets, answers))
            boxes, scores = detection_error(expected, found)
            return boxes + scores
        losses = []
        for node, answer, target in zip(region.outputs, answers, targets, strict=True):
            error = (answer - target).square()
            if node.name in self.importance:
                error = error * self.importance[node.name].of(numbers)
            losses.append(error.mean())
        return torch.stack(losses).sum()


def _values(node: Node) -> int:
    """Values of a node for one image."""
    value = node.meta.get("val")
    return 0 if value is None else int(value[0].numel()) if value.dim() else 1


def _bytes(node: Node) -> int:
    return 4 * _values(node)
