"""The report of a network that is finished and written: what fails here costs the report, and not the network."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import torch

from yoloquant.analysis.costs import noise_along
from yoloquant.analysis.layer_figures import layer_figures
from yoloquant.analysis.tensor_statistics import tensor_statistics
from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.exporting.folder import METRICS
from yoloquant.files.outputs import working_folder
from yoloquant.files.writing import replaced_whole
from yoloquant.progress import Clock, Reporter
from yoloquant.quant.images import spread_images
from yoloquant.results.quantization import Quantization

# Calibration images that the report's figures of layers and tensors are taken from.
REPORT_IMAGES = 4

T = TypeVar("T")


def add_report(
    result: Quantization,
    reference: Mapping[str, torch.Tensor] | None,
    entries: list[ImageEntry],
    dataset: DetectionDataset | None,
    plots: str | None,
    tell: Reporter,
    clock: Clock,
) -> Quantization:
    """Add figures of layers and tensors, report.html, its tables and its charts to the folder of a finished network.

    Each part is made whole or left out; what could not be made is named in a note.

    Args:
        result: Result whose folder `output` is written, and held by `reserved`.
        reference: The float weights by name; None if they are not known.
        entries: Calibration images.
        dataset: Data set that was evaluated, for its photographs.
        plots: "png" or "pdf" for every chart as a file, too.
        tell: Reporter of progress and of failures.
        clock: Clock that measures the time of the report.

    Returns:
        The result with the figures, where these could be made.
    """
    assert result.output is not None
    folder = result.output
    result = _attempt("figures of layers and tensors", lambda: _with_figures(result, reference, entries, tell), tell) or result
    # Beside the folder, so that a part which fails halfway leaves nothing in it.
    with working_folder(folder) as scratch:
        page, charts = scratch / "page", scratch / "charts"
        for part in (page, charts):
            part.mkdir()
        _attempt("report", lambda: _add_page(result, page, dataset, tell), tell)
        if plots is not None:
            _attempt("charts", lambda: _add_charts(result, charts, plots, tell), tell)
    clock.stop("report")
    _attempt("figures in metrics.json", lambda: write_metrics(result, folder), tell)
    return result


def write_metrics(result: Quantization, folder: Path) -> None:
    """Write metrics.json, whole or not at all."""
    content = json.dumps(result.to_dict(), indent=2)
    with replaced_whole(folder / METRICS) as file:
        file.write_text(content, encoding="utf-8")


def _attempt(what: str, make: Callable[[], T], tell: Reporter) -> T | None:
    try:
        return make()
    except Exception as error:
        # Whatever it is: the network took long to make, and is what was asked for.
        reason = f"{type(error).__name__}: {error}".strip(": ").splitlines()[0]
        tell.note(f"the {what} could not be made ({reason}): please report this; model and metrics are written all the same")
        return None


def _with_figures(
    result: Quantization, reference: Mapping[str, torch.Tensor] | None, entries: list[ImageEntry], tell: Reporter
) -> Quantization:
    """The result with figures of every layer and tensor, from a few calibration images."""
    detector = result.detector
    images = spread_images(detector, entries, REPORT_IMAGES)
    with tell.step("Gather statistics") as update:
        statistics = tensor_statistics(detector, iter(images.split(1)), len(images), update, reference)
    reasons = {name: layer.because for name, layer in detector.placement.kept_float.items()}
    layers = layer_figures(detector.network, statistics, noise_along(detector, images[:2], reference), reasons)
    return replace(result, layers=tuple(layers), statistics=tuple(statistics))


def _add_page(result: Quantization, scratch: Path, dataset: DetectionDataset | None, tell: Reporter) -> None:
    from yoloquant.report.quantization_page import write_report

    with tell.step("Write the report") as update:
        write_report(result, scratch, dataset)
        update(1, 1)
    _move(scratch, result)


def _add_charts(result: Quantization, scratch: Path, plots: str, tell: Reporter) -> None:
    from yoloquant.report.plots import save_charts
    from yoloquant.report.quantization_page import report_charts

    with tell.step("Draw the charts") as update:
        save_charts(report_charts(result), scratch / "plots", plots, update)
    _move(scratch, result)


def _move(scratch: Path, result: Quantization) -> None:
    """Put all that a part made into the folder."""
    assert result.output is not None
    for path in scratch.iterdir():
        path.rename(result.output / path.name)
