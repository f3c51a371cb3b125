"""YOLOv5's loss against loops written from its description, and CIoU against the paper's formula."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import binary_cross_entropy_with_logits

from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.output_formats import corners
from yoloquant.models.yolov5.loss import YOLOv5Loss, match_anchors

ANCHORS = [[[10.0, 13.0], [16.0, 30.0], [33.0, 23.0]], [[30.0, 61.0], [62.0, 45.0], [59.0, 119.0]]]
STRIDES = (8, 16)
CLASSES = 3


def published_ciou(first, second):
    """Equations 7 to 11 of Zheng et al. 2020, for boxes given as centre and size."""
    (x1, y1, w1, h1), (x2, y2, w2, h2) = first, second
    overlap_w = max(0.0, min(x1 + w1 / 2, x2 + w2 / 2) - max(x1 - w1 / 2, x2 - w2 / 2))
    overlap_h = max(0.0, min(y1 + h1 / 2, y2 + h2 / 2) - max(y1 - h1 / 2, y2 - h2 / 2))
    overlap = overlap_w * overlap_h
    iou = overlap / (w1 * h1 + w2 * h2 - overlap)
    enclosing_w = max(x1 + w1 / 2, x2 + w2 / 2) - min(x1 - w1 / 2, x2 - w2 / 2)
    enclosing_h = max(y1 + h1 / 2, y2 + h2 / 2) - min(y1 - h1 / 2, y2 - h2 / 2)
    distance = ((x1 - x2) ** 2 + (y1 - y2) ** 2) / (enclosing_w**2 + enclosing_h**2)
    v = 4 / math.pi**2 * (math.atan(w2 / h2) - math.atan(w1 / h1)) ** 2
    alpha = v / (1 - iou + v) if v else 0.0
    return iou - distance - alpha * v


sides = st.floats(0.2, 20)
boxes = st.tuples(st.floats(-10, 10), st.floats(-10, 10), sides, sides)


@given(boxes, boxes)
def test_ciou_is_the_published_formula(first, second):
    pair = [torch.tensor([box], dtype=torch.float64) for box in (first, second)]
    assert complete_iou(*map(corners, pair)).item() == pytest.approx(published_ciou(first, second), abs=1e-5)


def test_ciou_does_not_send_gradient_through_its_trade_off():
    first = torch.tensor([[0.0, 0.0, 2.0, 5.0]], dtype=torch.float64, requires_grad=True)
    second = torch.tensor([[1.0, 0.5, 4.0, 3.0]], dtype=torch.float64)
    complete_iou(corners(first), corners(second)).sum().backward()

    def with_fixed_trade_off(width):
        x, y, _, h = first[0].tolist()
        v = 4 / math.pi**2 * (math.atan(4 / 3) - math.atan(width / h)) ** 2
        whole = published_ciou((x, y, width, h), (1.0, 0.5, 4.0, 3.0))
        v0 = 4 / math.pi**2 * (math.atan(4 / 3) - math.atan(2 / 5)) ** 2
        iou = whole_iou((x, y, width, h), (1.0, 0.5, 4.0, 3.0))
        iou0 = whole_iou((x, y, 2.0, h), (1.0, 0.5, 4.0, 3.0))
        return whole + v / (1 - iou + v) * v - v0 / (1 - iou0 + v0) * v

    def whole_iou(one, other):
        w = min(one[0] + one[2] / 2, other[0] + other[2] / 2) - max(one[0] - one[2] / 2, other[0] - other[2] / 2)
        h = min(one[1] + one[3] / 2, other[1] + other[3] / 2) - max(one[1] - one[3] / 2, other[1] - other[3] / 2)
        return w * h / (one[2] * one[3] + other[2] * other[3] - w * h)

    numeric = (with_fixed_trade_off(2.0 + 1e-6) - with_fixed_trade_off(2.0 - 1e-6)) / 2e-6
    assert first.grad[0, 2].item() == pytest.approx(numeric, rel=1e-4)


def looped_matches(targets, anchors, height, width, threshold):
    """Set of (image, class, anchor, row, column): own cell, and each existing neighbour nearer than half a cell."""
    found = []
    for image, kind, cx, cy, w, h in targets.tolist():
        x, y, bw, bh = cx * width, cy * height, w * width, h * height
        for number, (aw, ah) in enumerate(anchors.tolist()):
            if max(bw / aw, aw / bw, bh / ah, ah / bh) >= threshold:
                continue
            column, row = min(int(x), width - 1), min(int(y), height - 1)
            cells = [(row, column)]
            if x - int(x) < 0.5 and column > 0 and x < width:
                cells.append((row, column - 1))
            if y - int(y) < 0.5 and row > 0 and y < height:
                cells.append((row - 1, column))
            if x - int(x) > 0.5 and column < width - 1:
                cells.append((row, column + 1))
            if y - int(y) > 0.5 and row < height - 1:
                cells.append((row + 1, column))
            found += [(int(image), int(kind), number, r, c, x - c, y - r, bw, bh) for r, c in cells]
    return sorted(found)


def random_targets(count, seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    values[:, 0] = (values[:, 0] * images).floor()
    values[:, 1] = (values[:, 1] * CLASSES).floor()
    values[:, 4:] = 0.02 + values[:, 4:] ** 2 * 0.9
    return values


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9), st.sampled_from([2.0, 4.0]))
def test_matching_agrees_with_loops(count, seed, height, width, threshold):
    targets = random_targets(count, seed)
    anchors = torch.tensor(ANCHORS[0], dtype=torch.float64) / 16
    matches = match_anchors(targets, anchors, height, width, threshold)
    columns = (matches.image, matches.classes, matches.anchor, matches.row, matches.column, *matches.boxes.T)
    found = sorted(zip(*(column.tolist() for column in columns), strict=True))
    expected = looped_matches(targets, anchors, height, width, threshold)
    assert [row[:5] for row in found] == [row[:5] for row in expected]
    assert torch.tensor([row[5:] for row in found]).allclose(torch.tensor([row[5:] for row in expected]))


def test_centres_on_the_far_edge_stay_inside_the_map():
    targets = torch.tensor([[0, 0, 1.0, 1.0, 0.3, 0.3]], dtype=torch.float64)
    matches = match_anchors(targets, torch.tensor([[1.0, 1.0]], dtype=torch.float64), 4, 5)
    assert matches.row.max() == 3
    assert matches.column.max() == 4


def looped_loss(raw_maps, targets, gains, smoothing):
    """The loss cell by cell."""
    totals = {"box": 0.0, "obj": 0.0, "cls": 0.0}
    for level, raw in enumerate(raw_maps):
        batch, _, height, width = raw.shape
        anchors = torch.tensor(ANCHORS[level], dtype=torch.float64) / STRIDES[level]
        wanted = torch.zeros(batch, len(anchors), height, width, dtype=torch.float64)
        box_terms, class_terms, logits = [], [], raw.view(batch, len(anchors), 5 + CLASSES, height, width)
        for image, kind, number, row, column, x, y, w, h in looped_matches(targets, anchors, height, width, 4.0):
            cell = logits[image, number, :, row, column]
            s = 1 / (1 + torch.exp(-cell[:4]))
            box = (2 * s[0] - 0.5, 2 * s[1] - 0.5, (2 * s[2]) ** 2 * anchors[number, 0], (2 * s[3]) ** 2 * anchors[number, 1])
            ciou = published_ciou([float(value) for value in box], (x, y, w, h))
            box_terms.append(1 - ciou)
            wanted[image, number, row, column] = max(wanted[image, number, row, column].item(), ciou, 0.0)
            for other in range(CLASSES):
                target = torch.tensor(1 - smoothing / 2 if other == kind else smoothing / 2, dtype=torch.float64)
                class_terms.append(binary_cross_entropy_with_logits(cell[5 + other], target).item())
        if box_terms:
            totals["box"] += sum(box_terms) / len(box_terms)
            totals["cls"] += sum(class_terms) / len(class_terms)
        # Of two levels YOLOv5 takes the first two of its weights for five.
        totals["obj"] += binary_cross_entropy_with_logits(logits[:, :, 4], wanted).item() * (4.0, 1.0)[level]
    return {name: value * gains[name] for name, value in totals.items()}


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_loss_agrees_with_loops(count, smoothing):
    gains = {"box": 0.05, "obj": 0.7, "cls": 0.3}
    generator = torch.Generator().manual_seed(count)
    raw_maps = [torch.randn(2, 3 * (5 + CLASSES), 64 // stride, 96 // stride, generator=generator) for stride in STRIDES]
    targets = random_targets(count, seed=count)
    loss = YOLOv5Loss(ANCHORS, STRIDES, CLASSES, **gains, label_smoothing=smoothing)
    answer = loss(raw_maps, targets.float())
    expected = looped_loss([raw.double() for raw in raw_maps], targets, gains, smoothing)
    for name, value in expected.items():
        assert answer.parts[name].item() == pytest.approx(value, rel=1e-4), name
    assert answer.total.item() == pytest.approx(2 * sum(expected.values()), rel=1e-4)


@pytest.mark.parametrize(("levels", "weights"), [(1, 4.0), (2, 5.0), (3, 5.4), (4, 5.31), (5, 5.33)])
def test_levels_are_balanced(levels, weights):
    """YOLOv5 has 4, 1, 0.4 for three levels and 4, 1, 0.25, 0.06, 0.02 for any other number."""
    strides = tuple(8 * 2**level for level in range(levels))
    loss = YOLOv5Loss([ANCHORS[0]] * levels, strides, CLASSES)
    maps = [torch.zeros(1, 3 * (5 + CLASSES), 256 // stride, 256 // stride) for stride in strides]
    # No object: every logit of 0 costs log 2.
    assert loss(maps, torch.zeros(0, 6)).parts["obj"].item() == pytest.approx(weights * math.log(2), rel=1e-5)


def test_the_loss_moves_an_object_into_place():
    """Descending the loss on free raw maps gives a detection at the object."""
    from yoloquant.models.yolov5.network import AnchorHead

    maps = [torch.zeros(1, 3 * (5 + CLASSES), 64 // stride, 64 // stride, requires_grad=True) for stride in STRIDES]
    targets = torch.tensor([[0, 2, 0.42, 0.57, 0.3, 0.4]])
    loss = YOLOv5Loss(ANCHORS, STRIDES, CLASSES, box=1.0, cls=1.0, obj=10.0)
    optimizer = torch.optim.Adam(maps, 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(maps, targets).total.backward()
        optimizer.step()
    rows = AnchorHead(CLASSES, list(STRIDES), ANCHORS)([raw.detach() for raw in maps])[0]
    best = rows[rows[:, 4].argmax()]
    assert best[:4].tolist() == pytest.approx([0.42 * 64, 0.57 * 64, 0.3 * 64, 0.4 * 64], abs=0.5)
    assert best[5:].argmax() == 2
