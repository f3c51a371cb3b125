"""What `yoloquant search --optimize-latency` measures: times of layers and of whole files on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from yoloquant.errors import YoloquantError
from yoloquant.evaluation.latency import Latency, measure_latency
from yoloquant.evaluation.times_in_file import times_in_file
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.models.detector import Detector
from yoloquant.progress import Reporter
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.profile import PROFILED
from yoloquant.runtime.registry import RUNTIMES, open_onnx


def runtime_to_time(target: str) -> str:
    """The runtime on this machine that is asked for times.

    Raises:
        YoloquantError: The target is no runtime that reports what its layers cost.
    """
    if target not in PROFILED:
        raise YoloquantError(
            f"latency is optimised where it is measured, and target {target} is for another machine: "
            f"choose one of the targets {', '.join(PROFILED)}"
        )
    return target


def can_be_timed(target: str) -> bool:
    """The target is a runtime that is installed here."""
    return target in RUNTIMES and target in PROFILED and RUNTIMES[target].is_installed()


def measured_times(
    detector: Detector, quantized: QuantizedDetector, runtime: str, layers: list[str], tell: Reporter
) -> dict[str, tuple[float, float]]:
    """Layer -> milliseconds in integers, and in float, in a call with one image."""
    with tempfile.TemporaryDirectory() as scratch, tell.step(f"Time layers in {runtime}") as update:
        plain, integer = (Path(scratch) / f"{name}.onnx" for name in ("float", "integer"))
        export_onnx(detector, plain)
        export_onnx(quantized, integer, target=runtime)
        update(1, 2)
        times = {path: times_in_file(path, runtime, layers) for path in (integer, plain)}
        update(2, 2)
    return {name: (times[integer][name], times[plain][name]) for name in layers}


def measured_gains(
    detector: Detector, quantized: QuantizedDetector, runtime: str, layers: list[str], tell: Reporter
) -> dict[str, float]:
    """Layer -> milliseconds that integers save in a call with one image."""
    times = measured_times(detector, quantized, runtime, layers, tell)
    return {name: plain - integer for name, (integer, plain) in times.items()}


def whole_latency(
    files: Mapping[str, Detector | QuantizedDetector], runtime: str, tell: Reporter, runs: int = 40
) -> dict[str, Latency]:
    """Latency of detectors as whole files, in turns."""
    with tempfile.TemporaryDirectory() as scratch, tell.step(f"Time files in {runtime}") as update:
        runners = {}
        for number, (label, detector) in enumerate(files.items()):
            path = Path(scratch) / f"{number}.onnx"
            export_onnx(detector, path, target=runtime)
            runners[label] = open_onnx(path, runtime)
        return measure_latency(runners, runs=runs, progress=update)
