"""Exported files against the torch model, in ONNX Runtime and OpenVINO."""

import importlib.util
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from small_networks import SIZE, RowsHead, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.bias_correction import correct_biases
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.analysis.lockstep import lockstep
from yoloquant.data.images import to_input
from yoloquant.errors import ExportError, YoloquantError
from yoloquant.evaluation.file_contents import file_faults
from yoloquant.evaluation.layer_comparison import compare_layers
from yoloquant.evaluation.parity import Parity, check_parity, first_disagreement, require_parity, signal_to_noise
from yoloquant.exporting.fused_silu import fuse_silu
from yoloquant.exporting.lowering import DOMAIN, OP_TYPE, lower_fake_quantize
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.models.detector import Detector
from yoloquant.models.onnx.metadata import ModelMetadata, names_of
from yoloquant.runtime.registry import open_onnx
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.spec import TensorSpec
from yoloquant.targets.registry import TARGETS, get_target

with_openvino = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="openvino is not installed")


def calibrated(target, network=None, **place):
    detector = quantized_detector(get_target(target), network, **place)
    calibrate(detector, images(8).split(4))
    return detector


@pytest.mark.parametrize("target", list(TARGETS))
@pytest.mark.parametrize("activation", [nn.SiLU, nn.ReLU, nn.LeakyReLU])
def test_onnx_runtime_answers_as_torch(target, activation, tmp_path):
    detector = calibrated(target, SmallNetwork(activation))
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target=target)
    x = to_input(images(3, seed=5)).contiguous().numpy()
    runner = open_onnx(path)
    assert runner.batch_size is None
    assert signal_to_noise(TorchRunner(detector)(x), runner(x)) > 40
    assert runner.names == detector.names
    assert runner.input_size == SIZE
    assert not file_faults(detector, path)
    assert all(difference.agrees for difference in compare_layers(detector, path, x[:1]))


@with_openvino
@pytest.mark.parametrize("target", ["onnxruntime", "openvino", "reference"])
def test_openvino_answers_as_torch(target, tmp_path):
    detector = calibrated(target)
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target=target)
    (result,) = check_parity(detector, path, to_input(images(2, seed=5)).contiguous().numpy(), ["openvino"])
    assert result.signal_to_noise > 35


def test_weights_are_stored_as_integers(tmp_path):
    detector = calibrated("tensorrt", float_outputs=False)
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target="tensorrt")
    model = onnx.load(str(path))
    large = {entry.name: entry for entry in model.graph.initializer if np.prod(entry.dims) > 100}
    assert large
    assert all(entry.data_type == onnx.TensorProto.INT8 for entry in large.values())
    zero_points = [entry for entry in model.graph.initializer if entry.name.endswith("zero_point")]
    assert zero_points
    assert all(not onnx.numpy_helper.to_array(entry).any() for entry in zero_points)
    producers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert [producers[name].op_type for name in node.input[:2]] == ["DequantizeLinear"] * 2
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("bits", [2, 3, 4, 6])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group"])
def test_low_bit_weights_and_activations(bits, granularity, tmp_path):
    def choose(layer, tensor, spec):
        if tensor == "activations":
            return spec.with_changes(bits=6)
        group = 8 if granularity == "group" else 0
        return TensorSpec(bits=bits, symmetric=False, granularity=granularity, group_size=group, observer="mse")

    detector = calibrated("reference", choose=choose)
    path = tmp_path / "model.onnx"
    export_onnx(detector, path, target="reference")
    x = to_input(images(2, seed=5)).contiguous().numpy()
    assert signal_to_noise(TorchRunner(detector)(x), open_onnx(path)(x)) > 40


def test_float_export_and_fixed_batch(tmp_path):
    network = SmallNetwork()
    detector = Detector(network, RowsHead(), ("a", "b", "c", "d"), (4, 8), SIZE, "small")
    path = tmp_path / "float.onnx"
    export_onnx(detector, path, dynamic_batch=False)
    runner = open_onnx(path)
    assert runner.batch_size == 1
    x = torch.rand(1, 3, *SIZE)
    with torch.no_grad():
        np.testing.assert_allclose(runner(x.numpy()), detector(x).numpy(), atol=1e-5)
    with pytest.raises(ExportError, match="opset 11"):
        export_onnx(detector, path, opset=11)
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_file_is_found_out_and_the_layer_named(tmp_path):
    detector = calibrated("openvino")
    path = tmp_path / "model.onnx"
    export_onnx(detector, path)
    model = onnx.load(str(path))
    for entry in model.graph.initializer:
        if entry.name == "residual.act.output_quantizer.scale":
            entry.CopyFrom(onnx.numpy_helper.from_array(np.float32(7.0), entry.name))
    onnx.save(model, str(path))
    x = to_input(images(2, seed=5)).contiguous().numpy()
    (result,) = check_parity(detector, path, x, ["onnxruntime"])
    assert not result.agrees
    assert result.first_layer == "residual.act.output_quantizer"
    with pytest.raises(ExportError, match=r"residual\.act\.output_quantizer has scale 7 instead of 0"):
        require_parity([result])
    with pytest.raises(ExportError, match=r"starts at residual\.act"):
        require_parity([replace(result, problem=None)])
    require_parity([Parity("onnxruntime", 60.0)])
    assert first_disagreement(detector, path, x[:1], "onnxruntime") == "residual.act.output_quantizer"


