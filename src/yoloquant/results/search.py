"""What `search` finds."""

from __future__ import annotations

from dataclasses import dataclass, field

from yoloquant.algorithms.job import Job
from yoloquant.evaluation.latency import Latency
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """What a search found.

    Attributes:
        recipe: that reaches the goal; its `ignore` or `overrides` name the layers.
        job: Job that followed the recipe, with the detector that it makes.
        layers: that were changed, the costliest first.
        raise_bits: what they were changed to; none for float.
        goal: mAP50-95 that was to be reached, percent.
        float_map: mAP50-95 of the float detector, percent.
        found_map: of the recipe's.
        curve: number of changed layers -> mAP50-95, of everything that was measured.
        evaluations: of whole detectors, the float one's included.
        runtime: that latency was measured in; none if the target's is not installed here.
        latency: number of changed layers -> latency of whole files, all in turns; those that this run made.
        float_latency: of the float file in the same turns.
    """

    recipe: Recipe
    job: Job
    layers: tuple[str, ...]
    raise_bits: int | None
    goal: float
    float_map: float
    found_map: float
    curve: dict[int, float]
    evaluations: int
    runtime: str | None = None
    latency: dict[int, Latency] = field(default_factory=dict)
    float_latency: Latency | None = None

    @property
    def detector(self) -> QuantizedDetector:
        """The quantized detector that reaches the goal."""
        return self.job.quantized

    def ratio(self, count: int) -> float | None:
        """Latency with so many changed layers as a share of float's, by medians."""
        if self.float_latency is None or count not in self.latency:
            return None
        return self.latency[count].median / self.float_latency.median
