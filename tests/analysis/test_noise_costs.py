"""What a quantizer's noise costs, from one backward pass: against measuring each by itself, and on planted noise."""

import numpy as np
import pytest
import torch

from small_networks import RowsHead, images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.analysis.noise_costs import noise_costs
from yoloquant.analysis.sensitive_layers import layer_quantizers, most_sensitive_layers
from yoloquant.data.images import to_input
from yoloquant.quant.fake_quantize import State, passing
from yoloquant.targets.registry import TARGETS


class SealedHead(RowsHead):
    """A head without derivatives, as that of an ONNX file."""

    def forward(self, raw_maps):
        return super().forward([raw.detach() for raw in raw_maps])


class ScoresHead(RowsHead):
    """A head whose boxes are always the same."""

    def forward(self, raw_maps):
        rows = super().forward(raw_maps)
        return torch.cat([torch.full_like(rows[..., :4], 0.5), rows[..., 4:]], -1)


def calibrated(target="reference", **options):
    detector = quantized_detector(TARGETS[target], **options)
    calibrate(detector, [images(4)])
    return detector


def test_costs_are_what_each_quantizer_alone_makes():
    """Against a pass for each quantizer with all others off."""
    detector = calibrated("onnxruntime")
    detector.head = ScoresHead()
    pictures = images(6)
    costs = noise_costs(detector, pictures)
    error = DetectionCost(detector, pictures)
    quantizers = dict(detector.quantizers())
    alone = {}
    for name in quantizers:
        with passing([quantizer for other, quantizer in quantizers.items() if other != name]):
            alone[name] = error()
    assert sum(costs.values()) == pytest.approx(1.0)
    expected, found = (np.array([values[name] for name in quantizers]) for values in (alone, costs))
    ratio = found / (expected / expected.sum())
    large = expected > 0.05 * expected.sum()
    assert large.sum() >= 5
    assert np.all((ratio[large] > 0.4) & (ratio[large] < 2.5)), dict(zip(quantizers, ratio, strict=True))


@pytest.mark.parametrize("head", [RowsHead, SealedHead])
@pytest.mark.parametrize("planted", ["residual.conv", "deep.conv"])
def test_planted_noise_costs_most(head, planted):
    detector = calibrated("onnxruntime")
    detector.head = head()
    worst = dict(detector.quantizers())[f"{planted}.output_quantizer"]
    worst.set_parameters(worst.scale * 30, worst.zero_point)
    costs = noise_costs(detector, images(2))
    assert max(costs, key=lambda name: costs[name]) == worst.name
    assert most_sensitive_layers(detector, images(2), 1)[0].name == planted


def test_everything_is_put_back():
    detector = calibrated()
    x = to_input(images(1))
    before = detector(x)
    noise_costs(detector, images(1))
    assert torch.equal(detector(x), before)
    assert all(quantizer.state is State.QUANTIZE for _, quantizer in detector.quantizers())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in detector.network.parameters())


def test_a_range_far_too_small_gives_a_finite_cost():
    detector = calibrated()
    worst = dict(detector.quantizers())["stem.act.output_quantizer"]
    worst.set_parameters(worst.scale * 1e-9, worst.zero_point)
    assert np.isfinite(list(noise_costs(detector, images(1)).values())).all()


def test_passes_do_not_grow_with_layers():
    """An image is run twice in float, once for the backward pass, once with all quantizers, and once for each layer chosen."""
    detector = calibrated()
    runs = []
    detector.network.get_submodule("stem.act.output_quantizer").register_forward_hook(lambda *_: runs.append(1))
    assert len(layer_quantizers(detector)) == 6
    assert most_sensitive_layers(detector, images(6), 1)
    assert len(runs) == 6 * 5
