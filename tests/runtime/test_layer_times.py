"""Times of layers, from profiles of the runtimes."""

import pytest

from small_networks import SIZE, RowsHead, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.from_module import from_module
from yoloquant.evaluation.times_in_file import times_in_file, times_of_layers
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.flows.search import by_value
from yoloquant.runtime.profile import LayerTime
from yoloquant.targets.registry import get_target

LAYERS = ["model.1.conv", "model.10.conv", "model.2.m.0", "model.2.m.0.cv1.conv"]


def test_operators_are_counted_at_the_longest_name_they_begin_with():
    profile = [
        LayerTime("model.1.conv/WithoutBiases", "Convolution", 1.0),
        LayerTime("model.1.act.output_quantizer.quantize", "QuantizeLinear", 0.25),
        LayerTime("model.10.conv_nchwc", "Conv", 2.0),
        LayerTime("conv2d_3_nchwc", "Conv", 4.0),
        LayerTime("model.2.m.0.cv1.conv_token_3", "QLinearConv", 8.0),
        LayerTime("node_cat_9", "Concat", 16.0),
    ]
    times = times_of_layers(profile, LAYERS, {"model.2.m.0": "conv2d_3"})
    assert times == {"model.1.conv": 1.25, "model.10.conv": 2.0, "model.2.m.0": 4.0, "model.2.m.0.cv1.conv": 8.0}


def test_layers_that_float_runs_faster_come_first_then_the_dearest_errors():
    costs = {"a": 1.0, "b": 4.0, "c": 3.0, "d": 0.1}
    gains = {"a": 0.1, "b": 2.0, "c": -0.5, "d": -1.0}
    assert by_value(costs, gains) == (["d", "c", "a", "b"], 2)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_layer_of_both_files_is_found(runtime, tmp_path):
    pytest.importorskip(runtime)
    quantized = quantized_detector(get_target(runtime), float_outputs=False, float_inputs=False)
    calibrate(quantized, [images(2)])
    plain = from_module(SmallNetwork().eval(), RowsHead(), names=tuple("abcd"), strides=(4, 8), input_size=SIZE)
    paths = tmp_path / "float.onnx", tmp_path / "integer.onnx"
    for detector, path in zip((plain, quantized), paths, strict=True):
        export_onnx(detector, path)
    names = [name.removesuffix(".weight_quantizer") for name, _ in quantized.quantizers() if name.endswith("weight_quantizer")]
    for path in paths:
        times = times_in_file(path, runtime, names, threads=1)
        assert len(times) == 6
        assert all(milliseconds > 0.0 for milliseconds in times.values())
