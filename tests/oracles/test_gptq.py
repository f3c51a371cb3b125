"""GPTQ against its definition, solved afresh for every column, and against the error that a layer then really makes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from small_networks import SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.gptq import gptq, round_weights
from yoloquant.data.images import to_input
from yoloquant.errors import RecipeError
from yoloquant.graph.capture import layer_name
from yoloquant.quant.fake_quantize import passing
from yoloquant.recipe.recipe import resolve_recipe
from yoloquant.spec import TensorSpec
from yoloquant.targets.registry import get_target

DAMPING = 0.01


def problem(outputs, inputs, seed, low=-8, high=7):
    """Weights and the curvature of inputs that depend on each other, on a grid of 4 bits with a zero point."""
    drawn = torch.Generator().manual_seed(seed)
    mixed = torch.randn(4 * inputs, inputs, generator=drawn) @ torch.randn(inputs, inputs, generator=drawn)
    weight = torch.randn(outputs, inputs, generator=drawn)
    scale = (weight.amax(1) - weight.amin(1)).div(high - low).clamp(min=1e-3)[:, None].expand_as(weight)
    zero_point = torch.round(low - weight.amin(1, keepdim=True) / scale[:, :1]).expand_as(weight)
    return weight, (mixed.T @ mixed / len(mixed)), scale, zero_point


def to_grid(values, scale, zero_point, low=-8, high=7):
    return ((torch.round(values / scale) + zero_point).clamp(low, high) - zero_point) * scale


def error(change, curvature):
    return torch.einsum("ok,kl,ol->o", change, curvature, change)


def column_by_column(weight, curvature, scale, zero_point):
    """The definition: after each column the others take the values of least error, those rounded already given."""
    size = len(curvature)
    order = curvature.diagonal().argsort(descending=True).tolist()
    damped = curvature.double() + DAMPING * curvature.diagonal().double().mean() * torch.eye(size, dtype=torch.float64)
    weight, current = weight.double(), weight.double().clone()
    rounded = weight.clone()
    for position, column in enumerate(order):
        rounded[:, column] = to_grid(current[:, column], scale[:, column].double(), zero_point[:, column].double())
        done, rest = order[: position + 1], order[position + 1 :]
        if rest:
            change = rounded[:, done] - weight[:, done]
            best = torch.linalg.solve(damped[rest][:, rest], damped[rest][:, done] @ change.T)
            current[:, rest] = weight[:, rest] - best.T
    return rounded


@settings(max_examples=25, deadline=None)
@given(outputs=st.integers(1, 3), inputs=st.integers(1, 12), seed=st.integers(0, 1000))
def test_columns_are_rounded_as_the_definition_says(outputs, inputs, seed):
    given_ = problem(outputs, inputs, seed)
    found = gptq(*given_, -8, 7, damping=DAMPING).double()
    expected = column_by_column(*given_)
    # A tie that float32 and float64 round to either side leads to another answer, of the same error.
    same = (found - expected).abs().amax(1) < 1e-4
    assert (
        torch.where(same, 0.0, error(found - given_[0], given_[1].double()))
        .le(torch.where(same, 0.0, 1.001 * error(expected - given_[0], given_[1].double())))
        .all()
    )
    assert same.float().mean() > 0.5 or outputs < 3


def test_more_columns_than_a_block():
    weight, curvature, scale, zero_point = problem(2, 150, 0)
    found = gptq(weight, curvature, scale, zero_point, -8, 7, damping=DAMPING)
    expected = column_by_column(weight, curvature, scale, zero_point)
    nearest = error(to_grid(weight, scale, zero_point) - weight, curvature)
    left = error(found - weight, curvature)
    assert left.tolist() == pytest.approx(error(expected.float() - weight, curvature).tolist(), rel=0.3)
    assert (left < 0.5 * nearest).all()


def test_independent_inputs_leave_nothing_to_make_good():
    weight, curvature, scale, zero_point = problem(3, 9, 1)
    found = gptq(weight, torch.diag(curvature.diagonal()), scale, zero_point, -8, 7, damping=DAMPING)
    torch.testing.assert_close(found, to_grid(weight, scale, zero_point))


class Layers(nn.Module):
    """Convolutions of every shape: strided, dilated, grouped, depthwise, in rows."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.dilated = nn.Conv2d(8, 8, 3, 1, 2, dilation=2)
        self.grouped = nn.Conv2d(8, 12, (3, 1), (2, 1), (1, 0), groups=2)
        self.depthwise = nn.Conv2d(12, 12, 3, 1, 1, groups=12)
        self.row = nn.Linear(12, 6)
        self.up = nn.ConvTranspose2d(6, 4, 2, 2)
        self.eval()

    def forward(self, x):
        x = self.depthwise(self.grouped(self.dilated(self.stem(x).relu()).relu()).relu()).relu()
        return [self.up(self.row(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))]


