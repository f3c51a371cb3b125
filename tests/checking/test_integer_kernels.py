"""What a placement says is in integers is what the runtimes compute in integers, by their own optimised graphs."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from small_families import SMALL_FAMILIES, small_detector, small_images
from small_networks import SIZE, ConvBlock, RowsHead, SmallNetwork, images
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.checking.findings import check_file
from yoloquant.checking.integer_layers import merged_activation
from yoloquant.checking.qdq_graph import QdqGraph
from yoloquant.checking.repair import repair
from yoloquant.checkpoint.read import read_detector
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture, captured
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers
from yoloquant.runtime.executed_layers import executed_layers
from yoloquant.targets.registry import get_target

RUNTIMES = ("onnxruntime", "openvino")
ACTIVATIONS = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "hardtanh": nn.Hardtanh,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),
    "prelu": nn.PReLU,
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "mish": nn.Mish,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
    "tanh": nn.Tanh,
    "none": nn.Identity,
}


class EveryActivation(nn.Module):
    """One convolution before each activation, one behind the other."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = ConvBlock(3, 8, stride=8)
        self.blocks = nn.Sequential(*(ConvBlock(8, 8, activation=activation) for activation in ACTIVATIONS.values()))
        self.head = nn.ModuleList([nn.Conv2d(8, 9, 1)])
        self.eval()

    def forward(self, x):
        return [self.head[0](self.blocks(self.stem(x)))]


