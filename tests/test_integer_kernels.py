"""What a placement says is in integers is what the runtimes compute in integers, by their own optimised graphs."""

import pytest
import torch
from torch import nn

from small_families import SMALL_FAMILIES, small_detector, small_images
from small_networks import SIZE, ConvBlock, RowsHead, SmallNetwork, images
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.layer_figures import float_reasons
from yoloquant.check.findings import check_file
from yoloquant.checkpoint.read import read_detector
from yoloquant.export.onnx_file import export_onnx
from yoloquant.export.quantized_folder import captured
from yoloquant.graph.capture import capture
from yoloquant.quant.network import QuantizedDetector, insert_quantizers
from yoloquant.quant.observers import OBSERVERS
from yoloquant.recipe import load_recipe
from yoloquant.runtime.executed import executed_layers
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
    detector = QuantizedDetector(graph_module, placement, RowsHead(), ("a", "b", "c", "d"), (4, 8), SIZE, "small")
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


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(activation, runtime, tmp_path):
    pytest.importorskip(runtime)
    detector = exported(SmallNetwork(ACTIVATIONS[activation]), runtime, tmp_path / "model.onnx")
    assert_executed_as_placed(detector, tmp_path / "model.onnx", runtime, 3)


@pytest.mark.parametrize("observer", ["mse", "entropy"])
@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_a_merged_activation_stays_merged_with_every_observer(activation, observer, tmp_path):
    assert observer in OBSERVERS
    pytest.importorskip("onnxruntime")
    detector = exported(SmallNetwork(ACTIVATIONS[activation]), "onnxruntime", tmp_path / "model.onnx", observer)
    assert_executed_as_placed(detector, tmp_path / "model.onnx", "onnxruntime")


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
    reasons = float_reasons(detector.network, load_recipe("int8-minmax"), get_target(runtime), ())
    assert ("no integer kernel" if runtime == "onnxruntime" else "never negative") in reasons["up"]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_last_layers_run_in_integers_where_a_recipe_quantizes_them(runtime, tmp_path):
    pytest.importorskip(runtime)
    detector = exported(SmallNetwork(nn.ReLU), runtime, tmp_path / "model.onnx", float_outputs=False)
    assert_executed_as_placed(detector, tmp_path / "model.onnx", runtime, 5)


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


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", SMALL_FAMILIES)
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
