"""Mixed precision: bits for each layer's weights under a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from yoloquant.algorithms.bit_choice import (
    IN_FLOAT,
    LayerChoices,
    at_width,
    choose_bits,
    float_choices,
    layer_choices,
    total_weights,
)
from yoloquant.algorithms.step import Stage, Step, step
from yoloquant.distributed import from_first
from yoloquant.evaluation.layer_latency import measured_times, runtime_to_time
from yoloquant.graph.capture import layer_name
from yoloquant.quant.quantized_detector import QuantizedDetector, weight_bits
from yoloquant.spec import Count
from yoloquant.targets.layer_rules import TensorSettings
from yoloquant.targets.placement import FloatLayer

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job


@step
class MixedPrecision(Step):
    """Choose each layer's weight bits for a minimum change of boxes and scores within a budget; exactly one budget is given.

    Attributes:
        bits: Widths to choose from.
        average_bits: Budget as the mean width of all weights.
        weight_bytes: Budget as the size of all weights.
        bit_operations: Budget as the sum, over an image's multiplications, of weight bits times activation bits.
        latency: Budget as the time of all layers, as a share of what they take in float, both measured on this machine in the
            target's runtime; a layer is then either quantized, as the recipe says, or left in float, and `bits` is not asked.
        images: Calibration images that layers are measured on.
    """

    name: Literal["mixed_precision"] = "mixed_precision"
    bits: tuple[Literal[2, 3, 4, 5, 6, 7, 8], ...] = (4, 8)
    average_bits: Annotated[float, Field(gt=0.0)] | None = None
    weight_bytes: Annotated[int, Field(gt=0)] | None = None
    bit_operations: Annotated[float, Field(gt=0.0)] | None = None
    latency: Annotated[float, Field(gt=0.0)] | None = None
    images: Count = 8

    stage: ClassVar[Stage] = Stage.PLACE

    @model_validator(mode="after")
    def _one_budget(self) -> MixedPrecision:
        budgets = (self.average_bits, self.weight_bytes, self.bit_operations, self.latency)
        if sum(budget is not None for budget in budgets) != 1:
            raise ValueError("mixed_precision needs exactly one budget: average_bits, weight_bytes, bit_operations or latency")
        return self

    def compares_boxes(self) -> bool:
        """Always."""
        return True

    def apply(self, job: Job) -> None:
        """Choose bits, and place quantizers once more."""
        # Of several processes the first one chooses for all.
        bits = from_first(self._chosen, job)
        specs = {layer_name(layer.node): layer.quantizer.spec for layer in job.quantized.quantized_weights()}
        wide = {name: at_width(specs[name], width) for name, width in bits.items() if width != IN_FLOAT}
        in_float = FloatLayer("mixed_precision left it in float: the budget of latency allows it")
        job.place_again(
            keep_float={name: in_float for name, width in bits.items() if width == IN_FLOAT},
            weights={name: TensorSettings(bits=spec.bits, granularity=spec.granularity) for name, spec in wide.items()},
        )

    def _chosen(self, job: Job) -> dict[str, int]:
        layers, budget, unit = self._timed(job) if self.latency is not None else self._sized(job)
        bits = choose_bits(layers, budget)
        taken = sum(layer.costs[layer.bits.index(bits[layer.name])] for layer in layers)
        counts = ", ".join(f"{list(bits.values()).count(width)} layers at {width} bit" for width in sorted(set(bits.values())))
        job.reporter.note(f"{counts}: {taken:,} {unit.replace('_', ' ')} of {budget:,.0f}")
        return bits

    def _timed(self, job: Job) -> tuple[list[LayerChoices], float, str]:
        """Layers in integers or in float, the budget, and its unit."""
        images, names = job.spread_images(self.images), list(weight_bits(job.quantized))
        times = measured_times(job.detector, job.quantized, runtime_to_time(job.target.name), names, job.reporter)
        with job.reporter.step("Measure each layer") as update:
            layers = float_choices(job.quantized, images, times, update)
        return layers, (self.latency or 0.0) * sum(layer.costs[-1] for layer in layers), "hundredths of a millisecond"

    def _sized(self, job: Job) -> tuple[list[LayerChoices], float, str]:
        """Layers at each width, the budget, and its unit."""
        unit = "bit_operations" if self.bit_operations is not None else "weight_bytes"
        images = job.spread_images(self.images)
        with job.reporter.step("Measure each layer at each width") as update:
            layers = layer_choices(job.quantized, images, self.bits, unit, update)
        return layers, self._budget(job.quantized), unit

    def _budget(self, quantized: QuantizedDetector) -> float:
        """The budget of weights or operations."""
        return self.bit_operations or self.weight_bytes or (self.average_bits or 0.0) * total_weights(quantized) / 8.0
