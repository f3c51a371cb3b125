"""`Quantization`: a quantized detector, the table of what it costs, and everything that went into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from yoloquant.algorithms.job import Job
from yoloquant.analysis.layer_figures import LayerFigures, layer_figures
from yoloquant.analysis.sensitive_layers import SensitiveLayer
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.data.source import Source
from yoloquant.errors import CheckpointError
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.latency import Latency
from yoloquant.evaluation.parity import Parity
from yoloquant.evaluation.uncertainty import Loss, map_loss
from yoloquant.exporting.folder import LARGEST_METRICS, METRICS, load_quantized
from yoloquant.files.reading import parse_json, parsed, read_text
from yoloquant.models.detector import Detector
from yoloquant.quant.quantized_detector import QuantizedDetector, weight_bits
from yoloquant.recipe.recipe import Recipe, recipe_of
from yoloquant.results.analysis import Analysis
from yoloquant.runtime.executed_layers import Executed
from yoloquant.table import TextTable

# Columns of the table of rows.
HEADERS = ("model", "runtime", "mAP50-95", "drop", "mAP50", "latency ms", "against float", "file MB")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result table.

    Attributes:
        model: "float" or the precision, "int8".
        runtime: Runtime that ran it.
        evaluation: Figures of accuracy; None if not evaluated.
        drop: Points of mAP50-95 that it lost against float in the same runtime; none where not known.
        latency: Latency of one image.
        file_size: Size of the file that was run, bytes; None for a network in memory.
    """

    model: str
    runtime: str
    evaluation: Evaluation | None
    latency: Latency | None
    file_size: int | None
    drop: Loss | None = None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "latency_ms": asdict(self.latency) if self.latency else None,
            "file_size": self.file_size,
            "drop": None if self.drop is None else self.drop.to_dict(),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Row:
        """The inverse of `to_dict`, without detections."""
        evaluation, latency = values["evaluation"], values["latency_ms"]
        return cls(
            model=str(values["model"]),
            runtime=str(values["runtime"]),
            evaluation=None if evaluation is None else Evaluation.from_dict(evaluation),
            latency=None if latency is None else Latency(**latency),
            file_size=None if values["file_size"] is None else int(values["file_size"]),
            drop=None if values["drop"] is None else Loss.from_dict(values["drop"]),
        )


