"""IoU and its descendants against the papers' formulas, one pair of boxes at a time."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yoloquant.models.losses.overlap import OVERLAPS, angle_iou, areas, generalized_iou, plain_iou

sides = st.floats(0.2, 20)
boxes = st.tuples(st.floats(-10, 10), st.floats(-10, 10), sides, sides).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))


def published_iou(a, b):
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    inner = width * height
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inner
    return inner / union, union


def published_siou(a, b):
    """Gevorgyan 2022 by its own steps: angle, distance and shape cost."""
    dx, dy = ((b[i] + b[i + 2] - a[i] - a[i + 2]) / 2 for i in (0, 1))
    sigma = math.hypot(dx, dy)
    angle = 1 - 2 * math.sin(math.asin(min(1.0, abs(dy) / sigma)) - math.pi / 4) ** 2 if sigma else 0.0
    hull = [max(a[i + 2], b[i + 2]) - min(a[i], b[i]) for i in (0, 1)]
    gamma = 2 - angle
    distance = sum(1 - math.exp(-gamma * (move / side) ** 2) for move, side in zip((dx, dy), hull, strict=True))
    shape = 0.0
    for i in (0, 1):
        first, second = a[i + 2] - a[i], b[i + 2] - b[i]
        shape += (1 - math.exp(-abs(first - second) / max(first, second))) ** 4
    return published_iou(a, b)[0] - (distance + shape) / 2


def pair(a, b):
    return [torch.tensor([box], dtype=torch.float64) for box in (a, b)]


@given(boxes, boxes)
def test_iou_and_giou_are_the_published_formulas(a, b):
    iou, union = published_iou(a, b)
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    assert plain_iou(*pair(a, b)).item() == pytest.approx(iou, abs=1e-5)
    assert generalized_iou(*pair(a, b)).item() == pytest.approx(iou - (hull - union) / hull, abs=1e-5)


@given(boxes, boxes)
def test_siou_is_the_published_formula(a, b):
    moved = math.hypot(*((b[i] + b[i + 2] - a[i] - a[i + 2]) / 2 for i in (0, 1)))
    # The angle between centres that coincide is any.
    if moved > 0.01:
        assert angle_iou(*pair(a, b)).item() == pytest.approx(published_siou(a, b), abs=1e-3)


@pytest.mark.parametrize("name", OVERLAPS)
@given(box=boxes, factor=st.floats(0.1, 50))
def test_equal_boxes_overlap_wholly_and_scale_does_not_matter(name, box, factor):
    first = torch.tensor([box], dtype=torch.float64)
    assert OVERLAPS[name](first, first).item() == pytest.approx(1.0, abs=1e-4)
    other = first + torch.tensor([1.0, -0.5, 2.0, 1.5])
    assert OVERLAPS[name](first * factor, other * factor).item() == pytest.approx(OVERLAPS[name](first, other).item(), abs=1e-3)


@pytest.mark.parametrize("name", OVERLAPS)
def test_pairs_broadcast_and_gradients_are_finite(name):
    generator = torch.Generator().manual_seed(0)
    low = torch.rand(5, 2, generator=generator) * 4
    first = torch.cat([low, low + 1 + torch.rand(5, 2, generator=generator)], 1).requires_grad_()
    # The same box and one without area are where gradients break.
    second = torch.cat([first.detach()[:1], torch.tensor([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 3.0, 4.0]])])
    together = OVERLAPS[name](first[:, None], second[None])
    assert together.shape == (5, 3)
    for i in range(5):
        torch.testing.assert_close(together[i], OVERLAPS[name](first[i].expand(3, 4), second))
    together.sum().backward()
    assert torch.isfinite(first.grad).all()


def test_boxes_the_wrong_way_round_have_no_area():
    assert areas(torch.tensor([[2.0, 0.0, 1.0, 5.0], [0.0, 0.0, 2.0, 3.0]])).tolist() == [0.0, 6.0]
