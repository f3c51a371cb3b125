"""What the report of a quantization begins with: one sentence, and tiles that name what they were measured in."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from yoloquant.data.dataset import DetectionDataset
from yoloquant.environment import processor_name
from yoloquant.evaluation.uncertainty import Loss
from yoloquant.files.writing import named_path

if TYPE_CHECKING:
    from yoloquant.results.quantization import Quantization, Row

# Runtimes as their makers write them.
_RUNTIMES = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime", "openvino": "OpenVINO", "tensorrt": "TensorRT"}
# Ratios and points below which nothing changed to speak of.
_SAME_RATIO, _SAME_POINTS = 0.05, 0.05


def runtime_name(name: str) -> str:
    """A runtime as its makers write it."""
    return _RUNTIMES.get(name, name)


def compared_rows(result: Quantization) -> tuple[Row, Row] | None:
    """The float and the quantized model in the runtime that the target is named after, else in the first one beside torch."""
    measured = [row for row in result.rows if row.evaluation]
    pairs = [(a, b) for a in measured for b in measured if a.model == "float" != b.model and a.runtime == b.runtime]
    # False sorts first.
    return min(pairs, key=lambda pair: (pair[0].runtime != result.recipe.target, pair[0].runtime == "torch"), default=None)


def set_name(dataset: DetectionDataset | None) -> str:
    """A data set by the file that names it, without folders that are not the user's own words; nothing for a bare folder."""
    return named_path(Path(dataset.files[0])) if dataset is not None and dataset.files else ""


def headline(pair: tuple[Row, Row] | None, data: str = "") -> str:
    """Size, speed and accuracy against the float model in one sentence; nothing where nothing was measured.

    Args:
        pair: The float and the quantized row in one runtime.
        data: Name of the data set.
    """
    sentence = ", ".join(_clauses(*pair, data)) if pair else ""
    return f"{sentence[0].upper()}{sentence[1:]}." if sentence else ""


def _clauses(before: Row, after: Row, data: str) -> Iterator[str]:
    if before.file_size and after.file_size:
        yield _times(before.file_size / after.file_size, "smaller", "larger", "as large")
    if before.latency and after.latency:
        ratio = before.latency.median / after.latency.median
        yield f"{_times(ratio, 'faster', 'slower', 'as fast')} on {runtime_name(after.runtime)}"
    assert before.evaluation
    assert after.evaluation
    source = f" of {data}" if data else ""
    assert after.drop
    yield f"{_loss_words(after.drop)} on {after.evaluation.image_count} images{source}"


def _times(ratio: float, better: str, worse: str, same: str) -> str:
    """A ratio in words, as in `1.9 times faster`."""
    if abs(ratio - 1.0) < _SAME_RATIO:
        return f"{same} as the float model"
    return f"{ratio:.1f} times {better}" if ratio > 1.0 else f"{1.0 / ratio:.1f} times {worse}"


def _loss_words(loss: Loss) -> str:
    error = "" if loss.error != loss.error else f" ± {loss.error:.1f}"
    if loss.value != loss.value:
        return "mAP unknown"
    if abs(loss.value) < _SAME_POINTS:
        return f"lost 0.0{error} mAP"
    return f"{'lost' if loss.value > 0.0 else 'gained'} {abs(loss.value):.1f}{error} mAP"


def facts(pair: tuple[Row, Row] | None) -> dict[str, str]:
    """The tiles, what they are -> figure; each names the runtime that it was measured in."""
    if pair is None:
        return {}
    before, after = pair
    assert before.evaluation
    assert after.evaluation
    runtime = runtime_name(after.runtime)
    tiles = {
        f"mAP50-95 in {runtime}": f"{before.evaluation.map50_95:.2f} → {after.evaluation.map50_95:.2f}",
        f"mAP50-95 lost in {runtime}, points": str(after.drop),
    }
    if before.latency and after.latency:
        times = f"{before.latency.median:.1f} → {after.latency.median:.1f}"
        tiles[f"ms for an image in {runtime}, {after.latency.median / before.latency.median:.0%} of the float model's"] = times
    if before.file_size and after.file_size:
        sizes = f"{before.file_size / 1e6:.1f} → {after.file_size / 1e6:.1f}"
        tiles[f"MB of the file for {runtime}, {after.file_size / before.file_size:.0%} of the float model's"] = sizes
    return tiles


def subject(result: Quantization) -> str:
    """What the page is about, when and where it was made: family, classes, size, images, day, processor."""
    detector, counts = result.detector, {row.evaluation.image_count for row in result.rows if row.evaluation}
    height, width = detector.input_size
    evaluated = f", evaluated on {min(counts)} images" if counts else ""
    made = f"{datetime.date.today():%Y-%m-%d} on {processor_name()}"
    return f"{detector.family}, {len(detector.names)} classes, {height} x {width} pixels{evaluated}; made on {made}."
