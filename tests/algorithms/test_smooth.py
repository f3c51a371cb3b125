"""Smoothing through whatever hands channels on, and where multiplications stand that it puts in."""

import pytest
import torch
from torch import nn

from small_networks import images
from yoloquant.algorithms.bias_correction import _importance, _robust_mean
from yoloquant.algorithms.smooth import _gain, smooth
from yoloquant.data.images import to_input
from yoloquant.graph.capture import capture, layer_name
from yoloquant.graph.channel_links import free_stretches
from yoloquant.graph.interpret import observe
from yoloquant.graph.operators import kind
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers
from yoloquant.targets.registry import TARGETS, get_target

SIZE = (32, 32)


class Shuffled(nn.Module):
    """What mobile networks are made of: depthwise layers, a gate, a concat, a shuffle, halves, a sum. Some channels stand out."""

    def __init__(self, activation: type[nn.Module]):
        super().__init__()
        torch.manual_seed(5)
        self.first, self.act = nn.Conv2d(3, 8, 3, 2, 1), activation()
        self.deep = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.squeeze, self.expand = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.grouped = nn.Conv2d(8, 8, 1, groups=2)
        self.wide = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 6, 1)
        self.head = nn.ModuleList([nn.Conv2d(6, 9, 1), nn.Conv2d(6, 9, 1)])
        with torch.no_grad():
            for layer in (self.first, self.deep, self.left):
                layer.weight[2] *= 40
            for layer in (self.deep, self.squeeze, self.wide):
                layer.weight[2 if layer.groups > 1 else slice(None), slice(None) if layer.groups > 1 else 2] /= 40
        self.eval()

    def forward(self, x):
        x = self.act(self.first(x))
        y = self.deep(x)
        gate = torch.sigmoid(self.expand(torch.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        y = self.act(self.grouped(y * gate))
        both = self.wide(torch.cat([x, y], 1))
        n, c, h, w = both.shape
        shuffled = both.reshape(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        left, right = shuffled.chunk(2, 1)
        added = self.left(left) + self.act(self.right(right))
        return [self.head[0](added), self.head[1](nn.functional.max_pool2d(added, 2))]


ACTIVATIONS = [nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.SiLU, nn.Hardswish]


def reaches(graph_module):
    """Node name -> how far each channel reaches, of values of four axes."""
    found = {}

    def look(node, value):
        if node.op == "call_function" and isinstance(value, torch.Tensor) and value.dim() == 4:
            found[node.name] = value.abs().transpose(0, 1).flatten(1).amax(1)

    observe(graph_module, [images(2)], look)
    return found


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_answers_stay_and_channels_become_alike(activation, before):
    network = Shuffled(activation)
    plain, smoothed = capture(network, SIZE, 8), capture(network, SIZE, 8)
    names = smooth(smoothed, [images(2), images(1, seed=3)], min_gain=1.0, before_activations=before)
    assert len(names) >= 5
    x = to_input(images(2, seed=9))
    with torch.no_grad():
        for found, expected in zip(smoothed(x), network(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)

    def unevenness(graph_module, name):
        reach = reaches(graph_module)[name]
        return float(reach.max() / reach.median())

    # A depthwise layer alone reads the concat: its channels become alike entirely, except that ReLU cuts what they reach.
    assert unevenness(plain, "cat") > 8
    assert unevenness(smoothed, "cat") < 1.5
    multiplications = [layer_name(node) for node in smoothed.graph.nodes if "multiplier" in layer_name(node)]
    assert any(name.startswith("act") for name in multiplications) == (activation in (nn.SiLU, nn.Hardswish))


@pytest.mark.parametrize("activation", [nn.SiLU, nn.Hardswish])
def test_what_depthwise_layers_make_or_read_has_a_threshold_of_its_own(activation):
    graph_module = capture(Shuffled(activation), SIZE, 8)
    never = {"min_gain": 1e9, "min_free_gain": 1e9}
    assert smooth(graph_module, [images(2)], **never) == {}
    smoothed = smooth(graph_module, [images(2)], **never, min_depthwise_gain=1.0)
    # Depthwise layers read the activations of these two, and of nothing that is added or expanded.
    assert {name.split(".")[0] for name in smoothed} == {"first", "grouped", "act"}


def test_dead_channels_make_no_other_stand_out():
    reach = torch.tensor([0.0, 0.0, 0.0, 2.0, 3.0, 5.0])
    assert _gain(reach) == pytest.approx(5 / 3)
    assert _gain(torch.zeros(4)) == 1.0


def test_all_ways_of_a_channel_have_one_label():
    graph_module = capture(Shuffled(nn.ReLU), SIZE, 8)
    stretches = free_stretches(graph_module, to_input(images(1)))
    (through,) = [stretch for stretch in stretches if any(layer_name(made.node) == "wide" for made in stretch.makers)]
    labels = {layer_name(read.node): read.labels for read in through.readers}
    made = next(made.labels for made in through.makers if layer_name(made.node) == "wide")
    # Even channels of a shuffle by two are the first half of what went in.
    shuffled = torch.stack([made[:8], made[8:]], 1).flatten()
    assert torch.equal(labels["left"], shuffled[:8])
    assert torch.equal(labels["right"], shuffled[8:])
    added = next(stretch for stretch in stretches if any(layer_name(read.node) == "head.0" for read in stretch.readers))
    assert {layer_name(made.node) for made in added.makers} == {"left", "right"}
    assert {layer_name(read.node) for read in added.readers} == {"head.0", "head.1"}


class Bound(nn.Module):
    """Values that must keep their scale: squared, shifted by a constant, or the network's own outputs."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 6, 6, 1) for i in range(4))

    def forward(self, x):
        squared = self.layers[0](x)
        shifted = self.layers[1](squared * squared)
        answer = self.layers[2](shifted + 0.5)
        return [answer, self.layers[3](answer)]


def test_values_that_nothing_may_scale_are_left_alone():
    graph_module = capture(Bound().eval(), SIZE, 8)
    assert free_stretches(graph_module, to_input(images(1))) == []
    assert smooth(graph_module, [images(2)], min_gain=1.0) == {}


def smoothed_detector(target):
    graph_module = capture(Shuffled(nn.Hardswish), SIZE, 8)
    chosen = get_target(target)
    smooth(graph_module, [images(2)], min_gain=1.0, before_activations=not chosen.fuses_activations)
    placement = chosen.place(graph_module, None)
    insert_quantizers(graph_module, placement)
    return QuantizedDetector(graph_module, placement, None, (), (8,), SIZE, "small")


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_no_quantizer_stands_between_an_activation_and_its_multiplications(target):
    detector = smoothed_detector(target)
    multiplications = 0
    for node in detector.network.graph.nodes:
        if not (node.op == "call_function" and "multiplier" in layer_name(node)):
            continue
        multiplications += 1
        if "input_multiplier" in layer_name(node):
            assert [kind(user) for user in node.users] == ["activation"]
        else:
            assert kind(node.args[0]) == "activation"
    assert multiplications >= 2


def test_errors_before_a_multiplication_are_weighed_by_the_slope_behind_it():
    network = Shuffled(nn.SiLU)
    graph_module = capture(network, SIZE, 8)
    smooth(graph_module, [images(2)], min_gain=1.0)
    (node,) = [node for node in graph_module.graph.nodes if layer_name(node) == "first" and kind(node) == "conv"]
    (product,) = node.users
    factors = graph_module.get_buffer(str(product.args[1].target))
    assert factors.max() > 4 * factors.min()
    values = torch.linspace(-1, 1, 8 * 5).view(1, 8, 5, 1)
    found = _importance(graph_module, node, values)
    varied = values.clone().requires_grad_()
    nn.functional.silu(varied * factors).sum().backward()
    # A factor that all values of a channel have in common changes no weighed mean.
    torch.testing.assert_close(found * factors**2, varied.grad**2)


def test_clipped_values_do_not_move_the_bias_of_all_others():
    torch.manual_seed(0)
    errors = torch.randn(2, 3, 10, 10) * 0.1 + torch.tensor([0.2, -0.1, 0.0]).view(1, 3, 1, 1)
    clipped = errors.clone()
    clipped[0, 1, 0, :3] = 80.0
    kept = errors.clone()
    kept[0, 1, 0, :3] = torch.nan
    torch.testing.assert_close(_robust_mean(errors, 1, None), errors.mean((0, 2, 3)), atol=2e-3, rtol=0)
    torch.testing.assert_close(_robust_mean(clipped, 1, None), kept.nanmean((0, 2, 3)), atol=2e-3, rtol=0)
    weights = torch.rand(2, 3, 10, 10)
    expected = (errors * weights).sum((0, 2, 3)) / weights.sum((0, 2, 3))
    torch.testing.assert_close(_robust_mean(errors, 1, weights), expected, atol=3e-3, rtol=0)
