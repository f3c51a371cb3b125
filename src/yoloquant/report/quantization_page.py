"""The report of a quantization: one HTML file that needs nothing else, and its tables as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from yoloquant.data.dataset import DetectionDataset
from yoloquant.files.writing import write_rows
from yoloquant.report import charts
from yoloquant.report.accuracy_charts import compared_charts, evaluation_charts, matrix
from yoloquant.report.analysis_page import cost_unit
from yoloquant.report.class_losses import changed_confusions, class_chart, class_rows, class_table, losses
from yoloquant.report.headline import compared_rows, facts, headline, runtime_name, set_name, subject
from yoloquant.report.network_graph import ERROR_STEPS, NetworkDrawing, network_drawing
from yoloquant.report.page import Column, PageTable, TableRow, decibel, distributions, link, number, tensor_table, write_page
from yoloquant.report.photographs import Photograph, differing_photographs

if TYPE_CHECKING:
    from yoloquant.analysis.layer_figures import LayerFigures
    from yoloquant.results.quantization import Quantization, Row

CLASSES, LAYERS = "classes.csv", "layers.csv"

_SECTIONS = {
    "cost": "What it costs",
    "parity": "Is the file right?",
    "accuracy": "Right, wrong and missed",
    "photographs": "Where the boxes differ most",
    "classes": "Classes",
    "advice": "What to do",
    "sensitivity": "Which layers cost most",
    "layers": "Layers",
    "network": "The network",
    "noise": "Noise along the network",
    "tensors": "Every quantized tensor",
    "pictures": "Values before and after",
    "repeat": "To repeat it",
}


def write_report(result: Quantization, folder: Path, dataset: DetectionDataset | None = None) -> None:
    """Write report.html, classes.csv and layers.csv.

    Args:
        result: Result with the figures of layers and tensors.
        folder: Folder to write into.
        dataset: Evaluated data set, for its photographs; None for no photographs.
    """
    from yoloquant.exporting.folder import REPORT
    from yoloquant.results.quantization import precision_label

    label = precision_label(result.detector)
    pair = compared_rows(result)
    classes, sensitivity = losses(pair), _ranking(result)
    photographs = _photographs(pair, dataset, result.detector.names)
    noise = charts.noise(_noise(result.layers))
    missing = {
        "cost": result.rows,
        "accuracy": pair,
        "photographs": photographs,
        "classes": classes,
        "sensitivity": sensitivity,
        "noise": noise.points,
    }
    write_page(
        "quantization.html.j2",
        folder / REPORT,
        title=f"{label} for {result.recipe.target}",
        sections={name: heading for name, heading in _SECTIONS.items() if missing.get(name, True)},
        result=result,
        label=label,
        headline=headline(pair, set_name(dataset)),
        facts=facts(pair),
        subject=subject(result),
        summary=_summary(result),
        parity=_parity(result),
        runtime=runtime_name(pair[0].runtime) if pair else "",
        **_accuracy(pair, result.detector.names, label),
        photographs=photographs,
        classes=class_table(classes, label),
        class_chart=class_chart(classes),
        sentences=advice(result),
        sensitivity=sensitivity,
        layers=_layer_table(result.layers),
        drawing=drawing(result),
        steps=[f"{step:.0f}" for step in ERROR_STEPS],
        noise=noise,
        tensors=tensor_table(result.statistics),
        entries=distributions(result.statistics),
        recipe=result.recipe.to_yaml(),
    )
    write_rows(folder / CLASSES, class_rows(classes, label))
    write_rows(folder / LAYERS, [layer.to_dict() for layer in result.layers])


def report_charts(result: Quantization) -> list[charts.Chart | NetworkDrawing]:
    """Every chart of the page."""
    pair = compared_rows(result)
    per_class, sensitivity = class_chart(losses(pair)), _ranking(result)
    noise = charts.noise(_noise(result.layers))
    return [
        *([per_class] if per_class.values else []),
        *_accuracy_charts(pair, result.detector.names),
        *([sensitivity] if sensitivity else []),
        *([noise] if noise.points else []),
        drawing(result),
        *charts.of_tensors(result.statistics),
    ]


def _summary(result: Quantization) -> PageTable:
    table = result.table()
    columns = tuple(Column(header, header in ("model", "runtime")) for header in table.headers)
    return PageTable("summary", "What it costs", columns, tuple(map(TableRow, table.rows)))


def _parity(result: Quantization) -> PageTable:
    columns = (
        Column("runtime", is_text=True),
        Column("agreement with torch, dB"),
        Column("first layer that disagrees", is_text=True),
    )
    rows = [
        TableRow((parity.runtime, decibel(parity.signal_to_noise), parity.first_layer or "none"))
        for parity in result.parity
    ]  # fmt: skip
    return PageTable("parity-table", "Agreement with torch", columns, tuple(rows))


def _accuracy(pair: tuple[Row, Row] | None, names: Sequence[str], label: str) -> dict[str, Any]:
    """Curves of both models in the same axes, their confusion matrices, and what changes most in these."""
    if pair is None or pair[0].evaluation is None or pair[1].evaluation is None:
        return {"curves": [], "matrices": []}
    before, after = pair[0].evaluation, pair[1].evaluation
    both = {"float": before, label: after}
    return {
        "curves": compared_charts(both),
        "matrices": [matrix(found, names, f"confusion-{title}", title) for title, found in both.items()],
        "confusions": changed_confusions(before, after, names, label),
    }


def _accuracy_charts(pair: tuple[Row, Row] | None, names: Sequence[str]) -> list[charts.Chart]:
    """The same as files: those of each model, and both in the same axes."""
    found: list[charts.Chart] = []
    for row in pair or ():
        assert row.evaluation
        found += [replace(chart, name=f"{chart.name}-{row.model}") for chart in evaluation_charts(row.evaluation, names)]
    return [*found, *compared_charts({row.model: row.evaluation for row in pair or () if row.evaluation})]


def _photographs(pair: tuple[Row, Row] | None, dataset: DetectionDataset | None, names: Sequence[str]) -> list[Photograph]:
    if pair is None or dataset is None or pair[0].evaluation is None or pair[1].evaluation is None:
        return []
    evaluated = set(pair[0].evaluation.matches.objects.images.tolist())
    paths = {entry.image_id: entry.path for entry in dataset.images if entry.image_id in evaluated}
    return differing_photographs(paths, pair[0].evaluation, pair[1].evaluation, names)


def _ranking(result: Quantization) -> charts.Bars | None:
    """Costs of layers from an analysis; what step `keep_float` measured where there is none."""
    if result.analysis:
        return charts.ranking(result.analysis.sensitivities, cost_unit(result.analysis.measure))
    gains = {layer.name: 100.0 * layer.gain for layer in result.float_layers}
    return (
        charts.Bars("sensitivity", "Layers that keep_float left in float", "% of the detection error", gains, 1)
        if gains
        else None
    )


def advice(result: Quantization) -> list[str]:
    """Sentences on tensors, the noisiest first."""
    told = ((entry.signal_to_noise, sentence) for entry in result.statistics if (sentence := entry.advice()))
    return [sentence for _, sentence in sorted(told)]


def _noise(layers: Sequence[LayerFigures]) -> dict[str, float]:
    return {layer.name: layer.signal_to_noise for layer in layers if layer.signal_to_noise is not None}


def drawing(result: Quantization) -> NetworkDrawing:
    """The network with its quantizers."""
    statistics = {entry.name: entry for entry in result.statistics}
    return network_drawing(result.detector.network, statistics, {layer.name: layer for layer in result.layers})


def _layer_table(layers: Sequence[LayerFigures]) -> PageTable:
    columns = (
        Column("layer", is_text=True),
        Column("kind", is_text=True),
        Column("weight", is_text=True),
        Column("precision", is_text=True),
        Column("output dB", meaning="signal-to-noise ratio of its output in the whole quantized network"),
        Column("weight: how", is_text=True),
        Column("scale", meaning="maximum, where channels have scales of their own"),
        Column("dB"),
        Column("to zero %", meaning="values other than 0 that become 0"),
        Column("clipped %", meaning="values outside of the range"),
        Column("input: how", is_text=True),
        Column("scale"),
        Column("dB"),
        Column("to zero %", meaning="values other than 0 that become 0"),
        Column("clipped %", meaning="values outside of the range"),
        Column("why in float", is_text=True),
    )
    rows = tuple(TableRow(_layer_cells(layer), f"layer-{layer.name}") for layer in layers)
    return PageTable("layers-table", "Layers with weights", columns, rows, "float, int8, model.2")


def _layer_cells(layer: LayerFigures) -> tuple[str, ...]:
    cells: list[str] = []
    for entry in (layer.weight, layer.input):
        if entry is None:
            cells += ["float", "", "", "", ""]
            continue
        figures = (number(entry.signal_to_noise, 1), number(100.0 * entry.zeros, 1), number(100.0 * entry.clipped))
        cells += [link(f"tensor-{entry.name}", entry.spec), f"{entry.scales[1]:.3g}", *figures]
    shape = " x ".join(map(str, layer.shape))
    return (layer.name, layer.kind, shape, layer.precision, decibel(layer.signal_to_noise), *cells, layer.reason)
