"""Processors without VNNI add pairs of 8-bit products in 16 bits, which saturate: what stands against that.

On processors with VNNI these tests pass whatever is done; on others they fail without it.
"""

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from small_networks import SIZE, SmallNetwork, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.models.onnx.metadata import ModelMetadata
from yoloquant.runtime.registry import open_onnx
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.registry import TARGETS, get_target

FACTS = ModelMetadata(("a",), (8,), (32, 32), "onnx", "rows_objectness", target="tensorrt")


def sum_of_extremes(channels: int) -> bytes:
    """One quantized convolution that adds `9 * channels` products of 255 and 127, as Q/DQ; its inputs are ones."""
    constants = {
        "w": np.full((16, channels, 3, 3), 127, np.int8),
        "ws": np.float32(1 / 127),
        "wz": np.int8(0),
        "xs": np.float32(1 / 255),
        "zero": np.uint8(0),
        "ys": np.float32(channels * 9 / 255),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "zero"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"]),
        helper.make_node("Conv", ["xd", "wd"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["c", "ys", "zero"], ["cq"]),
        helper.make_node("DequantizeLinear", ["cq", "ys", "zero"], ["y"]),
    ]
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, count, 32, 32]) for name, count in (("x", channels), ("y", 16))
    ]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "sum", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


@pytest.mark.parametrize("channels", [3, 16, 64])
def test_onnxruntime_adds_the_largest_products_exactly_where_it_stands_in_for_another_runtime(channels):
    runner = open_onnx(sum_of_extremes(channels), "onnxruntime", metadata=FACTS)
    answer = runner.outputs(np.ones((1, channels, 32, 32), np.float32))["y"]
    assert answer[0, 0, 16, 16] == pytest.approx(9 * channels, rel=1e-5)


@pytest.mark.parametrize("target", ["openvino", "onnxruntime"])
def test_files_read_white_images_right(target, tmp_path):
    network = SmallNetwork()
    with torch.no_grad():
        network.stem.conv.weight.fill_(0.2)
    detector = quantized_detector(get_target(target), network, float_inputs=False)
    white = torch.full((1, 3, *SIZE), 255, dtype=torch.uint8)
    calibrate(detector, [white])
    export_onnx(detector, tmp_path / "model.onnx", target=target)
    images = white.numpy().astype(np.float32) / 255
    expected = TorchRunner(detector)(images)
    found = open_onnx(tmp_path / "model.onnx", target)(images)
    # With 8 bits the sums of the first layer saturate, which leaves 12 to 16 dB.
    assert signal_to_noise(expected, found) > 20.0


@pytest.mark.parametrize("target", [name for name, target in TARGETS.items() if target.input_weight_bits])
def test_a_recipe_may_still_choose_the_bits_of_layers_that_read_the_image(target):
    def eight(_layer, kind, spec):
        return spec.with_changes(bits=8) if kind == "weights" else spec

    default, chosen = (
        quantized_detector(get_target(target), float_inputs=False, **arguments) for arguments in ({}, {"choose": eight})
    )
    bits = [{layer.quantizer.spec.bits for layer in detector.quantized_weights()} for detector in (default, chosen)]
    assert bits == [{7, 8}, {8}]
