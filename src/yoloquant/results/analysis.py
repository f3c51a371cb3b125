"""What `analyze` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from yoloquant.analysis.sensitivity import Sensitivity
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.recipe.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was found.

    Attributes:
        measure: "error" (of boxes and scores, without labels) or "map" (mAP50-95 lost, percent).
        mode: which quantizers were on; see `yoloquant.analysis.sensitivity.Sensitivity`.
        sensitivities: the costliest first.
        statistics: of every quantized tensor.
        noise: layer -> signal-to-noise ratio, dB, of its answer in the whole quantized network: how errors pile up.
        advice: sentences to act on, of the costliest layers first.
        recipe: that was followed.
    """

    measure: str
    mode: str
    sensitivities: tuple[Sensitivity, ...]
    statistics: tuple[TensorStatistics, ...]
    noise: dict[str, float]
    advice: tuple[str, ...]
    recipe: Recipe

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "measure": self.measure,
            "mode": self.mode,
            "sensitivities": [asdict(result) for result in self.sensitivities],
            "statistics": [asdict(result) for result in self.statistics],
            "noise": self.noise,
            "advice": list(self.advice),
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
        }