class Fusion(nn.Module):
    """As YOLOv6's BiFusion: a concat of two ReLUs and a transposed convolution, whose values may be negative."""

    def __init__(self, activation: type[nn.Module] = nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.stem = ConvBlock(3, 8, stride=4, activation=activation)
        self.fine = ConvBlock(8, 8, activation=activation)
        self.deep = ConvBlock(8, 8, stride=2, activation=activation)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.pool = nn.MaxPool2d(3, 1, 1)
        self.join = ConvBlock(24, 8, activation=activation)
        self.head = nn.ModuleList([nn.Conv2d(8, 9, 1), nn.Conv2d(8, 9, 1)])
        self.eval()

    def forward(self, x):
        fine = self.fine(self.stem(x))
        deep = self.deep(fine)
        joined = self.join(torch.cat([self.pool(fine), fine, self.up(deep)], 1))
        # A layer in float reads what the layer before has to quantize for itself.
        return [self.head[0](joined), self.head[1](deep)]


def exported(network, target, path, observer="minmax", **place):
    """A small network quantized and written: its detector."""
    graph_module = capture(network, SIZE, 8)
    placement = get_target(target).place(
        graph_module, lambda _layer, kind, spec: spec if kind == "weights" else spec.with_changes(observer=observer), **place
    )
    insert_quantizers(graph_module, placement)
    detector = QuantizedDetector(graph_module, placement, RowsHead(), ("a", "b", "c", "d"), (8,), SIZE, "small")
    calibrate(detector, [images(2)])
    export_onnx(detector, path, target=target)
    return detector


def placed(detector):
    return sum(1 for _ in detector.quantized_weights())


def assert_executed_as_placed(detector, path, runtime, least=1):
    executed = executed_layers(path, runtime)
    assert executed.in_vain == ()
    assert len(executed.integer) == placed(detector) >= least
    checked = check_file(path, runtime)
    assert (checked.integer_layers, checked.layers) == (placed(detector), len(executed.integer) + len(executed.floating))
    assert {finding.kind for finding in checked.findings} <= {"float-layer"}


@pytest.mark.parametrize(
    ("runtime", "observer"),
    [("onnxruntime", "minmax"), ("onnxruntime", "mse"), ("onnxruntime", "entropy"), ("openvino", "minmax")],
)
def test_every_activation(runtime, observer, tmp_path):
    pytest.importorskip(runtime)
    detector = exported(EveryActivation(), runtime, tmp_path / "model.onnx", observer)
    assert_executed_as_placed(detector, tmp_path / "model.onnx", runtime, len(ACTIVATIONS))


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("activation", ["relu", "relu6", "silu"])
def test_relus_and_a_transposed_convolution_in_one_concat(activation, runtime, tmp_path):
    pytest.importorskip(runtime)
    network = Fusion(ACTIVATIONS[activation])
    detector = exported(network, runtime, tmp_path / "model.onnx")
    assert_executed_as_placed(detector, tmp_path / "model.onnx", runtime)
    # OpenVINO has an integer kernel where the input has no zero point, ONNX Runtime none.
    in_integers = runtime == "openvino" and activation != "silu"
    assert ("up.weight_quantizer" in detector.placement.specs) == in_integers
    if in_integers:
        assert "up" not in detector.placement.kept_float
    else:
        expected = "no integer kernel" if runtime == "onnxruntime" else "never negative"
        assert expected in detector.placement.kept_float["up"].because


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_last_layers_run_in_integers_where_a_recipe_quantizes_them(runtime, tmp_path):
    pytest.importorskip(runtime)
    detector = exported(SmallNetwork(nn.ReLU), runtime, tmp_path / "model.onnx", float_outputs=False)
    assert_executed_as_placed(detector, tmp_path / "model.onnx", runtime, 5)


def layer_of(graph, name):
    return next(node for node in graph.weighted() if node.name == name)


def quantizer_behind(graph, name):
    """The QuantizeLinear behind a layer's merged activation."""
    return graph.quantizers_behind(merged_activation(graph, layer_of(graph, name)).output[0])[0]


def set_constant(model, name, array):
    next(tensor for tensor in model.graph.initializer if tensor.name == name).CopyFrom(numpy_helper.from_array(array, name))


def plant_zero_point(model):
    """As one scale for ReLUs and a value that may be negative gives it."""
    graph = QdqGraph(model)
    set_constant(model, quantizer_behind(graph, "fine.conv").input[2], np.uint8(61))


def plant_wide_scale(model):
    """Integers that stand for more than the cap of a ReLU6."""
    graph = QdqGraph(model)
    set_constant(model, quantizer_behind(graph, "deep.conv").input[1], np.float32(0.05))


def plant_float_reader(model):
    graph = QdqGraph(model)
    layer_of(graph, "up").input[0] = merged_activation(graph, layer_of(graph, "deep.conv")).output[0]


def plant_second_quantizer(model):
    graph = QdqGraph(model)
    first = quantizer_behind(graph, "deep.conv")
    second, dequantize = onnx.NodeProto(), onnx.NodeProto()
    second.CopyFrom(first)
    dequantize.CopyFrom(graph.readers[first.output[0]][0])
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.01), "second_scale"))
    second.name, second.output[0], second.input[1], dequantize.input[1] = "second", "second_integers", *["second_scale"] * 2
    dequantize.name, dequantize.input[0], dequantize.output[0] = "second_dequantize", "second_integers", "second_value"
    position = list(model.graph.node).index(first)
    model.graph.node.insert(position, dequantize)
    model.graph.node.insert(position, second)
    layer_of(graph, "up").input[0] = "second_value"


def plant_integer_weight(model):
    """A transposed convolution's weight as integers."""
    graph = QdqGraph(model)
    layer = layer_of(graph, "up")
    weight = graph.constants[layer.input[1]]
    scale = np.abs(weight).max((0, 2, 3)) / np.float32(127)
    parts = (np.rint(weight / scale[:, None, None]).astype(np.int8), scale, np.zeros(len(scale), np.int8))
    names = ["planted_integers", "planted_scale", "planted_zero"]
    model.graph.initializer.extend(numpy_helper.from_array(part, name) for part, name in zip(parts, names, strict=True))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", names, ["planted"], name="planted", axis=1))
    layer.input[1] = "planted"


PLANTED = [
    (plant_zero_point, "relu", "not-merged", True),
    (plant_wide_scale, "relu6", "not-merged", False),
    (plant_float_reader, "relu", "output-not-quantized", True),
    (plant_second_quantizer, "relu", "output-quantized-twice", False),
    (plant_integer_weight, "relu", "no-integer-kernel", True),
]