def test_signal_to_noise_formula():
    signal = np.array([3.0, 4.0])
    assert signal_to_noise(signal, signal) == float("inf")
    assert signal_to_noise(signal, signal * 1.1) == pytest.approx(20.0)


def test_calibration_needs_images_and_finite_answers():
    with pytest.raises(YoloquantError, match="no calibration images"):
        calibrate(quantized_detector(get_target("reference")), [])
    network = SmallNetwork()
    network.stem.conv.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(YoloquantError, match="NaN or infinity"):
        calibrate(quantized_detector(get_target("reference"), network), [images(1)])


def test_calibration_takes_the_extremes_of_the_float_network():
    """MinMax scales equal those from hooks on the float network."""
    network = SmallNetwork()
    seen = []
    network.down.conv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    target = get_target("reference")
    detector = quantized_detector(
        target, SmallNetwork(), choose=lambda _l, _t, spec: spec.with_changes(observer="minmax", options={})
    )
    batches = images(6).split(2)
    calibrate(detector, batches)
    for batch in batches:
        network(to_input(batch))
    values = torch.cat(seen)
    scale = dict(detector.quantizers())["stem.act.output_quantizer"].scale.item()
    assert scale == pytest.approx(float((values.max() - values.min()).detach()) / 255, rel=1e-5)


def mean_of_near(errors, weights=None):
    """Weighed mean of each channel without what is more than five mean absolute deviations from the mean, channel by channel."""
    found = []
    for channel in range(errors.shape[1]):
        values = errors[:, channel].flatten().double().detach().numpy()
        counts = np.ones_like(values) if weights is None else weights[:, channel].flatten().double().detach().numpy()
        distances = abs(values - np.average(values, weights=counts))
        near = distances <= 5 * np.average(distances, weights=counts)
        found.append(np.average(values[near], weights=counts[near]))
    return np.array(found)


def test_bias_correction_takes_the_mean_error_away():
    choose = lambda _l, tensor, spec: spec.with_changes(bits=3 if tensor == "weights" else 8)  # noqa: E731
    network = SmallNetwork()
    detector = calibrated("reference", network, choose=choose)
    batch = images(8)
    expected = network(to_input(batch))
    before = [mean_of_near(a - b) for a, b in zip(expected, detector.network(to_input(batch)), strict=True)]
    correct_biases(detector, batch)
    after = [mean_of_near(a - b) for a, b in zip(expected, detector.network(to_input(batch)), strict=True)]
    for old, new in zip(before, after, strict=True):
        assert abs(new).max() < 1e-5
        assert abs(old).max() > 1e-3
    # The float network is untouched.
    for old, new in zip(expected, network(to_input(batch)), strict=True):
        assert torch.equal(old, new)


def test_bias_correction_weighs_errors_by_the_squared_slope_of_the_activation():
    """Normal equation of the least-squares shift at the output of SiLU, whose slope is s + x s (1 - s), s the sigmoid of x."""
    network = SmallNetwork()
    network.residual.bn.weight.data *= 20.0
    choose = lambda _l, tensor, spec: spec.with_changes(bits=3 if tensor == "weights" else 8)  # noqa: E731
    detector = calibrated("reference", network, choose=choose)
    batch = images(8)
    correct_biases(detector, batch)
    with torch.no_grad():
        x = network.residual.bn(network.residual.conv(network.down(network.stem(to_input(batch)))))
    for node, _, quantized in lockstep(detector.network, to_input(batch)):
        if node.meta["layer"] == "residual.conv" and node.op == "call_function":
            error = x - quantized[node]
    slope = x.sigmoid() * (1 + x * (1 - x.sigmoid()))
    assert abs(mean_of_near(error, slope.square())).max() < 1e-3
    assert error.mean((0, 2, 3)).abs().max() > 0.05


def test_metadata_survives_and_is_read_by_others():
    metadata = ModelMetadata(("a", "it's"), (8, 16), (64, 96), "yolov5", "rows_objectness", "tensorrt", {"k": 1})
    properties = metadata.to_properties()
    assert ModelMetadata.from_properties(properties) == metadata
    assert names_of(properties) == ("a", "it's")
    assert properties["stride"] == "16"
    assert ModelMetadata.from_properties({}) is None
    assert names_of({"names": "{0: 'x'"}) is None


