"""What is done to weights and ranges before rounding: equalisation, and ranges that count weights by their inputs."""

import pytest
import torch
from torch import nn

from small_networks import SIZE, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate, to_input
from yoloquant.algorithms.detection_ranges import choose_ranges_by_detections
from yoloquant.algorithms.equalize import equalize
from yoloquant.algorithms.weight_ranges import choose_weight_ranges, input_powers
from yoloquant.analysis import error_cost
from yoloquant.errors import RecipeError
from yoloquant.graph.capture import capture
from yoloquant.quant.network import QuantizedDetector, insert_quantizers
from yoloquant.recipe import load_recipe
from yoloquant.targets.registry import get_target


class Outliers(nn.Module):
    """Two layers as re-parameterised RepVGG blocks leave them: nearly all weights small, and a few that are 500 times as large,
    each on a
    channel of inputs that is nearly dead."""

    def __init__(self, activation=nn.ReLU):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.act, self.second = nn.Conv2d(3, 32, 3, padding=1), activation(), nn.Conv2d(32, 16, 3, padding=1)
        with torch.no_grad():
            self.first.weight[:4] *= 1e-3
            self.first.bias[:4] *= 1e-3
            self.second.weight.normal_(0.0, 0.01)
            self.second.weight[:, :4, 1, 1] = 5.0 * torch.randn(16, 4).sign()

    def forward(self, x):
        return [self.second(self.act(self.first(x)))]


def signal_to_noise(detector, network):
    x = to_input(images(4, seed=9))
    with torch.no_grad():
        expected, found = network(x)[0], detector.network(x)[0]
    return float(10 * torch.log10(expected.var() / (expected - found).square().mean()))


def weights_only(_layer, tensor, spec):
    return spec.with_changes(observer="absmax") if tensor == "weights" else None


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_outliers_of_repvgg_ruin_absmax_and_ranges_by_output_error_cure_them(granularity):
    network = Outliers(nn.SiLU).eval()

    def choose(layer, tensor, spec):
        chosen = weights_only(layer, tensor, spec)
        return chosen and chosen.with_changes(granularity=granularity)

    detector = quantized_detector(get_target("reference"), network, choose=choose)
    calibrate(detector, [images(4)])
    assert signal_to_noise(detector, network) < 10
    changes = choose_weight_ranges(detector, [images(4)])
    assert signal_to_noise(detector, network) > 25
    assert changes["second"] < 0.1 < changes["first"]


def test_inputs_are_weighed_by_their_mean_square():
    network = Outliers().eval()
    detector = quantized_detector(get_target("reference"), network, choose=weights_only)
    calibrate(detector, [images(4)])
    powers = {node.meta["layer"]: power for node, power in input_powers(detector, [images(2), images(2, seed=2)]).items()}
    x = to_input(torch.cat([images(2), images(2, seed=2)]))
    with torch.no_grad():
        inner = network.act(network.first(x))
    torch.testing.assert_close(powers["first"], x.square().mean((0, 2, 3)))
    torch.testing.assert_close(powers["second"], inner.square().mean((0, 2, 3)))


def test_equalisation_cures_outliers_behind_relu():
    network = Outliers().eval()
    graph_module = capture(network, SIZE, 8)
    assert equalize(graph_module) == {"first": "second"}
    placement = get_target("reference").place(graph_module, weights_only)
    insert_quantizers(graph_module, placement)
    detector = QuantizedDetector(graph_module, placement, None, (), (8,), SIZE, "small")
    calibrate(detector, [images(4)])
    assert signal_to_noise(detector, network) > 25


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU, nn.SiLU, nn.ReLU6])
def test_equalisation_keeps_the_answers_and_evens_out_ranges(activation):
    network = SmallNetwork(activation)
    graph_module = capture(network, SIZE, 8)
    pairs = equalize(graph_module)
    x = to_input(images(2))
    with torch.no_grad():
        for found, expected in zip(graph_module(x), capture(network, SIZE, 8)(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    if activation in (nn.SiLU, nn.ReLU6):
        assert pairs == {}
        return
    # Between deep and its head stands only pooling; shallow values are also read by the addition and the concat.
    assert pairs == {"stem.conv": "down.conv"}
    first = graph_module.get_parameter("stem.conv.weight").abs().flatten(1).amax(1)
    second = graph_module.get_parameter("down.conv.weight").abs().transpose(0, 1).flatten(1).amax(1)
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-6)


def test_order_of_steps_is_checked():
    recipe = load_recipe("int8-mse", ["algorithms=[equalize, calibrate, weight_ranges]"])
    assert [step.name for step in recipe.algorithms] == ["equalize", "calibrate", "weight_ranges"]
    with pytest.raises(RecipeError, match="equalize must come first"):
        load_recipe("int8-mse", ["algorithms=[calibrate, equalize]"])
    with pytest.raises(RecipeError, match="first algorithm must be calibrate"):
        load_recipe("int8-mse", ["algorithms=[weight_ranges, calibrate]"])


@pytest.mark.parametrize("power_of_two", [False, True])
def test_ranges_by_detections_mend_a_range_that_is_too_wide(power_of_two):
    def choose(_layer, tensor, spec):
        return spec.with_changes(power_of_two=power_of_two, observer="minmax", bits=5 if tensor == "activations" else 8)

    detector = quantized_detector(get_target("reference"), choose=choose)
    calibrate(detector, [images(4)])
    quantizers = dict(detector.quantizers())
    name = "down.act.output_quantizer" if "down.act.output_quantizer" in quantizers else "add.output_quantizer"
    before = quantizers[name].scale.clone()
    quantizers[name].set_parameters(before * 4, quantizers[name].zero_point)
    cost = error_cost(detector, images(3))
    spoiled = cost(detector)
    changed = choose_ranges_by_detections(detector, images(3), (0.25, 0.5, 2.0))
    assert changed[name] < 1.0
    assert cost(detector) < spoiled
    if power_of_two:
        assert all(float(quantizer.scale.max().log2()) % 1 == 0 for quantizer in quantizers.values())
