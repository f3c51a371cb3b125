"""Biases of channels with next to no weight fit 32-bit integers, in torch, in files and in ONNX Runtime."""

import numpy as np
import pytest
import torch
from torch import nn

from small_networks import SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.data.images import to_input
from yoloquant.evaluation.parity import check_parity, signal_to_noise
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.quant.int32_bias import MOST_STEPS, fit_biases
from yoloquant.runtime.registry import open_onnx
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.targets.registry import TARGETS, get_target


def near_dead(activation=nn.ReLU, gamma=1e-6):
    """A network with a channel of which only the bias is left."""
    network = SmallNetwork(activation)
    for block in (network.down, network.residual):
        block.bn.weight.data[3] = gamma
        block.bn.bias.data[3] = 3.0
    return network


def steps_of_bias(detector, name):
    """The bias of a layer in the steps that integer kernels hold it in, largest absolute value."""
    (layer,) = [layer for layer in detector.quantized_weights() if layer.node.meta["layer"] == name]
    source = detector.network.get_submodule(layer.node.args[0].target)
    bias = detector.network.get_parameter(layer.node.args[2].target)
    return float((bias.detach().abs().double() / (source.scale.double() * layer.quantizer.scale.double())).max())


@pytest.mark.parametrize("target", TARGETS)
def test_a_near_dead_channel_keeps_its_bias_in_the_runtime(target, tmp_path):
    detector = quantized_detector(get_target(target), near_dead())
    calibrate(detector, images(8).split(4))
    for name in ("down.conv", "residual.conv"):
        assert 0.4 * MOST_STEPS < steps_of_bias(detector, name) <= MOST_STEPS * 1.001
    if target not in ("onnxruntime", "tflite", "npu-pow2"):
        return  # The others place quantizers as one of these does.
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target=target)
    x = to_input(images(2, seed=5)).contiguous().numpy()
    (parity,) = check_parity(detector, path, x, ["onnxruntime"])
    assert parity.agrees, parity
    assert signal_to_noise(TorchRunner(detector)(x), open_onnx(path)(x)) > 40


def test_the_runtime_is_far_off_where_scales_are_not_raised(tmp_path, monkeypatch):
    """What makes the scales worth raising; if a runtime no longer overflows, this says so."""
    monkeypatch.setattr("yoloquant.algorithms.calibrate.fit_biases", lambda detector: [])
    detector = quantized_detector(get_target("onnxruntime"), near_dead(nn.SiLU))
    calibrate(detector, images(8).split(4))
    assert steps_of_bias(detector, "down.conv") > 2**31
    x = to_input(images(2, seed=5)).contiguous().numpy()
    export_onnx(detector, tmp_path / "overflows.onnx", target="onnxruntime")
    (parity,) = check_parity(detector, tmp_path / "overflows.onnx", x, ["onnxruntime"])
    assert not parity.agrees
    assert parity.first_layer == "down.conv.output_quantizer"
    before = {name: quantizer.scale.clone() for name, quantizer in detector.quantizers()}
    assert fit_biases(detector) == ["down.conv", "residual.conv"]
    assert fit_biases(detector) == []
    # Only the scales of the two channels are others.
    for name, quantizer in detector.quantizers():
        different = torch.nonzero(quantizer.scale != before[name]).flatten().tolist()
        assert different == ([3] if name in ("down.conv.weight_quantizer", "residual.conv.weight_quantizer") else [])
    export_onnx(detector, tmp_path / "fits.onnx", target="onnxruntime")
    assert signal_to_noise(TorchRunner(detector)(x), open_onnx(tmp_path / "fits.onnx")(x)) > 40


def test_scales_are_those_of_the_formula():
    """`onnxruntime.quantization` raises to |bias| / (input scale * (2^31 - 1)); here half of that is for products."""
    detector = quantized_detector(get_target("reference"), near_dead())
    calibrate(detector, images(8).split(4))
    (layer,) = [layer for layer in detector.quantized_weights() if layer.node.meta["layer"] == "down.conv"]
    source = detector.network.get_submodule(layer.node.args[0].target)
    bias = detector.network.get_parameter(layer.node.args[2].target).detach().numpy()
    plain = np.abs(layer.weight.detach().numpy()).max((1, 2, 3)) / 127
    expected = np.maximum(plain, np.abs(bias) / (source.scale.item() * 2.0**30))
    np.testing.assert_allclose(layer.quantizer.scale.numpy(), expected, rtol=1e-6)
    assert expected[3] > 100 * plain[3]