def with_drops(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The same rows, each with what it lost against the float model in its runtime, where both were evaluated."""
    floats = {row.runtime: row.evaluation for row in rows if row.model == "float"}

    def drop(row: Row) -> Loss | None:
        before = floats.get(row.runtime)
        return map_loss(before, row.evaluation) if row.model != "float" and before and row.evaluation else None

    return tuple(replace(row, drop=drop(row)) for row in rows)


def versions() -> dict[str, str]:
    """Versions of everything that can change a figure."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"torch": str(torch.__version__)}
    for package in ("yoloquant", "onnx", "onnxruntime", "openvino", "faster-coco-eval", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """What `quantize`, `finetune` or `save` did.

    Attributes:
        detector: The quantized detector, ready to run or to change further.
        recipe: Recipe that was followed.
        rows: Rows of the result table, float first.
        parity: Agreement of the exported file with torch, by runtime.
        calibration_count: Images that were observed.
        quantized_layers: Number of convolutions and linear layers with quantized weights.
        layer_count: Number of all convolutions and linear layers.
        seconds: Wall time of each step, seconds.
        output: The folder, if one was written.
        layers: Figures of every layer with weights; None without a report.
        statistics: Statistics of every quantized tensor; None without a report.
        commands: Commands to repeat it and to go on.
        analysis: Analysis that `analyze` made, if its folder was given.
        executed: Layers as the target's own runtime runs them; None if it cannot be asked here.
        versions: Versions of the packages that made it.
        job: Job that made the detector, for `save`; None if read from a folder.
        source: Images that it was made and measured with; None if read from a folder.
    """

    detector: QuantizedDetector
    recipe: Recipe
    rows: tuple[Row, ...]
    parity: tuple[Parity, ...]
    calibration_count: int
    quantized_layers: int
    layer_count: int
    seconds: dict[str, float]
    output: Path | None
    layers: tuple[LayerFigures, ...] = ()
    statistics: tuple[TensorStatistics, ...] = ()
    commands: tuple[str, ...] = ()
    analysis: Analysis | None = None
    executed: Executed | None = None
    versions: dict[str, str] = field(default_factory=versions)
    job: Job | None = field(default=None, repr=False, compare=False)
    source: Source | None = field(default=None, repr=False, compare=False)

    @property
    def float_layers(self) -> tuple[SensitiveLayer, ...]:
        """Layers that were found to cost most and stay in float, next to those that target and recipe leave out."""
        return tuple(SensitiveLayer(name, gain) for name, gain in self.detector.placement.gains.items())

    @property
    def integer_layers(self) -> int:
        """Layers with weights that run in integers: in the target's own runtime, or as placed where it cannot be asked."""
        return self.quantized_layers if self.executed is None else len(self.executed.integer)

    def row(self, model: str, runtime: str) -> Row:
        """The table's line for a model ("float" or "int8") and a runtime.

        Raises:
            KeyError: There is none.
        """
        for row in self.rows:
            if (row.model, row.runtime) == (model, runtime):
                return row
        raise KeyError(f"{model} was not run in {runtime}")

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what metrics.json holds."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "rows": [row.to_dict() for row in self.rows],
            "parity": [parity.to_dict() for parity in self.parity],
            "float_layers": {layer.name: round(layer.gain, 4) for layer in self.float_layers},
            "branch": self.detector.head.branch,
            "calibration_images": self.calibration_count,
            "weight_bits": weight_bits(self.detector),
            "quantized_layers": self.quantized_layers,
            "layers": self.layer_count,
            "executed": self.executed.to_dict() if self.executed else None,
            "per_layer": [layer.to_dict() for layer in self.layers],
            "per_tensor": [entry.figures() for entry in self.statistics],
            "seconds": {name: round(value, 2) for name, value in self.seconds.items()},
            "commands": list(self.commands),
            "versions": self.versions,
        }

    @classmethod
    def load(cls, folder: str | Path, network_of: Detector | None = None) -> Quantization:
        """Read what a quantized folder holds: the detector, its recipe and all figures; but no detections, and no histograms.

        Args:
            folder: Folder that `quantize`, `finetune` or `save` wrote.
            network_of: Float detector that it was made from, where its network is a module of your own.

        Raises:
            CheckpointError: The folder is no quantized one, or a file in it is missing or damaged.
        """
        place = Path(folder)
        detector, recipe = load_quantized(place, network_of), recipe_of(place)
        with parsed(place / METRICS, CheckpointError, "quantize again"):
            values = parse_json(read_text(place / METRICS, CheckpointError, LARGEST_METRICS), METRICS, CheckpointError)
            statistics = tuple(map(TensorStatistics.from_dict, values["per_tensor"]))
            return cls(
                detector=detector,
                recipe=recipe,
                rows=tuple(map(Row.from_dict, values["rows"])),
                parity=tuple(Parity(**entry) for entry in values["parity"]),
                calibration_count=int(values["calibration_images"]),
                quantized_layers=int(values["quantized_layers"]),
                layer_count=int(values["layers"]),
                seconds={name: float(value) for name, value in values["seconds"].items()},
                output=place,
                layers=_layers(detector, statistics, values["per_layer"]),
                statistics=statistics,
                commands=tuple(map(str, values["commands"])),
                executed=None if values["executed"] is None else Executed.from_dict(values["executed"]),
                versions=dict(values["versions"]),
            )

    def table(self) -> TextTable:
        """The rows as text; drop (± one standard error) and ratio of latency are against float in the same runtime."""
        return TextTable(HEADERS, tuple(_cells(row, self.rows) for row in self.rows), "float against quantized")

    def __str__(self) -> str:
        return str(self.table())


def _layers(
    detector: QuantizedDetector, statistics: tuple[TensorStatistics, ...], entries: list[dict[str, Any]]
) -> tuple[LayerFigures, ...]:
    """Figures of layers as they were written; what belongs to a layer's tensors is theirs."""
    noise = {entry["layer"]: entry["signal_to_noise"] for entry in entries}
    reasons = {entry["layer"]: entry["reason"] for entry in entries}
    return tuple(layer_figures(detector.network, statistics, noise, reasons)) if entries else ()


def _cells(row: Row, rows: tuple[Row, ...]) -> tuple[str, ...]:
    """A row of the table."""
    reference = next((other for other in rows if (other.model, other.runtime) == ("float", row.runtime)), None)
    before = reference if reference is not row else None
    ratio = ""
    if before and before.latency and row.latency:
        ratio = f"{row.latency.median / before.latency.median:.2f}"
    return (
        row.model,
        row.runtime,
        f"{row.evaluation.map50_95:.2f}" if row.evaluation else "",
        "" if row.drop is None else str(row.drop),
        f"{row.evaluation.map50:.2f}" if row.evaluation else "",
        f"{row.latency.median:.1f}" if row.latency else "",
        ratio,
        f"{row.file_size / 1e6:.2f}" if row.file_size else "",
    )


def precision_label(detector: QuantizedDetector) -> str:
    """`int8`, or weight and activation bits as in `w4a8`, the most common of each."""
    bits: dict[str, list[int]] = {"w": [], "a": []}
    for _, quantizer in detector.quantizers():
        bits["w" if quantizer.of_weight else "a"].append(quantizer.spec.bits)
    common = {key: max(set(values), key=values.count) if values else 32 for key, values in bits.items()}
    return f"int{common['w']}" if common["w"] == common["a"] else f"w{common['w']}a{common['a']}"
