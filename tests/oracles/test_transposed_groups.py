"""Group-wise weights of transposed convolutions, `(I, O/groups, kh, kw)`, against loops and ONNX Runtime."""

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from small_networks import SIZE, RowsHead, images
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.data.images import to_input
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers
from yoloquant.runtime.registry import open_onnx
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.spec import TensorSpec
from yoloquant.targets.registry import get_target


class Upsampling(nn.Module):
    """A convolution, a transposed one, and an output layer."""

    def __init__(self, inputs: int, outputs: int, groups: int):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, inputs, 3, 4, 1)
        self.up = nn.ConvTranspose2d(inputs, outputs, 2, 2, groups=groups)
        # Channels of very different size, so that a scale on the wrong axis costs much.
        self.up.weight.data *= torch.logspace(-2, 0, inputs)[:, None, None, None]
        self.head = nn.Conv2d(outputs, 9, 1)

    def forward(self, x):
        return [self.head(self.up(self.stem(x)))]


def quantized_up(network, granularity, group_size, bits=4):
    def choose(layer, tensor, spec):
        if layer != "up" or tensor != "weights":
            return None
        return TensorSpec(bits=bits, granularity=granularity, group_size=group_size, narrow=True)

    graph_module = capture(network, SIZE, 8)
    placement = get_target("reference").place(graph_module, choose)
    insert_quantizers(graph_module, placement)
    detector = QuantizedDetector(graph_module, placement, RowsHead(), ("a", "b", "c", "d"), (2,), SIZE, "small")
    calibrate(detector, [images(1)])
    return detector


def by_loops(weight: np.ndarray, groups: int, group_size: int, bits: int) -> np.ndarray:
    """Each output channel's inputs in groups, alone; a group ends where the convolution's own does."""
    answer = np.empty_like(weight)
    inputs = len(weight) // groups
    size = group_size if groups == 1 else np.gcd(group_size, inputs)
    for output in range(weight.shape[1]):
        for start in range(0, len(weight), size):
            block = weight[start : start + size, output]
            scale = np.float32(np.abs(block).max() / np.float32(2 ** (bits - 1) - 1))
            answer[start : start + size, output] = np.rint(block / scale) * scale
    return answer


@pytest.mark.parametrize(
    ("inputs", "outputs", "groups"), [(16, 16, 1), (16, 8, 1), (12, 20, 1), (16, 16, 4), (24, 8, 2), (8, 8, 8)]
)
@pytest.mark.parametrize("group_size", [4, 8, 64])
def test_groups_run_along_the_input_channels(inputs, outputs, groups, group_size, tmp_path):
    network = Upsampling(inputs, outputs, groups)
    expected = by_loops(network.up.weight.detach().numpy(), groups, group_size, 4)
    detector = quantized_up(network, "group", group_size)
    (layer,) = detector.quantized_weights()
    np.testing.assert_allclose(layer.quantizer(layer.weight).detach().numpy(), expected, rtol=1e-6)

    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target="reference")
    x = to_input(images(2, seed=5)).contiguous().numpy()
    found = open_onnx(path)(x)
    assert signal_to_noise(TorchRunner(detector)(x), found) > 80
    # ONNX Runtime's output is that of the float network with the weights of the loops.
    network.up.weight.data = torch.from_numpy(expected)
    with torch.no_grad():
        assert signal_to_noise(RowsHead()(network(torch.from_numpy(x))).numpy(), found) > 80


def test_smaller_groups_cost_less_than_channels():
    network = Upsampling(16, 16, 1)
    weight = network.up.weight.detach()

    def noise(granularity, group_size=0):
        (layer,) = quantized_up(Upsampling(16, 16, 1), granularity, group_size).quantized_weights()
        return signal_to_noise(weight.numpy(), layer.quantizer(layer.weight).detach().numpy())

    assert noise("tensor") < noise("channel") < noise("group", 8) < noise("group", 4)


def test_blocks_are_on_the_axis_of_the_inputs(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(quantized_up(Upsampling(16, 8, 1), "group", 4), path, target="reference")
    model = onnx.load(str(path))
    (node,) = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    assert {entry.name: entry.i for entry in node.attribute} == {"axis": 0, "block_size": 4}
    shapes = {entry.name: tuple(entry.dims) for entry in model.graph.initializer}
    assert shapes[node.input[1]] == (4, 8, 2, 2)