def test_openvino_files_have_no_second_pair_behind_what_only_moves_values(tmp_path):
    detector = calibrated("openvino", float_outputs=False)
    export_onnx(detector, tmp_path / "every.onnx", target="tensorrt")
    export_onnx(detector, tmp_path / "openvino.onnx", target="openvino")
    models = [onnx.load(str(tmp_path / name)) for name in ("every.onnx", "openvino.onnx")]
    counts = [sum(node.op_type == "QuantizeLinear" for node in model.graph.node) for model in models]
    # The pool's, the upsampling's and the concat's answers have readers that quantized them once more.
    assert counts[0] - counts[1] == 3
    producers = {name: node.op_type for node in models[1].graph.node for name in node.output}
    assert "Concat" in {producers.get(node.input[0]) for node in models[1].graph.node if node.op_type == "Conv"}
    x = to_input(images(2, seed=5)).contiguous().numpy()
    every, fewer = (open_onnx(tmp_path / name)(x) for name in ("every.onnx", "openvino.onnx"))
    np.testing.assert_array_equal(every, fewer)


@with_openvino
def test_openvino_takes_any_batch_of_a_free_one(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(calibrated("openvino"), path, target="openvino")
    runner = open_onnx(path, "openvino")
    assert runner.batch_size is None
    x = to_input(images(3, seed=5)).contiguous().numpy()
    together, first = runner(x), runner(x[:1])
    # A later call does not change an earlier answer.
    kept = first.copy()
    runner(x[1:2])
    np.testing.assert_array_equal(first, kept)
    assert signal_to_noise(together[:1], first) > 40
    runner.close()
    with pytest.raises(RuntimeError, match="closed"):
        runner(x)


def test_silu_is_one_operator_in_files_for_onnxruntime(tmp_path):
    detector = calibrated("onnxruntime")
    export_onnx(detector, tmp_path / "split.onnx")
    export_onnx(detector, tmp_path / "fused.onnx", target="onnxruntime")
    split, fused = (
        [node.op_type for node in onnx.load(str(tmp_path / name)).graph.node] for name in ("split.onnx", "fused.onnx")
    )
    # Four activations; the head's sigmoid is none.
    assert (fused.count("QuickGelu"), split.count("Sigmoid") - fused.count("Sigmoid")) == (4, 4)
    x = to_input(images(2, seed=5)).contiguous().numpy()
    answers = [open_onnx(tmp_path / name)(x) for name in ("split.onnx", "fused.onnx")]
    assert signal_to_noise(*answers) > 60


def cut_at_silu(quantized):
    """A network that ends in a SiLU, whose output a Shape reads, too, as where a dynamic ONNX file is cut before its head."""
    images, output, size = (ir.val(name, ir.DataType.FLOAT, (2, 4)) for name in ("images", "map_0", "size"))
    size.type = ir.TensorType(ir.DataType.INT64)
    sigmoid = ir.node("Sigmoid", [images])
    nodes = [sigmoid, ir.node("Mul", [images, sigmoid.outputs[0]], outputs=[output])]
    last, initializers = output, []
    if quantized:
        scale, zero = np.array(0.02, np.float32), np.array(3, np.int32)
        for name, array in (("scale", scale), ("zero", zero)):
            initializers.append(
                ir.val(
                    name, const_value=ir.tensor(array, name=name), shape=ir.Shape(()), type=ir.TensorType(ir.tensor(array).dtype)
                )
            )
        output.name, last = "silu", ir.val("map_0", ir.DataType.FLOAT, (2, 4))
        attributes = {"quant_min": 0, "quant_max": 255, "axis": -1, "group_size": 0, "name": "act.output_quantizer"}
        nodes.append(ir.node(OP_TYPE, [output, *initializers], attributes, domain=DOMAIN, outputs=[last]))
    nodes.append(ir.node("Shape", [last], outputs=[size]))
    opsets = {"": 18, DOMAIN: 1}
    graph = ir.Graph([images], [last, size], nodes=nodes, initializers=initializers, opset_imports=opsets, name="cut")
    return ir.Model(graph, ir_version=10)


@pytest.mark.parametrize("quantized", [False, True])
def test_a_silu_that_is_an_output_of_the_graph_keeps_its_name_and_its_values(quantized):
    model = cut_at_silu(quantized)
    assert lower_fake_quantize(model) == int(quantized)
    assert fuse_silu(model) == 1
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    assert [value.name for value in session.get_outputs()] == ["map_0", "size"]
    x = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    found, size = session.run(None, {"images": x})
    expected = x / (1 + np.exp(-x))
    if quantized:
        expected = (np.clip(np.rint(expected / 0.02) + 3, 0, 255) - 3) * 0.02
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert size.tolist() == [2, 4]


def test_a_sigmoid_that_is_an_output_of_the_graph_is_not_fused():
    model = cut_at_silu(False)
    model.graph.outputs.append(model.graph.node(0).outputs[0])
    assert fuse_silu(model) == 0


def test_what_torch_cannot_export_is_told_with_its_cause(tmp_path):
    class Failing(nn.Module):
        def forward(self, x):
            raise RuntimeError("the second map is missing")

    detector = Detector(Failing(), RowsHead(), ("a", "b", "c", "d"), (4, 8), SIZE, "custom")
    with pytest.raises(ExportError, match="cannot export this network to ONNX: the second map is missing"):
        export_onnx(detector, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
