"""`.tflite` files: operators against ONNX Runtime, integers against what was quantized, layers against torch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper

from small_families import small_detector, small_images
from small_graphs import graph, ints, node
from small_networks import images as random_images
from small_networks import quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.errors import CheckpointError, ExportError
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.formats.registry import FORMATS
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.exporting.tflite.convert import convert
from yoloquant.runtime.litert_runner import LiteRtRunner, executed_in_litert
from yoloquant.targets.registry import get_target

interpreter = pytest.importorskip("ai_edge_litert.interpreter")
schema = pytest.importorskip("ai_edge_litert.schema_py_generated")

GENERATOR = np.random.default_rng(0)


def random(*shape):
    return GENERATOR.standard_normal(shape).astype(np.float32)


CASES = {
    "conv": ([node("Conv", "w", "b")], {"w": random(5, 8, 1, 1), "b": random(5)}),
    "conv padded alike": ([node("Conv", "w", pads=[1, 1, 1, 1])], {"w": random(5, 8, 3, 3)}),
    "conv of stride 2": ([node("Conv", "w", pads=[1, 1, 1, 1], strides=[2, 2])], {"w": random(5, 8, 3, 3)}),
    "conv of stride 2, wide": ([node("Conv", "w", pads=[2, 2, 2, 2], strides=[2, 2])], {"w": random(5, 8, 6, 6)}),
    "conv in groups": ([node("Conv", "w", pads=[1, 1, 1, 1], group=2)], {"w": random(6, 4, 3, 3)}),
    "depthwise": ([node("Conv", "w", pads=[1, 1, 1, 1], group=8)], {"w": random(8, 1, 3, 3)}),
    "depthwise with two outputs each": ([node("Conv", "w", pads=[2, 2, 2, 2], group=8)], {"w": random(16, 1, 5, 5)}),
    "dilated": ([node("Conv", "w", pads=[2, 2, 2, 2], dilations=[2, 2])], {"w": random(5, 8, 3, 3)}),
    "transposed": ([node("ConvTranspose", "w", "b", strides=[2, 2])], {"w": random(8, 5, 2, 2), "b": random(5)}),
    "transposed, padded": ([node("ConvTranspose", "w", strides=[2, 2], pads=[1, 1, 1, 1])], {"w": random(8, 5, 4, 4)}),
    "max pool": ([node("MaxPool", kernel_shape=[5, 5], pads=[2, 2, 2, 2])], {}),
    "max pool of stride 2": ([node("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])], {}),
    "average pool": ([node("AveragePool", kernel_shape=[2, 2])], {}),
    "twice as large": (
        [node("Resize", "", "s", mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor")],
        {"s": np.array([1, 1, 2, 2], np.float32)},
    ),
    "every second pixel": (
        [node("Slice", "from", "to", "axes", "steps")],
        {"from": ints(1, 0), "to": ints(2**31, 2**31), "axes": ints(2, 3), "steps": ints(2, 2)},
    ),
    "cap": ([node("Clip", "low", "high")], {"low": np.float32(-0.5), "high": np.float32(0.25)}),
    "softmax of channels": ([node("Softmax", axis=1)], {}),
    "channel constant": ([node("Mul", "c")], {"c": random(1, 8, 1, 1)}),
    "reshape of a map": ([node("Reshape", "shape")], {"shape": ints(1, 2, 4, -1)}),
    "mean of the map": ([node("ReduceMean", "axes", keepdims=1)], {"axes": ints(2, 3)}),
    "other order": ([node("Transpose", perm=[0, 2, 1, 3])], {}),
    "leaky": ([node("LeakyRelu", alpha=0.1)], {}),
    "concat of channels": ([helper.make_node("Concat", ["x", "x"], ["y"], axis=1)], {}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_is_onnx_runtimes(case, tmp_path):
    path = tmp_path / "one.onnx"
    onnx.save(graph(*CASES[case]), str(path))
    x = random(1, 8, 13, 10)
    (expected,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": x})
    found = run(convert(path), x)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def run(content, x, **options):
    made = interpreter.Interpreter(model_content=content, **options)
    made.allocate_tensors()
    made.set_tensor(made.get_input_details()[0]["index"], np.ascontiguousarray(x.transpose(0, 2, 3, 1)))
    made.invoke()
    return made.get_tensor(made.get_output_details()[0]["index"])


def test_an_operator_that_there_is_none_for_is_named(tmp_path):
    onnx.save(graph([node("Erf")], {}), str(tmp_path / "one.onnx"))
    with pytest.raises(ExportError, match=r"format tflite has no operator for Erf \(layer\)"):
        convert(tmp_path / "one.onnx")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    detector = quantized_detector(get_target("tflite"))
    calibrate(detector, [random_images(4)])
    path = tmp_path_factory.mktemp("tflite") / "small.tflite"
    FORMATS["tflite"].write(detector, "tflite", path)
    return detector, path


def test_the_file_holds_the_integers_scales_and_zero_points_of_the_folder(made):
    detector, path = made
    (tensors,) = (graph.tensors for graph in schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).subgraphs)
    buffers = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0).buffers
    by_name = {tensor.name.decode(): tensor for tensor in tensors}
    for layer in detector.quantized_weights():
        tensor = by_name[f"{layer.node.meta['layer']}.weight"]
        scale = layer.quantizer.scale.reshape(-1, 1, 1, 1)
        expected = torch.clamp(torch.round(layer.weight.detach() / scale), -127, 127).to(torch.int8).permute(0, 2, 3, 1)
        found = np.asarray(buffers[tensor.buffer].data, np.uint8).view(np.int8).reshape(tensor.shape)
        np.testing.assert_array_equal(found, expected.numpy())
        np.testing.assert_array_equal(tensor.quantization.scale, layer.quantizer.scale.numpy())
    activations = [(name, quantizer) for name, quantizer in detector.quantizers() if not quantizer.of_weight]
    known = [(name, quantizer) for name, quantizer in activations if name in by_name]
    assert len(known) > len(activations) // 2
    for name, quantizer in known:
        assert by_name[name].quantization.scale[0] == float(quantizer.scale)
        assert by_name[name].quantization.zeroPoint[0] == int(quantizer.zero_point)


def test_its_kernels_compute_what_onnx_runtimes_do(made, tmp_path):
    detector, path = made
    export_onnx(detector, tmp_path / "small.onnx", target="tflite", dynamic_batch=False)
    x = random_images(1, seed=3).numpy().astype(np.float32) / 255
    session = onnxruntime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"images": x})
    assert signal_to_noise(expected, run(path.read_bytes(), x)) > 30


def test_all_layers_are_in_integers_and_images_come_one_by_one(made):
    _, path = made
    found = executed_in_litert(path)
    assert (len(found.integer), found.floating) == (6, ())
    runner = LiteRtRunner(path)
    x = random_images(2, seed=3).numpy().astype(np.float32) / 255
    np.testing.assert_array_equal(runner(x), np.concatenate([runner(x[:1]), runner(x[1:])]))


def test_a_float_network_can_be_converted_too(tmp_path):
    detector = small_detector("yolov8n")
    export_onnx(detector, tmp_path / "float.onnx", dynamic_batch=False)
    x = small_images(1).numpy().astype(np.float32) / 255
    with torch.inference_mode():
        expected = detector(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(run(convert(tmp_path / "float.onnx"), x), expected, rtol=1e-3, atol=1e-3)


def test_a_file_of_another_maker_is_told_apart(made, tmp_path):
    path = tmp_path / "other.tflite"
    path.write_bytes(made[1].read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="holds no metadata of yoloquant"):
        LiteRtRunner(path)
