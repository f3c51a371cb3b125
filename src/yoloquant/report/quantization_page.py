"""The report of a quantization: one HTML file that needs nothing else, and its tables as CSV."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.data.dataset import DetectionDataset
from yoloquant.environment import processor_name
from yoloquant.files.writing import write_rows
from yoloquant.report import charts
from yoloquant.report.analysis_page import cost_unit
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
        result: with the figures of layers and tensors.
        folder: to write into.
        dataset: that was evaluated, for its photographs; none are shown without.
    """
    from yoloquant.exporting.folder import REPORT
    from yoloquant.results.quantization import precision_label

    label = precision_label(result.detector)
    pair = compared_rows(result)
    classes, sensitivity = _class_rows(pair), _ranking(result)
    photographs = _photographs(pair, dataset, result.detector.names)
    noise = charts.noise(_noise(result.layers))
    missing = {
        "cost": result.rows,
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
        facts=_facts(pair),
        subject=_subject(result),
        summary=_summary(result),
        parity=_parity(result),
        photographs=photographs,
        photograph_runtime=pair[0].runtime if pair else "",
        classes=_class_table(classes, label),
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
    write_rows(folder / CLASSES, [dict(zip(("class", "float", label, "drop"), row, strict=True)) for row in classes])
    write_rows(folder / LAYERS, [layer.to_dict() for layer in result.layers])


def report_charts(result: Quantization) -> list[charts.Chart | NetworkDrawing]:
    """Every chart of the page."""
    per_class, sensitivity = class_chart(_class_rows(compared_rows(result))), _ranking(result)
    noise = charts.noise(_noise(result.layers))
    return [
        *([per_class] if per_class.values else []),
        *([sensitivity] if sensitivity else []),
        *([noise] if noise.points else []),
        drawing(result),
        *charts.of_tensors(result.statistics),
    ]


def compared_rows(result: Quantization) -> tuple[Row, Row] | None:
    """The float and the quantized model in the runtime that the target is named after, else in the first one beside torch."""
    measured = [row for row in result.rows if row.evaluation]
    pairs = [(a, b) for a in measured for b in measured if a.model == "float" != b.model and a.runtime == b.runtime]
    # False sorts first.
    return min(pairs, key=lambda pair: (pair[0].runtime != result.recipe.target, pair[0].runtime == "torch"), default=None)


def _subject(result: Quantization) -> str:
    """What the page is about, when and where it was made: family, classes, size, images, day, processor."""
    detector, counts = result.detector, {row.evaluation.image_count for row in result.rows if row.evaluation}
    height, width = detector.input_size
    evaluated = f", evaluated on {min(counts)} images" if counts else ""
    made = f"{datetime.date.today():%Y-%m-%d} on {processor_name()}"
    return f"{detector.family}, {len(detector.names)} classes, {height} x {width} pixels{evaluated}; made on {made}."


def _facts(pair: tuple[Row, Row] | None) -> dict[str, str]:
    """The four figures that one wants first."""
    if pair is None:
        return {}
    before, after = pair
    assert before.evaluation
    assert after.evaluation
    kept = f"{before.evaluation.map50_95:.2f} → {after.evaluation.map50_95:.2f}"
    facts = {
        f"mAP50-95 in {before.runtime}": kept,
        "mAP50-95 lost, points": f"{before.evaluation.map50_95 - after.evaluation.map50_95:.2f}",
    }
    if before.latency and after.latency:
        facts[f"of the float model's latency in {before.runtime}"] = f"{after.latency.median / before.latency.median:.0%}"
    if before.file_size and after.file_size:
        facts["of the float model's file size"] = f"{after.file_size / before.file_size:.0%}"
    return facts


def _summary(result: Quantization) -> PageTable:
    table = result.table()
    columns = tuple(Column(header, header in ("model", "runtime")) for header in table.headers)
    return PageTable("summary", "What it costs", columns, tuple(map(TableRow, table.rows)))


def _parity(result: Quantization) -> PageTable:
    columns = (Column("runtime", True), Column("agreement with torch, dB"), Column("first layer that disagrees", True))
    rows = [
        TableRow((parity.runtime, decibel(parity.signal_to_noise), parity.first_layer or "none"))
        for parity in result.parity
    ]  # fmt: skip
    return PageTable("parity-table", "Agreement with torch", columns, tuple(rows))


def _class_rows(pair: tuple[Row, Row] | None) -> list[tuple[str, float, float, float]]:
    """Class, float mAP50-95, quantized, drop; the largest drop first, classes without objects left out."""
    if pair is None:
        return []
    before, after = ((row.evaluation.per_class if row.evaluation else {}) for row in pair)
    rows = [(name, before[name][0], after[name][0]) for name in before if before[name][0] == before[name][0]]
    return sorted(((name, a, b, a - b) for name, a, b in rows), key=lambda row: -row[3])


def _class_table(classes: Sequence[tuple[str, float, float, float]], label: str) -> PageTable:
    columns = (Column("class", True), Column("float mAP50-95"), Column(f"{label} mAP50-95"), Column("drop"))
    rows = tuple(TableRow((name, *(number(value) for value in values))) for name, *values in classes)
    return PageTable("classes-table", "Classes", columns, rows, "person" if len(rows) > 12 else "")


def class_chart(classes: Sequence[tuple[str, float, float, float]], count: int = 20) -> charts.Bars:
    """What the classes lose, those that change most if there are many."""
    most = sorted(classes, key=lambda row: -abs(row[3]))[:count]
    title = "mAP50-95 lost by class" if len(classes) <= count else f"mAP50-95 lost by the {count} classes that change most"
    return charts.Bars("classes", title, "mAP50-95 lost", {row[0]: row[3] for row in sorted(most, key=lambda row: -row[3])})


def _photographs(pair: tuple[Row, Row] | None, dataset: DetectionDataset | None, names: Sequence[str]) -> list[Photograph]:
    if pair is None or dataset is None or pair[0].evaluation is None or pair[1].evaluation is None:
        return []
    paths = {entry.image_id: entry.path for entry in dataset.images}
    return differing_photographs(paths, pair[0].evaluation.rows, pair[1].evaluation.rows, names)


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
        Column("layer", True),
        Column("kind", True),
        Column("weight", True),
        Column("precision", True),
        Column("answer dB", meaning="signal-to-noise ratio of its answer in the whole quantized network"),
        Column("weight: how", True),
        Column("scale", meaning="the greatest, where channels have scales of their own"),
        Column("dB"),
        Column("to zero %", meaning="values other than 0 that become 0"),
        Column("clipped %", meaning="values outside of the range"),
        Column("input: how", True),
        Column("scale"),
        Column("dB"),
        Column("to zero %", meaning="values other than 0 that become 0"),
        Column("clipped %", meaning="values outside of the range"),
        Column("why in float", True),
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
