"""Results as rich tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from yoloquant.evaluation.evaluator import Evaluation
from yoloquant.report.cells import HEADERS, result_cells

if TYPE_CHECKING:
    from yoloquant.checking.finding import Finding
    from yoloquant.evaluation.latency import Latency
    from yoloquant.results.analysis import Analysis
    from yoloquant.results.quantization import Row
    from yoloquant.results.search import SearchResult
    from yoloquant.runtime.executed_layers import Executed
    from yoloquant.runtime.profile import LayerTime


def result_table(rows: Sequence[Row]) -> Table:
    """The result table of `yoloquant quantize`."""
    table = Table(title="float against quantized")
    for header in HEADERS:
        table.add_column(header, justify="left" if header in ("model", "runtime") else "right")
    for cells in result_cells(rows):
        table.add_row(*cells)
    return table


def evaluation_table(evaluation: Evaluation, per_class: bool = False) -> Table:
    """COCO's figures, and precision, recall, F1 and mAP by YOLOv5's formulas; each class on request."""
    table = Table(title=f"{evaluation.image_count} images")
    table.add_column("figure")
    table.add_column("%", justify="right")
    for name, value in evaluation.figures.items():
        table.add_row(name, f"{value:.2f}")
    found = evaluation.classification
    for name in ("precision", "recall", "f1"):
        table.add_row(f"{name} (at confidence {found.confidence:.3f})", f"{getattr(found, name):.2f}")
    for name, value in (("mAP50-95", found.map50_95), ("mAP50", found.map50)):
        table.add_row(f"{name} by YOLOv5's formula", f"{value:.2f}")
    if per_class:
        table.add_section()
        for name, (overall, half) in evaluation.per_class.items():
            table.add_row(f"{name}: mAP50-95 / mAP50", f"{overall:.2f} / {half:.2f}")
    return table


def sensitivity_table(found: Analysis, top: int) -> Table:
    """The costliest layers, with weights and activations alone."""
    unit = "mAP50-95 lost" if found.measure == "map" else "error"
    table = Table("layer", unit, "weights alone", "activations alone", "dB at its answer")
    by_part = {(result.name, result.part): result.cost for result in found.sensitivities}
    whole = [result for result in found.sensitivities if result.part == "both"] or list(found.sensitivities)
    for result in whole[:top]:
        parts = (by_part.get((result.name, part)) for part in ("weights", "activations"))
        cells = ["" if cost is None else f"{cost:.4f}" for cost in parts]
        noise = found.noise.get(result.name)
        table.add_row(result.name, f"{result.cost:.4f}", *cells, "" if noise is None else f"{noise:.1f}")
    return table


def search_table(found: SearchResult) -> Table:
    """The curve of a search."""
    table = Table("layers changed", "mAP50-95", "drop", *([f"latency in {found.runtime} of float's"] if found.runtime else []))
    for count, value in found.curve.items():
        ratio = found.ratio(count)
        cells = [f"{value:.2f}", f"{found.float_map - value:.2f}", *([] if ratio is None else [f"{ratio:.2f}"])]
        table.add_row(str(count), *cells)
    return table


def findings_table(findings: Sequence[Finding]) -> Table:
    """Findings of a check by kind, with their estimated cost for one image."""
    table = Table("level", "finding", "times", "multiplications in float", "values converted")
    for kind in dict.fromkeys(finding.kind for finding in findings):
        own = [finding for finding in findings if finding.kind == kind]
        work, values = sum(finding.work for finding in own), sum(finding.values for finding in own)
        table.add_row(own[0].level, kind, str(len(own)), f"{work:.1%}" if work else "", f"{values / 1e6:.2f} M" if values else "")
    return table


def latency_table(times: Mapping[tuple[str, str], Latency], executed: Mapping[tuple[str, str], Executed]) -> Table:
    """Latency by (model, runtime); ratios are against the first model in the same runtime, if that ran there."""
    table = Table("model", "runtime", "median ms", "p90", "p99", "least", "images/s", "ratio", "layers in integers")
    first = next(iter(times))[0]
    for (model, runtime), latency in times.items():
        base = times.get((first, runtime))
        layers = executed.get((model, runtime))
        counted = "" if layers is None else f"{len(layers.integer)} of {len(layers.integer) + len(layers.floating)}"
        figures = (latency.median, latency.p90, latency.p99, latency.minimum, latency.images_per_second)
        cells = (f"{value:.1f}" for value in figures)
        table.add_row(model, runtime, *cells, "" if base is None else f"{latency.median / base.median:.2f}", counted)
    return table


def layer_table(model: str, runtime: str, layers: Sequence[LayerTime], top: int) -> Table:
    """The slowest operators of a model in a runtime, with their share of all of them."""
    whole = sum(layer.milliseconds for layer in layers)
    table = Table("operator", "kernel", "ms", "%", title=f"{model} in {runtime}: {whole:.1f} ms in {len(layers)} operators")
    for layer in layers[:top]:
        table.add_row(layer.name, layer.kind, f"{layer.milliseconds:.3f}", f"{100.0 * layer.milliseconds / whole:.1f}")
    return table
