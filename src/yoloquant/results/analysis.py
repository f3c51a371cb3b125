"""`Analysis`: what each layer's quantization costs, and why."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yoloquant.analysis.sensitivity import Sensitivity
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.errors import YoloquantError
from yoloquant.exporting.folder import LARGEST_METRICS
from yoloquant.files.reading import parse_json, read_text
from yoloquant.recipe.recipe import Recipe
from yoloquant.table import TextTable

# Name of the file in the folder of an analysis.
ANALYSIS = "analysis.json"


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What was found.

    Attributes:
        measure: "error" (of boxes and scores, without labels) or "map" (mAP50-95 lost, percent).
        mode: Set of quantizers that were on; see `yoloquant.analysis.sensitivity.Sensitivity`.
        sensitivities: Sensitivities, the costliest first.
        statistics: Statistics of every quantized tensor.
        noise: Mapping layer -> signal-to-noise ratio, dB, of its output in the whole quantized network: how errors pile up.
        advice: Sentences to act on, of the costliest layers first.
        recipe: Recipe that was followed.
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

    @classmethod
    def load(cls, path: str | Path) -> Analysis:
        """Read what `yoloquant analyze` wrote.

        Args:
            path: Folder of the analysis, or its analysis.json.

        Raises:
            YoloquantError: There is none, or it is damaged.
        """
        file = Path(path) / ANALYSIS if Path(path).is_dir() else Path(path)
        try:
            values = parse_json(read_text(file, largest=LARGEST_METRICS), ANALYSIS)
            return cls(
                measure=str(values["measure"]),
                mode=str(values["mode"]),
                sensitivities=tuple(Sensitivity(**entry) for entry in values["sensitivities"]),
                statistics=tuple(map(TensorStatistics.from_dict, values["statistics"])),
                noise=dict(values["noise"]),
                advice=tuple(values["advice"]),
                recipe=Recipe.model_validate(values["recipe"]),
            )
        except Exception as error:
            # Whatever the file holds instead of an analysis.
            raise YoloquantError(f"{path} has no readable {ANALYSIS}: name a folder that `yoloquant analyze` wrote") from error

    def table(self, count: int | None = None) -> TextTable:
        """The costliest layers, with weights and activations alone.

        Args:
            count: Layers to show; all by default.
        """
        unit = "mAP50-95 lost" if self.measure == "map" else "error"
        headers = ("layer", unit, "weights alone", "activations alone", "dB at its output")
        by_part = {(result.name, result.part): result.cost for result in self.sensitivities}
        rows = []
        for result in self.whole_layers[:count]:
            parts = (by_part.get((result.name, part)) for part in ("weights", "activations"))
            cells = ("" if cost is None else f"{cost:.4f}" for cost in parts)
            noise = self.noise.get(result.name)
            rows.append((result.name, f"{result.cost:.4f}", *cells, "" if noise is None else f"{noise:.1f}"))
        return TextTable(headers, tuple(rows))

    @property
    def whole_layers(self) -> list[Sensitivity]:
        """Costs of weights and activations together, the costliest first; what was measured, where that was not."""
        return [result for result in self.sensitivities if result.part == "both"] or list(self.sensitivities)

    def __str__(self) -> str:
        return str(self.table())
