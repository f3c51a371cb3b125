"""The label-free error against its definition, and the search for costly layers against a planted one."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_networks import images, quantized_detector
from yoloquant.algorithms.calibrate import calibrate
from yoloquant.algorithms.keep_float import KeepFloat
from yoloquant.analysis.detection_error import DetectionCost, detection_error, total_error
from yoloquant.analysis.sensitive_layers import COSTLY, LARGE_ERROR, layer_quantizers, most_sensitive_layers
from yoloquant.errors import RecipeError
from yoloquant.models.losses.overlap import generalized_iou
from yoloquant.models.output_formats import Candidates
from yoloquant.quant.fake_quantize import State
from yoloquant.recipe.recipe import load_recipe
from yoloquant.targets.registry import get_target

coordinate = st.integers(0, 20)
side = st.integers(1, 10)
box = st.tuples(coordinate, coordinate, side, side).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def giou(a, b):
    """By counting unit cells."""
    cells_a = {(x, y) for x in range(a[0], a[2]) for y in range(a[1], a[3])}
    cells_b = {(x, y) for x in range(b[0], b[2]) for y in range(b[1], b[3])}
    union = len(cells_a | cells_b)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return len(cells_a & cells_b) / union - (hull - union) / hull


@settings(max_examples=100, deadline=None)
@given(pairs=st.lists(st.tuples(box, box), min_size=1, max_size=8))
def test_generalized_iou_counts_cells(pairs):
    first, second = (torch.tensor([p[i] for p in pairs], dtype=torch.float32) for i in (0, 1))
    expected = [giou(*p) for p in pairs]
    np.testing.assert_allclose(generalized_iou(first, second).numpy(), expected, atol=1e-5)


def candidates(scores, shift=0.0):
    boxes = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [20.0, 20.0, 40.0, 30.0]]])
    return Candidates(boxes + shift, torch.tensor([scores]))


def test_errors_are_averages_over_objects():
    scores = [[0.9, 0.05], [0.001, 0.0]]
    boxes, divergence = detection_error(candidates(scores), candidates(scores))
    assert boxes.item() == pytest.approx(0, abs=1e-5)
    assert divergence.item() == pytest.approx(0, abs=1e-6)
    # The second box scores nothing, so only the first one's overlap counts: 81 of 119 cells, hull 121.
    boxes, _ = detection_error(candidates(scores), candidates(scores, shift=1.0))
    assert boxes.item() == pytest.approx((1 - (81 / 119 - 2 / 121)) * 0.9 / 0.901, abs=1e-4)
    other = [[0.6, 0.05], [0.001, 0.0]]
    _, divergence = detection_error(candidates(scores), candidates(other))
    expected = 0.9 * np.log(0.9 / 0.6) + 0.1 * np.log(0.1 / 0.4)
    assert divergence.item() == pytest.approx(0.9 * expected / 0.901, abs=1e-4)


def test_every_box_counts_by_its_score_and_images_are_added_up_first():
    # Two images: one of sure objects that lost score, one with hardly an object, whose background rose.
    expected = [candidates([[0.9, 0.05], [0.4, 0.0]]), candidates([[0.02, 0.0], [0.001, 0.0]])]
    found = [candidates([[0.6, 0.05], [0.4, 0.0]], shift=1.0), candidates([[0.02, 0.0], [0.5, 0.0]])]

    def divergence(p, q):
        return p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))

    overlaps = [giou((0, 0, 10, 10), (1, 1, 11, 11)), giou((20, 20, 40, 30), (21, 21, 41, 31))]
    boxes = 0.9 * (1 - overlaps[0]) + 0.4 * (1 - overlaps[1])
    # The background counts a little, so that it cannot rise unseen.
    scores = 0.9 * divergence(0.9, 0.6) + 0.05 * divergence(0.001, 0.5)
    assert total_error(expected, found) == pytest.approx((boxes + scores) / (0.9 + 0.4 + 0.02 + 0.001), rel=1e-4)
    assert total_error(expected, expected) == pytest.approx(0.0, abs=1e-5)


def test_the_planted_layer_is_found_first_and_everything_is_put_back():
    detector = quantized_detector(get_target("onnxruntime"))
    calibrate(detector, [images(4)])
    quantizers = layer_quantizers(detector)
    worst = dict(detector.quantizers())["residual.conv.output_quantizer"]
    worst.set_parameters(worst.scale * 30, worst.zero_point)
    found = most_sensitive_layers(detector, images(2), 3)
    assert found[0].name == "residual.conv"
    assert found[0].gain > 0.5
    assert 1 <= len(found) <= 3
    assert set(quantizers) >= {layer.name for layer in found}
    assert all(quantizer.state is State.QUANTIZE for _, quantizer in detector.quantizers())
    assert most_sensitive_layers(detector, images(2), 3, min_gain=0.5) == found[:1]
    assert most_sensitive_layers(detector, images(2), 0) == []


def test_more_layers_than_wanted_are_found_only_where_each_costs_points():
    detector = quantized_detector(get_target("onnxruntime"))
    calibrate(detector, [images(4)])
    whole = DetectionCost(detector, images(2))()
    assert whole < LARGE_ERROR
    assert most_sensitive_layers(detector, images(2), 0, more=3) == []
    for name in ("residual.conv.output_quantizer", "down.conv.output_quantizer"):
        worst = dict(detector.quantizers())[name]
        worst.set_parameters(worst.scale * 40, worst.zero_point)
    whole = DetectionCost(detector, images(2))()
    assert whole > LARGE_ERROR
    found = most_sensitive_layers(detector, images(2), 0, more=3)
    assert {layer.name for layer in found} >= {"residual.conv", "down.conv"}
    assert all(layer.gain * whole > COSTLY for layer in found)
    assert most_sensitive_layers(detector, images(2), 0) == []


def test_the_recipe_says_where_it_may_stand():
    (step,) = [step for step in load_recipe("int8").algorithms if isinstance(step, KeepFloat)]
    assert step.layers is None
    with pytest.raises(RecipeError, match="keep_float must come right after calibrate"):
        load_recipe(None, ["algorithms=[calibrate, bias_correction, keep_float]"])