def assert_check_counts_as_executed(path, runtime):
    checked, executed = check_file(path, runtime), executed_layers(path, runtime)
    assert (checked.integer_layers, checked.layers) == (len(executed.integer), len(executed.integer) + len(executed.floating))
    return {finding.kind for finding in checked.findings}


def output_of(model):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"images": images(1).numpy().astype(np.float32) / 255})[0]


@pytest.mark.parametrize(("plant", "activation", "kind", "fixable"), PLANTED)
def test_what_keeps_a_layer_in_float_is_found_and_mended(plant, activation, kind, fixable, tmp_path):
    path = tmp_path / "model.onnx"
    exported(Fusion(ACTIVATIONS[activation]), "onnxruntime", path)
    model = onnx.load(str(path))
    before = output_of(model)
    plant(model)
    onnx.save(model, str(path))
    assert kind in assert_check_counts_as_executed(path, "onnxruntime")
    mended, done = repair(model, get_target("onnxruntime"))
    assert (kind in {finding.kind for finding in done}) == fixable
    onnx.save(mended, str(path))
    assert (kind in assert_check_counts_as_executed(path, "onnxruntime")) == (not fixable)
    if fixable:
        assert executed_layers(path, "onnxruntime").in_vain == ()
        # The planted weight was rounded; all else is as it was.
        np.testing.assert_allclose(output_of(mended), before, atol=0.02 if plant is plant_integer_weight else 1e-6)


@pytest.mark.parametrize(
    ("target", "runtime"), [("openvino", "onnxruntime"), ("reference", "onnxruntime"), ("reference", "openvino")]
)
@pytest.mark.parametrize("activation", ["relu", pytest.param("silu", marks=pytest.mark.slow), "leaky_relu"])
def test_check_counts_files_of_other_targets_as_their_runtime_does(activation, target, runtime, tmp_path):
    pytest.importorskip(runtime)
    exported(Fusion(ACTIVATIONS[activation]), target, tmp_path / "model.onnx")
    assert_check_counts_as_executed(tmp_path / "model.onnx", runtime)


FILES = (
    "yolov5n_v70_custom5.pt",
    "yolov6n_w12.pt",
    "yolov6s_repopt_w12.pt",
    "yolov7-tiny_w25.pt",
    "yolov7_training_w12.pt",
    "yolov8n_w12.pt",
    "yolo11n_w12.pt",
)


def assert_network_executed_as_placed(source, pixels, runtime, path):
    graph_module = captured(source)
    placement = get_target(runtime).place(graph_module)
    insert_quantizers(graph_module, placement)
    detector = QuantizedDetector(
        graph_module,
        placement,
        source.head,
        source.names,
        source.strides,
        source.input_size,
        source.family,
        source.preprocessing,
    )
    calibrate(detector, [pixels])
    export_onnx(detector, path, target=runtime)
    assert_executed_as_placed(detector, path, runtime, 20)


def families():
    """Each family in each runtime; by default those that planted the faults."""
    for name in SMALL_FAMILIES:
        for runtime in RUNTIMES:
            fast = (name, runtime) in {("yolov7-tiny", "onnxruntime"), ("yolov6n", "openvino")}
            yield pytest.param(name, runtime, marks=[] if fast else [pytest.mark.slow])


@pytest.mark.parametrize(("name", "runtime"), list(families()))
def test_every_family(name, runtime, tmp_path):
    pytest.importorskip(runtime)
    assert_network_executed_as_placed(small_detector(name), small_images(2), runtime, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", FILES)
def test_every_family_file(name, runtime, shared, tmp_path):
    pytest.importorskip(runtime)
    source = read_detector(shared / "checkpoints" / name)
    source.input_size = (160, 160)
    assert_network_executed_as_placed(source, small_images(2, 160), runtime, tmp_path / "model.onnx")