def weight_spec(wanted):
    """Weights by a spec, activations as the target has them."""
    return lambda layer, tensor, spec: wanted if tensor == "weights" else spec


@pytest.mark.parametrize("weights", [TensorSpec(bits=4, narrow=True), TensorSpec(bits=4, granularity="tensor"),
                                     TensorSpec(bits=4, granularity="group", group_size=2, symmetric=False)])  # fmt: skip
def test_what_is_left_is_what_the_layer_makes(weights):
    """For each layer by itself, the variance of the error at its output, over all places, against that of rounding to nearest."""
    plain = Layers()
    for name in ("stem", "dilated", "grouped", "depthwise", "row"):
        detector = quantized_detector(get_target("reference"), Layers(), choose=weight_spec(weights))
        calibrate(detector, [images(4)])
        layers = {layer_name(layer.node): layer for layer in detector.quantized_weights()}
        nearest = layers[name].quantizer(layers[name].weight.detach()).clone()
        inputs = []
        plain.get_submodule(name).register_forward_pre_hook(lambda _, given, kept=inputs: kept.append(given[0]))
        # The float network's activations, as the network under test has them with its other quantizers passing.
        with torch.no_grad(), passing([each for _, each in detector.quantizers() if each is not layers[name].quantizer]):
            plain(to_input(images(4)))
            left = round_weights(detector, images(4), name, samples=20000, damping=DAMPING)[name]
        module, variance = plain.get_submodule(name), []
        for weight in (layers[name].weight.detach(), nearest):
            with torch.no_grad():
                change = weight - module.weight
                if isinstance(module, nn.Linear):
                    answer = (inputs[0] @ change.T).flatten(0, 2)
                else:
                    options = (None, module.stride, module.padding, module.dilation, module.groups)
                    answer = nn.functional.conv2d(inputs[0], change, *options).transpose(0, 1).flatten(1).T
            variance.append(answer.var(0).sum())
        assert left == pytest.approx(float(variance[0] / variance[1]), rel=0.15), name
        assert left < 1.0
        # What was rounded lies on the grid.
        torch.testing.assert_close(layers[name].quantizer(layers[name].weight.detach()), layers[name].weight.detach())


def test_layers_by_place_and_by_name():
    detector = quantized_detector(get_target("tensorrt"), SmallNetwork())
    calibrate(detector, [images(2)])
    assert set(round_weights(detector, images(2), "@first")) == {"stem.conv"}
    assert set(round_weights(detector, images(2), "d*.conv")) == {"down.conv", "deep.conv"}
    with pytest.raises(RecipeError, match="gptq: 'steem' matches no layer with a quantized weight: the nearest is 'stem"):
        round_weights(detector, images(2), "steem")
    kept = quantized_detector(get_target("onnxruntime"), SmallNetwork())
    calibrate(kept, [images(2)])
    assert round_weights(kept, images(2), "@first") == {}, "this target keeps the layer in float"


def test_transposed_convolutions_are_left_alone():
    detector = quantized_detector(get_target("reference"), Layers())
    calibrate(detector, [images(2)])
    before = {layer_name(layer.node): layer.weight.detach().clone() for layer in detector.quantized_weights()}
    assert "up" in before
    changed = round_weights(detector, images(2))
    for layer in detector.quantized_weights():
        name = layer_name(layer.node)
        assert torch.equal(layer.weight, before[name]) == (name not in changed), name


def test_the_default_rounds_what_reads_the_image():
    steps = [step.name for step in resolve_recipe(None).algorithms]
    assert steps == ["smooth", "calibrate", "keep_float", "gptq", "bias_correction"]
