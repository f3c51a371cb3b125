"""What `yoloquant.quantize` answers: the quantized detector, the table, and everything that went into it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from yoloquant.analysis.layer_figures import LayerFigures
from yoloquant.analysis.sensitive_layers import SensitiveLayer
from yoloquant.analysis.tensor_statistics import TensorStatistics
from yoloquant.evaluation.evaluator import Evaluation
from yoloquant.evaluation.latency import Latency
from yoloquant.evaluation.parity import Parity
from yoloquant.evaluation.uncertainty import map_loss
from yoloquant.quant.quantized_detector import QuantizedDetector, weight_bits
from yoloquant.recipe.recipe import Recipe
from yoloquant.runtime.executed_layers import Executed


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result table.

    Attributes:
        model: "float" or the precision, "int8".
        runtime: that ran it.
        evaluation: what it scored; none if not evaluated.
        latency: of one image.
        file_size: bytes of the file that was run; none for a network in memory.
    """

    model: str
    runtime: str
    evaluation: Evaluation | None
    latency: Latency | None
    file_size: int | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "model": self.model,
            "runtime": self.runtime,
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "latency_ms": asdict(self.latency) if self.latency else None,
            "file_size": self.file_size,
        }


@dataclass(frozen=True, kw_only=True)
class QuantizationResult:
    """What `quantize` did.

    Attributes:
        detector: the quantized detector, ready to run or to change further.
        recipe: that was followed.
        rows: of the result table, float first.
        parity: agreement of the exported file with torch, by runtime.
        calibration_count: images that were observed.
        quantized_layers: convolutions and linear layers with quantized weights.
        layer_count: all of them.
        seconds: wall time of each step.
        output: the folder, if one was written.
        layers: figures of every layer with weights; none without a report.
        statistics: of every quantized tensor; none without a report.
        commands: to repeat it and to go on.
        analysis: what `yoloquant analyze` wrote into analysis.json, if it was given.
        executed: layers as the target's own runtime runs them; none if it cannot be asked here.
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
    analysis: dict[str, Any] | None = None
    executed: Executed | None = None

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
            KeyError: there is none.
        """
        for row in self.rows:
            if (row.model, row.runtime) == (model, runtime):
                return row
        raise KeyError(f"{model} was not run in {runtime}")

    def _drop(self, row: Row) -> dict[str, float | None] | None:
        """What a row lost against float in its runtime, points of mAP50-95, and its standard error; none where not known."""
        floats = [found for found in self.rows if (found.model, found.runtime) == ("float", row.runtime)]
        if row.model == "float" or not floats or floats[0].evaluation is None or row.evaluation is None:
            return None
        loss = map_loss(floats[0].evaluation, row.evaluation)
        return {name: None if value != value else value for name, value in asdict(loss).items()}

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: what metrics.json holds."""
        return {
            "recipe": self.recipe.model_dump(mode="json", exclude_none=True),
            "rows": [{**row.to_dict(), "drop": self._drop(row)} for row in self.rows],
            "parity": [{**asdict(parity), "signal_to_noise": min(parity.signal_to_noise, 999.0)} for parity in self.parity],
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
            "versions": versions(),
        }


def precision_label(detector: QuantizedDetector) -> str:
    """`int8`, or weight and activation bits as in `w4a8`, the most common of each."""
    bits: dict[str, list[int]] = {"w": [], "a": []}
    for _, quantizer in detector.quantizers():
        bits["w" if quantizer.of_weight else "a"].append(quantizer.spec.bits)
    common = {key: max(set(values), key=values.count) if values else 32 for key, values in bits.items()}
    return f"int{common['w']}" if common["w"] == common["a"] else f"w{common['w']}a{common['a']}"


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
