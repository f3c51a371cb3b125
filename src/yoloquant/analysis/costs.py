"""What quantization costs: the measures that layers are ranked by."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.analysis.lockstep import lockstep
from yoloquant.analysis.sensitivity import Measure
from yoloquant.data.dataset import DetectionDataset
from yoloquant.data.images import to_input
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.graph.capture import layer_name
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.runtime.torch_runner import TorchRunner


def error_cost(detector: QuantizedDetector, pictures: torch.Tensor) -> Measure:
    """Error of boxes and scores against the detector with all quantizers passing."""
    cost = DetectionCost(detector, pictures)
    return lambda _: cost()


def map_cost(detector: QuantizedDetector, dataset: DetectionDataset, options: EvaluationSettings) -> Measure:
    """mAP50-95, percent, lost against the detector with all quantizers passing."""
    runner = TorchRunner(detector)
    with passing([quantizer for _, quantizer in detector.quantizers()]):
        plain = evaluate(runner, dataset, options).map50_95
    return lambda _: plain - evaluate(runner, dataset, options).map50_95


def noise_along(
    detector: QuantizedDetector, pictures: torch.Tensor, reference: Mapping[str, torch.Tensor] | None = None
) -> dict[str, float]:
    """Weighted layer -> signal-to-noise ratio of its output, dB, in the graph's order; `reference` as for `lockstep`."""
    found = {}
    for node, plain, quantized in lockstep(detector.network, to_input(pictures), reference):
        if kind(node) in WEIGHTED:
            noise = (quantized[node] - plain[node]).square().sum().clamp(min=1e-30)
            found[layer_name(node)] = float(10.0 * torch.log10(plain[node].square().sum().clamp(min=1e-30) / noise))
    return found
