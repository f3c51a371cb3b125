"""Bias correction: take the mean error that quantization causes at each layer out of that layer's bias.

Nagel et al. 2019, "Data-free quantization through weight equalization and bias correction", section 4.2, in its empirical
form (appendix D): the mean is measured on images, layer after layer, each with all layers before it already corrected.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import Node

from yoloquant.algorithms.calibrate import Progress, to_input
from yoloquant.algorithms.lockstep import lockstep
from yoloquant.graph.operators import WEIGHTED, kind
from yoloquant.quant.network import QuantizedDetector


def correct_biases(detector: QuantizedDetector, images: Tensor, progress: Progress | None = None) -> dict[str, float]:
    """Correct the biases of all convolutions and linear layers, in place, in one sweep through the network.

    Args:
        detector: calibrated.
        images: uint8 `(N, 3, H, W)`, RGB; held in memory together with their activations.
        progress: called with (layers done, layers).

    Returns:
        Layer name -> largest absolute change of its bias.
    """
    network = detector.network
    total = sum(kind(node) in WEIGHTED for node in network.graph.nodes)
    changes: dict[str, float] = {}
    for node, plain, quantized in lockstep(network, to_input(images)):
        if kind(node) not in WEIGHTED:
            continue
        bias_node = node.args[2] if len(node.args) > 2 else None
        if isinstance(bias_node, Node):
            # Channels are dimension 1 of maps and the last of linear layers' rows.
            channel = -1 if kind(node) == "linear" else 1
            error = _channel_mean(plain[node] - quantized[node], channel)
            owner, _, leaf = str(bias_node.target).rpartition(".")
            bias = getattr(network.get_submodule(owner), leaf)
            assert isinstance(bias, nn.Parameter)
            bias.data += error
            shape = [1] * quantized[node].dim()
            shape[channel] = -1
            quantized[node] = quantized[node] + error.view(shape)
            changes[node.meta["layer"]] = float(error.abs().max())
        if progress:
            progress(len(changes), total)
    return changes


def _channel_mean(values: Tensor, channel: int) -> Tensor:
    channel %= values.dim()
    return torch.mean(values, dim=[dimension for dimension in range(values.dim()) if dimension != channel])
