"""Files in half precision: types of every value by ONNX's own inference, and outputs against those in 32 bits."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from small_families import SMALL_FAMILIES, small_detector, small_images
from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.cli import app
from yoloquant.errors import ExportError
from yoloquant.evaluation.parity import signal_to_noise
from yoloquant.exporting.half_precision import to_half
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.flows.export import export
from yoloquant.runtime.registry import open_onnx
from yoloquant.targets.registry import get_target

HALF, SINGLE = TensorProto.FLOAT16, TensorProto.FLOAT
WEIGHTED = ("Conv", "ConvTranspose", "MatMul", "Gemm")
QUICK = ("yolov5n", "yolov8n")


def types_of(path):
    """The file, and the type of every value by its name."""
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    types = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)}
    return graph, {**types, **{tensor.name: tensor.data_type for tensor in graph.initializer}}


def check_types(path):
    graph, types = types_of(path)
    layers = [node for node in graph.node if node.op_type in WEIGHTED]
    assert layers
    for node in layers:
        assert {types[name] for name in (*node.input, *node.output) if name} == {HALF}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert types[node.input[1]] == HALF
    assert {types[value.name] for value in (*graph.input, *graph.output)} == {SINGLE}


@pytest.fixture(scope="module")
def quantized():
    detector = quantized_detector(get_target("tensorrt"))
    calibrate(detector, [images(4)])
    return detector


def test_a_quantized_file_has_half_scales_and_layers(quantized, tmp_path):
    export_onnx(quantized, tmp_path / "single.onnx", target="tensorrt")
    export_onnx(quantized, tmp_path / "half.onnx", target="tensorrt", half=True)
    check_types(tmp_path / "half.onnx")
    integers = [
        {tensor.name: numpy_helper.to_array(tensor) for tensor in onnx.load(str(path)).graph.initializer if tensor.data_type == 3}
        for path in (tmp_path / "single.onnx", tmp_path / "half.onnx")
    ]
    assert integers[0].keys() == integers[1].keys()
    for name, content in integers[0].items():
        np.testing.assert_array_equal(content, integers[1][name])
    x = images(2).numpy().astype(np.float32) / 255
    assert signal_to_noise(open_onnx(tmp_path / "single.onnx")(x), open_onnx(tmp_path / "half.onnx")(x)) > 35


@pytest.mark.parametrize("family", [f if f in QUICK else pytest.param(f, marks=pytest.mark.slow) for f in SMALL_FAMILIES])
def test_a_family_in_half_precision_finds_the_same(family, tmp_path):
    detector = small_detector(family)
    # It compares with the file in 32 bits itself; detections that the file picks may change their order.
    export(detector, tmp_path / "half.onnx", half=True)
    check_types(tmp_path / "half.onnx")
    if detector.head.layout != "rows_final":
        export_onnx(detector, tmp_path / "single.onnx")
        x = small_images(1, first=9).numpy().astype(np.float32) / 255
        assert signal_to_noise(open_onnx(tmp_path / "single.onnx")(x), open_onnx(tmp_path / "half.onnx")(x)) > 35


def test_boxes_are_decoded_in_32_bits(tmp_path):
    """Half precision counts pixels above 512 in halves; boxes of the file have finer places than that."""
    export_onnx(small_detector("yolov8n"), tmp_path / "half.onnx", input_size=(640, 640), half=True)
    x = small_images(1, side=640).numpy().astype(np.float32) / 255
    boxes = open_onnx(tmp_path / "half.onnx")(x)[0, :4]
    far = boxes[boxes > 512]
    assert far.size
    assert np.any(far != far.astype(np.float16))


def test_a_file_that_finds_something_else_is_refused(tmp_path):
    detector = small_detector("yolov8n")
    first = next(module for module in detector.network.modules() if hasattr(module, "conv"))
    # Activations beyond 65504 in the second layer; weights are not.
    first.conv.weight.data *= 3e4
    first.bn.running_var.data.fill_(1.0)
    first.bn.weight.data.fill_(1.0)
    with pytest.raises(ExportError, match=r"half precision changes what the network finds|beyond half precision"):
        export(detector, tmp_path / "half.onnx", half=True)
    assert list(tmp_path.glob("*.onnx")) == []


def test_a_weight_beyond_half_precision_is_named():
    weight = numpy_helper.from_array(np.full((1, 1, 1, 1), 1e5, np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", SINGLE, [1, 1, 4, 4])],
        [helper.make_tensor_value_info("y", SINGLE, None)],
        [weight],
    )
    with pytest.raises(ExportError, match=r"w holds 1e\+05, beyond half precision"):
        to_half(helper.make_model(graph))


def test_no_scale_becomes_zero(quantized, tmp_path):
    layer = next(quantized.quantized_weights())
    kept = layer.quantizer.scale.detach().clone()
    layer.quantizer.scale.data.reshape(-1)[0] = 1e-9
    export_onnx(quantized, tmp_path / "half.onnx", target="tensorrt", half=True)
    layer.quantizer.scale.data.copy_(kept)
    graph, _ = types_of(tmp_path / "half.onnx")
    scales = {node.input[1] for node in graph.node if node.op_type == "DequantizeLinear"}
    for tensor in graph.initializer:
        assert tensor.name not in scales or (numpy_helper.to_array(tensor) > 0).all()


def test_the_command_writes_it_and_refuses_what_does_not_go_together(tmp_path):
    weights = tmp_path / "float.safetensors"
    save_detector(small_detector("yolov8n"), weights)
    done = CliRunner().invoke(app, ["export", str(weights), "--output", str(tmp_path / "half.onnx"), "--half"])
    assert done.exit_code == 0
    check_types(tmp_path / "half.onnx")
    result = CliRunner().invoke(app, ["export", str(weights), "--output", str(tmp_path / "x.onnx"), "--half", "--opset", "18"])
    assert isinstance(result.exception, ExportError)
    assert "choose 19 or later" in str(result.exception)
