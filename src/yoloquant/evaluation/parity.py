"""Parity: does a runtime compute from an exported file what the torch model computes, and if not, from which layer on.

Three checks, each of which finds what the others cannot: the file holds exactly what was quantized (`file_contents`), each layer
makes torch's integers of torch's integers (`layer_comparison`), and the whole file makes torch's detections of images.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from yoloquant.checkpoint.onnx_metadata import read_metadata
from yoloquant.errors import ExportError
from yoloquant.evaluation.file_contents import file_faults
from yoloquant.evaluation.layer_comparison import LayerDifference, compare_layers
from yoloquant.models.output_formats import LAYOUTS
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.onnxruntime_runner import STAND_IN
from yoloquant.runtime.registry import RUNTIMES, open_onnx
from yoloquant.runtime.runner import Runner
from yoloquant.runtime.torch_runner import TorchRunner

# Sums in another order move a value across a rounding boundary now and then; one integer step then travels through the
# layers behind it. That is a part of the rounding that quantization does, so it stays below quantization's own error against the
# float network; where that error is smaller, this much may still be. A wrong transformation falls far below both.
LEAST_SIGNAL_TO_NOISE_DB = 20.0
_SATURATION = "on an x86 processor without VNNI sums of 8-bit products saturate: --set weights.bits=7 avoids that"


@dataclass(frozen=True)
class Parity:
    """Agreement of one runtime with torch.

    Attributes:
        runtime: Name of the runtime.
        signal_to_noise: Signal-to-noise ratio of the class scores and boxes, in decibels; infinite if equal.
        first_layer: Quantizer where the disagreement starts; None if they agree.
        least: Minimum signal-to-noise ratio of a correct file, in decibels.
        problem: Description of the fault at `first_layer`, where the file does not hold what was quantized, or a layer by itself
            makes other integers than torch's; none otherwise.
        wrong_integers: Number of integers that differ by more than one where every layer reads torch's.
        compared_integers: Number of all integers that were compared; 0 where no layer was run by itself.
        saturates: Whether the runtime agrees only where it adds exactly: this processor saturates sums of 8-bit products.
    """

    runtime: str
    signal_to_noise: float
    first_layer: str | None = None
    least: float = LEAST_SIGNAL_TO_NOISE_DB
    problem: str | None = None
    wrong_integers: int = 0
    compared_integers: int = 0
    saturates: bool = False

    def to_dict(self) -> dict[str, Any]:
        """As JSON values; equal outputs have 999 dB, since JSON knows no infinity."""
        return {**asdict(self), "signal_to_noise": min(self.signal_to_noise, 999.0)}

    @property
    def agrees(self) -> bool:
        """The runtime is right."""
        return self.problem is None and self.signal_to_noise >= self.least


def signal_to_noise(reference: np.ndarray, other: np.ndarray) -> float:
    """`10 log10(sum reference^2 / sum (reference - other)^2)`, decibels; infinite for equal arrays."""
    noise = float(np.sum(np.square(reference.astype(np.float64) - other)))
    signal = float(np.sum(np.square(reference.astype(np.float64))))
    if noise == 0.0:
        return float("inf")
    return 10.0 * float(np.log10(max(signal, 1e-30) / noise))


@dataclass(frozen=True)
class Reference:
    """What torch computes from images, and how far from it a right file may be.

    Attributes:
        images: `(N, 3, H, W)` float32, 0..1.
        decoded: Decoded output of torch.
        layout: Layout of the decoded output.
        least: Minimum signal-to-noise ratio of a correct file, in decibels.
    """

    images: np.ndarray
    decoded: np.ndarray
    layout: str
    least: float

    @classmethod
    def of(cls, detector: QuantizedDetector, images: np.ndarray) -> Reference:
        """Run the torch model, quantized and with all activations unrounded.

        Args:
            detector: Calibrated detector.
            images: `(N, 3, H, W)` float32, 0..1, real photographs.
        """
        runner = TorchRunner(detector)
        decoded = runner(images)
        with passing([quantizer for _, quantizer in detector.quantizers()]):
            unrounded = runner(images)
        reference = cls(images, decoded, runner.layout, LEAST_SIGNAL_TO_NOISE_DB)
        return replace(reference, least=min(LEAST_SIGNAL_TO_NOISE_DB, reference.agreement(unrounded)))

    def agreement(self, output: np.ndarray) -> float:
        """Signal to noise of another output for the same images, decibels: of its boxes or its scores, whichever is worse."""
        final = LAYOUTS[self.layout].suppressed
        found = _comparable(_in_order_of(self.decoded, output) if final else output, self.layout)
        return min(signal_to_noise(*pair) for pair in zip(_comparable(self.decoded, self.layout), found, strict=True))

    def check(self, runner: Runner) -> Parity:
        """Run the images one by one in a runtime, and close it."""
        found = np.concatenate([runner(self.images[i : i + 1]) for i in range(len(self.images))])
        runner.close()
        return Parity(runner.name, self.agreement(found), least=self.least)


def check_parity(
    detector: QuantizedDetector, path: Path, images: np.ndarray, runtimes: Iterable[str] | None = None
) -> list[Parity]:
    """Run an exported file in the installed runtimes against the torch model.

    Args:
        detector: Detector that was exported.
        path: Path of the ONNX file.
        images: `(N, 3, H, W)` float32, 0..1, real photographs.
        runtimes: Names of the runtimes; all installed ones by default.

    Returns:
        One entry for each runtime that is installed.
    """
    reference = Reference.of(detector, images)
    faults = file_faults(detector, path)
    results = []
    for name in RUNTIMES if runtimes is None else runtimes:
        if not RUNTIMES[name].is_installed():
            continue
        result = reference.check(open_onnx(path, name))
        if not result.agrees and name == "onnxruntime":
            exact = reference.check(open_onnx(path, name, metadata=replace(read_metadata(path), target=STAND_IN)))
            result = replace(exact, saturates=True) if exact.agrees else result
        if faults:
            result = replace(result, first_layer=faults[0].layer, problem=faults[0].problem)
        elif name == "onnxruntime":
            result = _with_layers(result, compare_layers(detector, path, images[:1]))
        if not result.agrees and result.problem is None:
            result = replace(result, first_layer=first_disagreement(detector, path, images[:1], name))
        results.append(result)
    return results


def _with_layers(result: Parity, layers: Sequence[LayerDifference]) -> Parity:
    """A result with what the comparison of single layers found."""
    result = replace(
        result, wrong_integers=sum(layer.wrong for layer in layers), compared_integers=sum(layer.count for layer in layers)
    )
    wrong = next((layer for layer in layers if not layer.agrees), None)
    if wrong is None:
        return result
    problem = f"differs from torch in {wrong.wrong} of {wrong.count} values although what it reads is torch's"
    return replace(result, first_layer=wrong.name, problem=problem)


def binding(results: Sequence[Parity], own: str, others: Container[str]) -> list[Parity]:
    """Results that a file must agree by: that of the runtime it is for, or those of `others` where that is not here.

    Args:
        results: Results of all runtimes that were asked.
        own: Name of the target, and of its runtime if it has one.
        others: Runtimes that run the target's files in place of its own.
    """
    found = [result for result in results if result.runtime == own]
    return found or [result for result in results if result.runtime in others]


def require_parity(results: Iterable[Parity]) -> None:
    """Raise for the first runtime that disagrees.

    Raises:
        ExportError: With the runtime, how far off it is, and the layer where it starts.
    """
    for result in results:
        if result.problem is not None:
            raise ExportError(
                f"the exported file is not what was quantized ({result.first_layer} {result.problem}): "
                "do not deploy it; quantize again, and report this if it stays"
            )
        if not result.agrees:
            # ONNX Runtime was asked to add exactly, too, so that saturation is not what is left there.
            saturation = "" if result.runtime == "onnxruntime" else f"; where it is, {_SATURATION}"
            raise ExportError(
                f"the exported file does not compute in {result.runtime} what the torch model computes "
                f"({result.signal_to_noise:.1f} dB signal to noise; the disagreement starts at {result.first_layer}): "
                f"do not deploy it there, choose that runtime's own target{saturation}"
            )


def _comparable(output: np.ndarray, layout: str) -> tuple[np.ndarray, np.ndarray]:
    """Boxes weighted by their best score, and scores: what detection makes of an output.

    Box corners of cells without an object are large numbers without meaning, which would drown everything else.
    """
    if LAYOUTS[layout].suppressed:
        return output[..., :4] * output[..., 4:5], output[..., 4]
    boxes, scores = LAYOUTS[layout].candidates(torch.from_numpy(output))
    return (boxes * scores.amax(-1, keepdim=True)).numpy(), scores.numpy()


def _in_order_of(expected: np.ndarray, found: np.ndarray) -> np.ndarray:
    """Final detections `(N, K, 6)` in the order of others: each beside the nearest box of its class that is left.

    Their own order is that of their scores, where the smallest error swaps neighbours.
    """
    ordered = np.zeros_like(found)
    for image, (wanted, rows) in enumerate(zip(expected, found, strict=True)):
        distance = np.abs(wanted[:, None, :4] - rows[None, :, :4]).sum(-1) + np.abs(wanted[:, None, 4] - rows[None, :, 4])
        distance += 1e6 * (wanted[:, None, 5] != rows[None, :, 5])
        for position in range(len(wanted)):
            nearest = int(distance[position].argmin())
            ordered[image, position] = rows[nearest]
            distance[:, nearest] = np.inf
    return ordered


def first_disagreement(detector: QuantizedDetector, path: Path, images: np.ndarray, runtime: str) -> str:
    """Name of the first quantizer, in the network's order, whose values in the runtime are not those of torch.

    The runtime gets a copy of the file that also outputs every quantizer's tensor. Where the extra outputs themselves
    keep the runtime from going wrong, the result says so.
    """
    expected = _quantizer_values(detector, images)
    model = onnx.load(str(path))
    known = {output for node in model.graph.node for output in node.output}
    for name in expected:
        if name in known:
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    runner = open_onnx(model.SerializeToString(), runtime)
    answers = runner.outputs(images)
    runner.close()
    for name, values in expected.items():
        if name in answers and signal_to_noise(values, answers[name]) < LEAST_SIGNAL_TO_NOISE_DB:
            return name
    return "no single layer: with every layer's output visible the runtime is right, its fusion of layers is wrong"


def _quantizer_values(detector: QuantizedDetector, images: np.ndarray) -> dict[str, np.ndarray]:
    """Place name of each activation quantizer in the exported file -> its output in torch."""
    values: dict[str, np.ndarray] = {}
    counts: dict[str, int] = {}

    def record(name: str) -> Callable[[torch.nn.Module, object, torch.Tensor], None]:
        def hook(_module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
            counts[name] = counts.get(name, 0) + 1
            values[name if counts[name] == 1 else f"{name}@{counts[name]}"] = output.numpy()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in detector.quantizers() if not module.of_weight]
    try:
        with torch.inference_mode():
            detector.network(torch.from_numpy(images))
    finally:
        for handle in handles:
            handle.remove()
    return values
