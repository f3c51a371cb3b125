"""What each operator of a file costs, by the runtime's own profile."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import YoloquantError, first_line

# Calls before those that count.
_WARMUP = 3
_SUFFIX = "_kernel_time"


@dataclass(frozen=True)
class LayerTime:
    """An operator of a runtime's optimised graph.

    Attributes:
        name: Name that the runtime gives it; most hold the name of a layer of the file.
        kind: Its operator, and with OpenVINO the kernel: "QLinearConv", "Convolution brgconv_avx512_I8".
        milliseconds: Median time of one call, milliseconds.
    """

    name: str
    kind: str
    milliseconds: float


def layer_times(path: Path, runtime: str, *, batch_size: int = 1, threads: int = 0, runs: int = 10) -> list[LayerTime]:
    """Profile a file.

    Args:
        path: Path of an ONNX file.
        runtime: "onnxruntime" or "openvino".
        batch_size: Number of images in a call, where the file leaves it free.
        threads: Threads of the runtime; 0 lets it choose.
        runs: Number of counted calls.

    Returns:
        Operators that took time, the slowest first; profiling itself costs a little, so their sum is above a call's latency.

    Raises:
        YoloquantError: The runtime does not report them, or cannot load the file.
    """
    if runtime not in PROFILERS:
        raise YoloquantError(f"{runtime} does not report what its layers cost: choose {' or '.join(PROFILERS)}")
    size = read_metadata(path).input_size
    images = np.random.default_rng(0).random((batch_size, 3, *size), dtype=np.float32)
    try:
        calls = list(PROFILERS[runtime](path, images, threads, runs))
    except Exception as error:
        # Both runtimes raise classes of their own without a common base.
        raise YoloquantError(f"{runtime} cannot profile {path}: {first_line(error)}") from error
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for name, kind, milliseconds in calls:
        times[name, kind].append(milliseconds)
    found = [LayerTime(name, kind, median(values)) for (name, kind), values in times.items()]
    return sorted((layer for layer in found if layer.milliseconds > 0.0), key=lambda layer: -layer.milliseconds)


def _onnxruntime(path: Path, images: np.ndarray, threads: int, runs: int) -> Iterable[tuple[str, str, float]]:
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "profile")
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        for _ in range(_WARMUP + runs):
            session.run(None, {name: images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    kernels = [event for event in events if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX)]
    first = len(kernels) // (_WARMUP + runs) * _WARMUP
    for event in kernels[first:]:
        yield event["name"].removesuffix(_SUFFIX), event["args"]["op_name"], event["dur"] / 1000.0


def _openvino(path: Path, images: np.ndarray, threads: int, runs: int) -> Iterable[tuple[str, str, float]]:
    from yoloquant.runtime.openvino_runner import compile_openvino, read_openvino

    request = compile_openvino(read_openvino(path), len(images), threads, PERF_COUNT=True).create_infer_request()
    for number in range(_WARMUP + runs):
        request.infer([images], share_inputs=True)
        for layer in request.get_profiling_info() if number >= _WARMUP else ():
            yield layer.node_name, f"{layer.node_type} {layer.exec_type}", layer.real_time.total_seconds() * 1000.0


PROFILERS: dict[str, Callable[[Path, np.ndarray, int, int], Iterable[tuple[str, str, float]]]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
}

# Runtimes that can be asked.
PROFILED = tuple(PROFILERS)
