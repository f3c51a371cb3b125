"""Scales and weights in training: against the published formulas, finite differences, and what stays the same."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from yoloquant.quant.arithmetic import PER_TENSOR, fake_quantize
from yoloquant.quant.learned import ClippingScale, LearnedScale, ObservedScale, TangentWeight
from yoloquant.spec import TensorSpec

SIGNED = TensorSpec(bits=4)
ASYMMETRIC = TensorSpec(bits=4, signed=False, symmetric=False)
POWER_OF_TWO = TensorSpec(bits=4, power_of_two=True)


def quantized(x, scale, zero_point, spec):
    ends = (spec.quant_min, spec.quant_max)
    return fake_quantize(x, scale, zero_point, *ends, PER_TENSOR, 0, "x")


@pytest.mark.parametrize("cls", [LearnedScale, ClippingScale, ObservedScale])
@pytest.mark.parametrize("spec", [SIGNED, ASYMMETRIC, POWER_OF_TWO], ids=str)
def test_training_starts_from_the_calibrated_answer(cls, spec):
    scale = torch.tensor(0.125)
    zero_point = torch.tensor(0 if spec.symmetric else 5, dtype=torch.int32)
    x = torch.randn(200)
    trained = cls(spec, "x", scale, zero_point)
    with torch.no_grad():
        torch.testing.assert_close(trained(x), quantized(x, scale, zero_point, spec))


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)], ids=["tensor", "channel", "group"])
def test_the_exponents_gradient_is_lsqs_by_the_chain_rule(shape):
    """LSQ, eq. 3, times its share 1 / sqrt(values * quant_max), times d scale / d exponent."""
    granularity = ("tensor", "channel", "group")[len(shape)]
    spec = TensorSpec(bits=4, granularity=granularity, group_size=2 if granularity == "group" else 0)
    scale = torch.rand(shape) * 0.1 + 0.1
    x = torch.randn(3, 4, 2)
    trained = LearnedScale(spec, "x", scale, torch.zeros(shape, dtype=torch.int32))
    weights = torch.randn_like(x)
    (trained(x) * weights).sum().backward()
    expected = torch.zeros(shape)
    for index in torch.cartesian_prod(*map(torch.arange, x.shape)).tolist():
        where = tuple(index[: len(shape)]) if granularity != "group" else (index[0], index[1] // 2)
        steps = float(x[tuple(index)] / scale[where])
        derivative = -8 if steps <= -8.5 else 7 if steps >= 7.5 else round(steps) - steps
        expected[where] += derivative * float(weights[tuple(index)])
    share = (x.numel() / scale.numel() * 7) ** -0.5
    torch.testing.assert_close(trained.exponent.grad, expected * share * scale * math.log(2), rtol=1e-3, atol=1e-5)


def test_power_of_two_exponents_move_between_integers_and_answer_with_rounded_ones():
    trained = LearnedScale(POWER_OF_TWO, "x", torch.tensor(0.25), torch.tensor(0, dtype=torch.int32))
    with torch.no_grad():
        trained.exponent += 0.4
        assert trained.parameters_now()[0] == 0.25
        trained.exponent += 0.2
        assert trained.parameters_now()[0] == 0.5
    trained(torch.randn(50)).sum().backward()
    assert trained.exponent.grad != 0


def test_zero_points_are_learned_from_what_saturates():
    """LSQ+: the offset -zero_point * scale has derivative 1 where x saturates, 0 elsewhere."""
    trained = LearnedScale(ASYMMETRIC, "x", torch.tensor(0.5), torch.tensor(4, dtype=torch.int32), learn_offset=True)
    # Representable: -2 to 5.5.
    x = torch.tensor([-4.0, -3.0, 0.0, 1.3, 9.0])
    trained(x).sum().backward()
    share = (5 * 15) ** -0.5
    # d answer / d offset = -scale * levels for each of three saturated values.
    assert trained.offset.grad.item() == pytest.approx(-3 * 0.5 * 15 * share, rel=1e-4)
    symmetric = LearnedScale(SIGNED, "x", torch.tensor(0.5), torch.tensor(0, dtype=torch.int32), learn_offset=True)
    assert [name for name, _ in symmetric.named_parameters()] == ["exponent"]


def test_pact_learns_from_clipped_values_alone():
    spec = TensorSpec(bits=4, signed=False)
    spec = spec.with_changes(symmetric=False)
    trained = ClippingScale(spec, "x", torch.tensor(0.2), torch.tensor(0, dtype=torch.int32))
    inside = torch.rand(50) * 2.9
    trained(inside).sum().backward()
    assert trained.exponent.grad == 0
    trained(torch.tensor([7.0, 8.0])).sum().backward()
    # The clipping value is 15 * 0.2; its derivative is 1 for each of the two values.
    share = (2 * 15) ** -0.5
    assert trained.exponent.grad.item() == pytest.approx(2 * 15 * 0.2 * math.log(2) * share, rel=1e-4)


def test_observed_ranges_move_until_they_are_stopped():
    spec = TensorSpec(bits=8, power_of_two=True)
    trained = ObservedScale(spec, "x", torch.tensor(2.0**-7), torch.tensor(0, dtype=torch.int32), momentum=0.5)
    with torch.no_grad():
        trained(torch.tensor([8.0]))
        assert trained.parameters_now()[0] == 2.0**-7  # Nothing moves where no gradient is computed.
    trained(torch.tensor([-8.0, 8.0]))
    assert trained.high.item() == pytest.approx((127 / 128 + 8) / 2)
    assert trained.parameters_now()[0] == 2.0**-4  # 4.5 / 128, rounded up.
    trained.stop()
    trained(torch.tensor([-100.0, 100.0]))
    assert trained.parameters_now()[0] == 2.0**-4


def test_observed_weights_follow_each_scale_of_their_own():
    spec = TensorSpec(bits=4, granularity="group", group_size=2)
    trained = ObservedScale(spec, "x", torch.ones(2, 2), torch.zeros(2, 2, dtype=torch.int32), momentum=0.0)
    weight = torch.randn(2, 3, 1, 1)
    trained(weight)
    assert trained.high[0, 1] == max(0.0, weight[0, 2].item()) or trained.low[0, 1] == weight[0, 2]


def test_dorefa_starts_at_the_weight_and_keeps_its_largest_value():
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 4, 3)
    weight = layer.weight.detach().clone()
    parametrize.register_parametrization(layer, "weight", TangentWeight(layer.weight))
    torch.testing.assert_close(layer.weight.detach(), weight, rtol=1e-4, atol=1e-6)
    latent = layer.parametrizations.weight.original
    with torch.no_grad():
        latent.mul_(1.7)
    # Zhou et al. 2016, eq. 9, without the rounding: tanh(w) / max |tanh(w)|.
    expected = torch.tanh(latent) / torch.tanh(latent).abs().max() * weight.abs().max()
    torch.testing.assert_close(layer.weight, expected)
    parametrize.remove_parametrizations(layer, "weight")
    assert isinstance(layer.weight, nn.Parameter)
    torch.testing.assert_close(layer.weight.detach(), expected.detach())
