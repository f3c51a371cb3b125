"""What is done to weights and ranges before rounding: equalisation, and ranges that count weights by their inputs."""

import onnxruntime
import pytest
import torch
from torch import nn

from small_networks import SIZE, RowsHead, SmallNetwork, images, quantized_detector
from yoloquant.algorithms.bias_correction import correct_biases, correct_biases_fast, reestimate_batch_norm
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.detection_ranges import choose_ranges_by_detections
from yoloquant.algorithms.equalize import equalize
from yoloquant.algorithms.smooth import smooth
from yoloquant.algorithms.weight_ranges import choose_weight_ranges, input_powers
from yoloquant.analysis.costs import error_cost
from yoloquant.analysis.detection_error import DetectionCost, detection_error
from yoloquant.checkpoint.safetensors_file import CUSTOM
from yoloquant.data.images import to_input
from yoloquant.errors import RecipeError
from yoloquant.exporting.folder import load_quantized, save_quantized
from yoloquant.exporting.onnx_export import export_onnx
from yoloquant.graph.capture import capture, captured
from yoloquant.graph.channel_constants import constants, put_back
from yoloquant.models.detector import Detector
from yoloquant.quant.quantized_detector import QuantizedDetector, insert_quantizers, quantized_from
from yoloquant.recipe.recipe import load_recipe
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
    if activation is nn.SiLU:
        assert pairs == {}
        return
    # Between deep and its head stands only pooling; shallow values are also read by the addition and the concat.
    assert pairs == {"stem.conv": "down.conv"}
    first = graph_module.get_parameter("stem.conv.weight").abs().flatten(1).amax(1)
    second = graph_module.get_parameter("down.conv.weight").abs().transpose(0, 1).flatten(1).amax(1)
    torch.testing.assert_close(first, second, rtol=1e-2, atol=1e-6)


