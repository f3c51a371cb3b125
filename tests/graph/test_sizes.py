"""Sizes that layers take from tensors: they are no readers, wherever the graph is folded, cut, placed or drawn."""

import pytest
import torch
from torch import nn

from small_networks import SIZE, ConvBlock, RowsHead, images
from yoloquant.algorithms.bias_correction import correct_biases
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.equalize import equalize
from yoloquant.algorithms.reconstruction.reconstruct import reconstruct
from yoloquant.algorithms.reconstruction.regions import UNITS, computing_nodes, find_regions, region_module
from yoloquant.algorithms.reconstruction.step import Reconstruct
from yoloquant.algorithms.smooth import smooth
from yoloquant.analysis.costs import noise_along
from yoloquant.data.images import to_input
from yoloquant.graph.capture import block_name, capture, copy_graph
from yoloquant.graph.operators import kind
from yoloquant.graph.sizes import is_size
from yoloquant.models.layer_stack import assemble, settle_norms
from yoloquant.models.ultralytics.attention import C2PSA, AreaAttention, Attention, PSABlock
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers
from yoloquant.report.network_graph import network_drawing
from yoloquant.targets.placement import input_layers
from yoloquant.targets.registry import TARGETS, get_target
from yoloquant.training.quantized.objectives import block_outputs

STRIDE = 8


def plain(inputs, outputs, kernel=1, groups=1):
    """Convolution and BatchNorm without an activation."""
    block = ConvBlock(inputs, outputs, kernel, activation=nn.Identity)
    block.conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, groups=groups, bias=False)
    return block


def attention(channels):
    parts = {
        "qkv": plain(channels, 2 * channels),
        "proj": plain(channels, channels),
        "pe": plain(channels, channels, 3, channels),
    }
    return assemble(
        Attention(), num_heads=2, key_dim=channels // 4, head_dim=channels // 2, scale=(channels // 4) ** -0.5, **parts
    )


