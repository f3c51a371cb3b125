"""Ranges that one placement found serve another: equal to observing everything once more, and only what is new is observed."""

import pytest
import torch

from small_networks import SmallNetwork, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate, take_ranges
from yoloquant.quant.fake_quantize import State
from yoloquant.targets.placement import FloatLayer
from yoloquant.targets.registry import TARGETS


@pytest.mark.parametrize("target", sorted(TARGETS))
@pytest.mark.parametrize("in_float", ["residual.conv", "stem.conv"])
def test_taken_ranges_are_those_that_observing_again_finds(target, in_float):
    first = quantized_detector(TARGETS[target])
    calibrate(first, [images(4)])
    again, anew = (quantized_detector(TARGETS[target], ignored={in_float: FloatLayer("a test")}) for _ in range(2))
    left = take_ranges(again, first)
    assert left < sum(not quantizer.of_weight for _, quantizer in again.quantizers()) / 2
    calibrate(again, [images(4)] if left else ())
    calibrate(anew, [images(4)])
    expected = dict(anew.quantizers())
    for name, quantizer in again.quantizers():
        assert torch.equal(quantizer.scale, expected[name].scale)
        assert torch.equal(quantizer.zero_point, expected[name].zero_point)
        assert quantizer.state is State.QUANTIZE
        assert quantizer.observer is None
    with torch.no_grad():
        assert torch.equal(again(images(1) / 255), anew(images(1) / 255))


def test_another_spec_is_observed_anew():
    first = quantized_detector(TARGETS["reference"])
    calibrate(first, [images(4)])

    def at_four_bits(_layer, tensor, spec):
        return spec.with_changes(bits=4) if tensor == "weights" else spec.with_changes(observer="minmax", options={})

    again, anew = (quantized_detector(TARGETS["reference"], choose=at_four_bits) for _ in range(2))
    assert take_ranges(again, first) > 0
    calibrate(again, [images(4)])
    calibrate(anew, [images(4)])
    with torch.no_grad():
        assert torch.equal(again(images(1) / 255), anew(images(1) / 255))


def test_before_a_silu_the_range_serves_the_output_of_the_silu():
    network = SmallNetwork()
    # One channel is far below zero, where SiLU is zero.
    network.residual.bn.bias.data[3] = -60.0
    detector = quantized_detector(TARGETS["onnxruntime"], network)
    calibrate(detector, [images(4)])
    scales = {name: float(quantizer.scale) for name, quantizer in detector.quantizers() if not quantizer.of_weight}
    assert scales["residual.conv.output_quantizer"] < 20 / 255
    network.residual.act = torch.nn.LeakyReLU(0.5)
    detector = quantized_detector(TARGETS["onnxruntime"], network)
    calibrate(detector, [images(4)])
    scales = {name: float(quantizer.scale) for name, quantizer in detector.quantizers() if not quantizer.of_weight}
    assert scales["residual.conv.output_quantizer"] > 60 / 255
