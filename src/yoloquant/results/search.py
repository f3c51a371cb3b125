"""`Search`: the fewest layers to change that keep an accuracy."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from yoloquant.algorithms.job import Job
from yoloquant.data.source import Source
from yoloquant.errors import YoloquantError
from yoloquant.evaluation.latency import Latency
from yoloquant.files.reading import parse_json, parsed, read_text
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import Recipe
from yoloquant.table import TextTable

# Bytes of a record: names of some thousand layers for each of a dozen measurements.
LARGEST_RECORD = 64 << 20


def record_beside(recipe: str | Path) -> Path:
    """The file beside a recipe that holds what its search measured and found."""
    return Path(recipe).with_suffix(".search.json")


@dataclass(frozen=True, kw_only=True)
class Search:
    """What a search found.

    Attributes:
        recipe: Recipe that reaches the goal; its `ignore` or `overrides` name the layers.
        layers: Layers that were changed, the costliest first.
        raise_bits: Number of bits that they were changed to; None for float.
        goal: mAP50-95 that was to be reached, percent.
        float_map: mAP50-95 of the float detector, percent.
        found_map: mAP50-95 of the detector that the recipe makes, percent.
        curve: Mapping number of changed layers -> mAP50-95, of everything that was measured.
        evaluations: Evaluations of whole detectors, the float one's included.
        runtime: Runtime that latency was measured in; None if the target's is not installed here.
        latency: Mapping number of changed layers -> latency of whole files, all in turns; those that this run made.
        float_latency: Latency of the float file in the same turns.
        job: Job that followed the recipe, with its detector, for `save`; None if read from a file.
        source: Images that it was measured with; None if read from a file.
    """

    recipe: Recipe
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
    job: Job | None = field(default=None, repr=False, compare=False)
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def detector(self) -> QuantizedDetector:
        """The quantized detector that reaches the goal.

        Raises:
            YoloquantError: The search was read from a file, which holds no detector.
        """
        if self.job is None:
            raise YoloquantError("a search that was read from a file holds no detector: quantize with its recipe")
        return self.job.quantized

    def ratio(self, count: int) -> float | None:
        """Latency with a number of changed layers as a share of float's, by medians."""
        if self.float_latency is None or count not in self.latency:
            return None
        return self.latency[count].median / self.float_latency.median

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "layers": list(self.layers),
            "raise_bits": self.raise_bits,
            "goal": self.goal,
            "float_map": self.float_map,
            "found_map": self.found_map,
            "curve": {str(count): value for count, value in self.curve.items()},
            "evaluations": self.evaluations,
            "runtime": self.runtime,
            "latency_ms": {str(count): asdict(latency) for count, latency in self.latency.items()},
            "float_latency_ms": asdict(self.float_latency) if self.float_latency else None,
        }

    @classmethod
    def load(cls, path: str | Path) -> Search:
        """Read what `yoloquant search` found.

        Args:
            path: Recipe that it wrote, or the record (`.search.json`) beside it.

        Raises:
            YoloquantError: There is none, it is damaged, or its search has not ended.
        """
        record = Path(path) if Path(path).suffix == ".json" else record_beside(path)
        with parsed(record, YoloquantError, "search again"):
            values = parse_json(read_text(record, largest=LARGEST_RECORD), str(record)).get("found")
            if values is None:
                raise YoloquantError(f"{record} holds no end of a search: let `yoloquant search` go on")
            latency = values["float_latency_ms"]
            return cls(
                recipe=Recipe.model_validate(values["recipe"]),
                layers=tuple(map(str, values["layers"])),
                raise_bits=None if values["raise_bits"] is None else int(values["raise_bits"]),
                goal=float(values["goal"]),
                float_map=float(values["float_map"]),
                found_map=float(values["found_map"]),
                curve={int(count): float(value) for count, value in values["curve"].items()},
                evaluations=int(values["evaluations"]),
                runtime=values["runtime"],
                latency={int(count): Latency(**entry) for count, entry in values["latency_ms"].items()},
                float_latency=None if latency is None else Latency(**latency),
            )

    def table(self) -> TextTable:
        """The curve, with latency where it was measured."""
        headers = ("layers changed", "mAP50-95", "drop", *([f"latency in {self.runtime} of float's"] if self.runtime else []))
        rows = []
        for count, value in self.curve.items():
            ratio = self.ratio(count)
            timed = ["" if ratio is None else f"{ratio:.2f}"] if self.runtime else []
            rows.append((str(count), f"{value:.2f}", f"{self.float_map - value:.2f}", *timed))
        return TextTable(headers, tuple(rows))

    def __str__(self) -> str:
        return str(self.table())