def area_attention(channels):
    parts = {
        "qkv": plain(channels, 3 * channels),
        "proj": plain(channels, channels),
        "pe": plain(channels, channels, 3, channels),
    }
    return assemble(AreaAttention(), num_heads=2, head_dim=channels // 2, area=4, **parts)


class AttentionNetwork(nn.Module):
    """Stride 8, with attention over all cells and within stripes, as YOLO11 and YOLOv12 have them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        ffn = nn.Sequential(ConvBlock(16, 32, 1), plain(32, 16))
        block = assemble(PSABlock(), add=True, attn=attention(16), ffn=ffn)
        c2psa = assemble(C2PSA(), cv1=ConvBlock(32, 32, 1), cv2=ConvBlock(32, 32, 1), m=nn.Sequential(block))
        down = [
            ConvBlock(3, 8, stride=2, activation=nn.ReLU),
            ConvBlock(8, 16, stride=2, activation=nn.ReLU),
            ConvBlock(16, 32, stride=2),
        ]
        self.model = nn.Sequential(*down, c2psa, area_attention(32), nn.Conv2d(32, 9, 1))
        for module in settle_norms(self).modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(std=0.1)
                module.running_var.uniform_(0.2, 0.5)
                module.bias.data.normal_(std=0.1)
        self.eval()

    def forward(self, x):
        return [self.model(x)]


class UnfoldableNorm(nn.Module):
    """A BatchNorm behind an activation, which no convolution before it can take up."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = ConvBlock(3, 8, stride=2)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Conv2d(8, 9, 1)
        self.norm.running_mean.normal_()
        self.eval()

    def forward(self, x):
        return [self.head(self.norm(self.stem(x)))]


@pytest.fixture(scope="module")
def captured():
    return capture(AttentionNetwork(), SIZE, STRIDE)


def calibrated(captured):
    """The network with quantizers, and the float one."""
    network, placement = copy_graph(captured), get_target("onnxruntime").place(captured)
    insert_quantizers(network, placement)
    detector = QuantizedDetector(network, placement, RowsHead(), ("a", "b", "c", "d"), (STRIDE,), SIZE, "small")
    calibrate(detector, [images(4)])
    return detector


def test_sizes_are_taken_from_the_image_and_every_norm_is_folded(captured):
    measured = {node.args[0].op for node in captured.graph.nodes if node.target is torch.ops.aten.sym_size.int}
    assert measured == {"placeholder"}
    assert not any(kind(node) == "batch_norm" for node in captured.graph.nodes)
    network = AttentionNetwork()
    for shape in [(1, 3, *SIZE), (3, 3, 32, 64), (2, 3, 96, 32)]:
        x = torch.rand(shape)
        torch.testing.assert_close(captured(x)[0], network(x)[0], rtol=1e-4, atol=1e-5)


def test_sizes_that_no_layer_has_alone_are_computed_from_the_image():
    class Ends(nn.Module):
        """A pooled map whose sides are rounded, beside a map that is as large."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, 2, 1, bias=False)
            self.bn = nn.BatchNorm2d(4).eval()

        def forward(self, x):
            y = nn.functional.max_pool2d(self.bn(self.conv(x)), 3, 3)
            return [y.reshape(y.shape[0], 2 * y.shape[2] * y.shape[3], 2) + (y.shape[2] + 1) % 3]

    network = Ends().eval()
    captured = capture(network, (64, 64), 8)
    assert {node.args[0].op for node in captured.graph.nodes if node.target is torch.ops.aten.sym_size.int} == {"placeholder"}
    for shape in [(1, 3, 64, 64), (2, 3, 32, 40)]:
        x = torch.rand(shape)
        torch.testing.assert_close(captured(x)[0], network(x)[0])


@pytest.mark.parametrize("unit", UNITS)
def test_regions_compute_sizes_from_their_own_inputs(captured, unit):
    network = calibrated(captured).network
    regions = find_regions(network, unit, 2)
    assert [node for region in regions for node in region.nodes] == computing_nodes(network)
    x = to_input(images(3))
    values = {next(node.name for node in network.graph.nodes if node.op == "placeholder"): x}
    for number, region in enumerate(regions):
        assert not any(is_size(node) for node in (*region.nodes, *region.inputs, *region.outputs))
        # The image is large: where a region does not read it, it is not kept for its size.
        assert number == 0 or all(node.op != "placeholder" for node in region.inputs)
        with torch.no_grad():
            answers = region_module(network, region)(*(values[node.name] for node in region.inputs))
        values.update(zip((node.name for node in region.outputs), answers, strict=True))
    with torch.no_grad():
        expected = network(x)
    last = next(node for node in network.graph.nodes if node.op == "output").all_input_nodes[0]
    assert torch.equal(values[last.name], expected[0])


def test_features_that_teach_are_tensors(captured):
    names = block_outputs(captured, 1)
    nodes = {node.name: node for node in captured.graph.nodes}
    assert [nodes[name].meta["val"].dim() for name in names] == [4] * 5


def test_only_what_sees_the_image_is_a_first_layer(captured):
    assert input_layers(captured) == {"model.0.conv"}


@pytest.mark.parametrize("target", TARGETS)
def test_views_that_take_the_same_sizes_do_not_share_a_scale(captured, target):
    placement = get_target(target).place(captured)
    nodes = {node.name: node for node in captured.graph.nodes}
    assert not any(is_size(nodes[name]) for edge in placement.edges for name in (edge.producer, edge.consumer))
    blocks: dict[str, set[str]] = {}
    for edge, name in placement.edges.items():
        # Between the two attentions a convolution stands, over which no scale is shared.
        blocks.setdefault(name, set()).add(block_name(nodes[edge.producer].meta["layer"]))
    assert not [name for name, found in blocks.items() if {"model.3", "model.4"} <= found]


def test_scaling_passes_sizes_by(captured):
    scaled, x = copy_graph(captured), to_input(images(2))
    assert "model.0.conv" in equalize(scaled, 2)
    assert smooth(scaled, [images(2)], min_gain=1.0)
    torch.testing.assert_close(scaled(x)[0], captured(x)[0], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind_of_network", ["attention", "unfoldable norm"])
def test_steps_that_walk_the_graph_run(captured, kind_of_network):
    reference = captured if kind_of_network == "attention" else capture(UnfoldableNorm(), SIZE, 2)
    detector = calibrated(reference)
    weights = {name: parameter.detach().clone() for name, parameter in detector.network.named_parameters()}
    correct_biases(detector, images(2))
    for loss, unit in (("mse", "region"), ("fisher", "block")):
        settings = Reconstruct(unit=unit, loss=loss, iterations=2, batch_size=2)
        results = reconstruct(detector, reference, images(4), settings)
        assert all(result.after <= result.before for result in results)
    noise = noise_along(detector, images(1), weights)
    assert set(noise) == {node.meta["layer"] for node in detector.network.graph.nodes if kind(node) == "conv"}
    drawing = network_drawing(detector.network, {}, {})
    nodes = {node.name: node for node in detector.network.graph.nodes}
    assert not any(is_size(nodes[name]) for name in drawing.boxes)