def test_caps_of_relu6_are_scaled_with_their_channels():
    network = SmallNetwork(nn.ReLU6)
    graph_module = capture(network, SIZE, 8)
    before = graph_module.get_parameter("stem.conv.weight").detach().clone()
    equalize(graph_module)
    (cap,) = (buffer for name, buffer in graph_module.named_buffers() if name.endswith("cap_values"))
    scale = (before / graph_module.get_parameter("stem.conv.weight").detach()).flatten(1)[:, 0]
    torch.testing.assert_close(cap.flatten(), 6.0 / scale)
    again = capture(network, SIZE, 8)
    put_back(again, constants(graph_module))
    again.load_state_dict(graph_module.state_dict())
    x = to_input(images(2))
    with torch.no_grad():
        for found, expected in zip(again(x), network(x), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


class Uneven(nn.Module):
    """A value with one channel that reaches 50 times as far as the others, read by two convolutions."""

    def __init__(self, activation):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.act = nn.Conv2d(3, 16, 3, padding=1), activation()
        self.a, self.b = nn.Conv2d(16, 9, 1), nn.Conv2d(16, 9, 3, padding=1)
        with torch.no_grad():
            self.first.weight[5] *= 50
            self.a.weight[:, 5] /= 50
            self.b.weight[:, 5] /= 50

    def forward(self, x):
        x = self.act(self.first(x))
        return [self.a(x), self.b(x)]


@pytest.mark.parametrize("activation", [nn.ReLU, nn.ReLU6, nn.SiLU])
def test_smoothing_keeps_the_answers_and_spares_the_other_channels(activation):
    network = Uneven(activation).eval()
    plain, graph_module = capture(network, SIZE, 8), capture(network, SIZE, 8)
    smoothed = smooth(graph_module, [images(2)])
    # SiLU takes no scale through: the values before and behind it are smoothed each by themselves.
    assert len(smoothed) == (2 if activation is nn.SiLU else 1)
    assert any(node.target == torch.ops.aten.mul.Tensor for node in graph_module.graph.nodes) == (activation is nn.SiLU)
    x = to_input(images(2, seed=5))
    noise = []
    for found in (plain, graph_module):
        with torch.no_grad():
            for answer, expected in zip(found(x), network(x), strict=True):
                torch.testing.assert_close(answer, expected, rtol=1e-3, atol=1e-3)
        placement = get_target("reference").place(found, lambda layer, tensor, spec: None if tensor == "weights" else spec)
        insert_quantizers(found, placement)
        detector = QuantizedDetector(found, placement, None, (), (8,), SIZE, "small")
        calibrate(detector, [images(2)])
        noise.append(signal_to_noise(detector, network))
    # ReLU6 caps the outlier before smoothing has a say.
    assert noise[1] > noise[0] + (6 if activation is not nn.ReLU6 else -1)


def test_the_scale_of_smoothing_is_that_of_the_paper():
    network = Uneven(nn.ReLU).eval()
    graph_module = capture(network, SIZE, 8)
    smooth(graph_module, [images(2), images(2, seed=2)], alpha=0.7)
    x = to_input(torch.cat([images(2), images(2, seed=2)]))
    with torch.no_grad():
        reach = network.act(network.first(x)).amax((0, 2, 3))
        weights = torch.cat([network.a.weight.flatten(2), network.b.weight.flatten(2)], 2).abs().amax((0, 2))
    scale = reach**0.7 / weights**0.3
    torch.testing.assert_close(
        graph_module.get_parameter("a.weight").detach(), network.a.weight.detach() * scale.view(1, -1, 1, 1)
    )


def corrupted_weights(bits=3):
    """A small detector whose weights alone are quantized, coarsely."""

    def choose(_layer, tensor, spec):
        return spec.with_changes(bits=bits, granularity="channel") if tensor == "weights" else None

    network = SmallNetwork(nn.ReLU)
    return quantized_detector(get_target("reference"), network, choose=choose), network


def channel_moments(network, x):
    with torch.no_grad():
        return [(raw.mean((0, 2, 3)), raw.std((0, 2, 3))) for raw in network(x)]


@pytest.mark.parametrize("correct", [correct_biases, correct_biases_fast, reestimate_batch_norm])
def test_corrections_bring_back_the_means_and_reestimation_the_spreads(correct):
    detector, network = corrupted_weights()
    calibrate(detector, [images(8)])
    x = to_input(images(8))
    expected, before = channel_moments(network, x), channel_moments(detector.network, x)
    correct(detector, [images(8)] if correct is correct_biases_fast else images(8))
    after = channel_moments(detector.network, x)

    def error(moments, which):
        return sum(float((a[which] - b[which]).abs().mean()) for a, b in zip(expected, moments, strict=True))

    if correct is correct_biases_fast:
        # Borders, where padding takes the place of the mean, are not seen.
        assert error(after, 0) < 0.6 * error(before, 0)
    else:
        assert error(after, 0) < 1e-4
    if correct is reestimate_batch_norm:
        assert error(after, 1) < 1e-3 < error(before, 1)


def test_fast_correction_is_the_error_of_the_weight_times_the_mean_input():
    detector, network = corrupted_weights()
    calibrate(detector, [images(4)])
    before = detector.network.get_parameter("head.1.bias").detach().clone()
    correct_biases_fast(detector, [images(2), images(2, seed=2)])
    x = to_input(torch.cat([images(2), images(2, seed=2)]))
    with torch.no_grad():
        shallow = network.down(network.stem(x))
        mean = network.pool(network.deep(shallow + network.residual(shallow))).mean((0, 2, 3))
        (layer,) = (layer for layer in detector.quantized_weights() if layer.node.meta["layer"] == "head.1")
        error = (layer.quantizer(layer.weight) - layer.weight).flatten(1)
    torch.testing.assert_close(detector.network.get_parameter("head.1.bias").detach(), before - error @ mean)


def test_integers_stay_when_batch_norm_is_estimated_again():
    detector, _ = corrupted_weights()
    calibrate(detector, [images(4)])

    def integers():
        return [
            (layer.quantizer(layer.weight) / layer.quantizer.scale.view(-1, 1, 1, 1)).round()
            for layer in detector.quantized_weights()
        ]

    before = integers()
    reestimate_batch_norm(detector, images(4))
    assert all(torch.equal(a, b) for a, b in zip(before, integers(), strict=True))


def test_order_of_steps_is_checked():
    recipe = load_recipe("int8-mse", ["algorithms=[equalize, calibrate, weight_ranges]"])
    assert [step.name for step in recipe.algorithms] == ["equalize", "calibrate", "weight_ranges"]
    with pytest.raises(RecipeError, match="equalize must come before calibrate"):
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


def test_after_learning_errors_are_those_against_the_float_network():
    network = SmallNetwork()
    detector, reference = quantized_detector(get_target("reference"), network), capture(network, SIZE, 8)
    calibrate(detector, [images(4)])
    with torch.no_grad():
        detector.network.get_parameter("head.0.weight").mul_(0.5)
        wanted, answered = (detector.head.candidates(list(n(to_input(images(3))))) for n in (reference, detector.network))
    boxes, scores = detection_error(wanted, answered)
    against_float = DetectionCost(detector, images(3), reference)()
    assert against_float == pytest.approx(float(boxes + scores), rel=1e-3)
    assert DetectionCost(detector, images(3))() < against_float / 2


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.SiLU])
def test_constants_of_channels_survive_folders_and_files(tmp_path, activation):
    network = Uneven(activation).eval()
    detector = Detector(network, RowsHead(), ("a", "b", "c", "d"), (1, 1), SIZE, CUSTOM)
    reference = captured(detector)
    smooth(reference, [images(2)])
    placement = get_target("reference").place(reference, None)
    quantized = quantized_from(detector, placement, reference)
    calibrate(quantized, [images(2)])
    save_quantized(quantized, detector, tmp_path / "quantized.safetensors")
    again = load_quantized(tmp_path, detector)
    x = to_input(images(2, seed=7))
    with torch.no_grad():
        expected = quantized(x)
        torch.testing.assert_close(again(x), expected)
    export_onnx(quantized, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"images": x.numpy()})
    # A value on the edge between two integers may fall to either side.
    assert (abs(found - expected.numpy()) > 1e-3).mean() < 0.01
