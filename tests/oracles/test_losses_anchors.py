"""YOLOv7's loss against loops: which cells SimOTA chooses, what they cost, and the auxiliary heads."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_overlap import published_iou
from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.output_formats import corners
from yoloquant.models.yolov5.loss import match_anchors
from yoloquant.models.yolov5.network import AnchorHead
from yoloquant.models.yolov7.build import build_yolov7_tiny
from yoloquant.models.yolov7.loss import AUXILIARY_GAIN, YOLOv7Loss
from yoloquant.models.yolov7.network import IDetect

ANCHORS = [[[8.0, 10.0], [14.0, 12.0], [20.0, 26.0]], [[24.0, 20.0], [30.0, 40.0], [50.0, 44.0]]]
STRIDES, CLASSES, SIZE = (8, 16), 3, 64
GAINS = {"box": 0.05, "obj": 0.7, "cls": 0.3}


def random_targets(count, seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    values[:, 0] = (values[:, 0] * images).floor()
    values[:, 1] = (values[:, 1] * CLASSES).floor()
    values[:, 4:] = 0.1 + values[:, 4:] * 0.6
    # The loss computes in float32: what is just on one side of a threshold must be so there, too.
    return values.float()


def random_maps(seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(images, 3 * (5 + CLASSES), SIZE // stride, SIZE // stride) for stride in STRIDES]
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def cell_of(maps, level, image, anchor, row, column):
    raw = maps[level][image].view(3, 5 + CLASSES, *maps[level].shape[2:])
    return raw[anchor, :, row, column].tolist()


def pixel_box(cell, level, anchor, row, column):
    s = [sigmoid(value) for value in cell[:4]]
    x, y = ((2 * s[i] - 0.5 + place) * STRIDES[level] for i, place in ((0, column), (1, row)))
    w, h = ((2 * s[2 + i]) ** 2 * ANCHORS[level][anchor][i] for i in (0, 1))
    return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def box_of(target):
    x, y, w, h = (value * SIZE for value in target[2:])
    return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def candidates_of(target, level, reach):
    """Cells of a target in a level: anchors that fit, its own cell and neighbours within reach."""
    side = SIZE // STRIDES[level]
    x, y, w, h = (value * side for value in target[2:])
    found = []
    for anchor, (wide, high) in enumerate(ANCHORS[level]):
        ratios = [w * STRIDES[level] / wide, h * STRIDES[level] / high]
        if max(max(r, 1 / r) for r in ratios) >= 4.0:
            continue
        places = [(int(y), int(x))]
        places += [(int(y), int(x) - 1)] if x % 1 < reach and x > 1 else []
        places += [(int(y) - 1, int(x))] if y % 1 < reach and y > 1 else []
        places += [(int(y), int(x) + 1)] if (side - x) % 1 < reach and side - x > 1 else []
        places += [(int(y) + 1, int(x))] if (side - y) % 1 < reach and side - y > 1 else []
        found += [(level, anchor, row, column) for row, column in places]
    return found


def fitting_cells(targets, reach):
    """As `looped_choice`, of all candidates."""
    levels = range(len(STRIDES))
    return [(int(t[0]), *cell, n) for n, t in enumerate(targets) for level in levels for cell in candidates_of(t, level, reach)]


def looped_choice(maps, targets, reach, most):
    """(image, level, anchor, row, column, index of the target) of every cell that answers."""
    chosen = []
    for image in range(len(maps[0])):
        objects = [n for n, target in enumerate(targets) if target[0] == image]
        pool = [c for level in range(len(maps)) for n in objects for c in candidates_of(targets[n], level, reach)]
        wishes, prices = {}, {}
        for n in objects:
            costs, ious = [], []
            for number, (level, anchor, row, column) in enumerate(pool):
                cell = cell_of(maps, level, image, anchor, row, column)
                iou = published_iou(box_of(targets[n]), pixel_box(cell, level, anchor, row, column))[0]
                cost = -3 * math.log(iou + 1e-8)
                for kind in range(CLASSES):
                    p = math.sqrt(sigmoid(cell[4]) * sigmoid(cell[5 + kind]))
                    cost -= math.log(p if kind == int(targets[n][1]) else 1 - p)
                costs.append((cost, number))
                ious.append(iou)
            prices[n] = {number: cost for cost, number in costs}
            count = max(1, int(sum(sorted(ious, reverse=True)[:most]) + 1e-6))
            for _, number in sorted(costs)[:count]:
                wishes.setdefault(number, []).append(n)
        for number, claimants in wishes.items():
            # The original's argmin is over all objects of the image, not over those that claim the cell.
            owner = claimants[0] if len(claimants) == 1 else min(objects, key=lambda n, c=number: prices[n][c])
            chosen.append((image, *pool[number], owner))
    return chosen


def entropy(logit, wanted):
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0.0) - logit * wanted


def looped_terms(maps, targets, chosen):
    totals = dict.fromkeys(GAINS, 0.0)
    for level, raw in enumerate(maps):
        side, wanted, boxes, classes = raw.shape[2], {}, [], []
        for image, own, anchor, row, column, n in chosen:
            if own != level:
                continue
            cell = cell_of(maps, level, image, anchor, row, column)
            pair = (pixel_box(cell, level, anchor, row, column), box_of(targets[n]))
            ciou = complete_iou(*(torch.tensor([box], dtype=torch.float64) for box in pair)).item()
            boxes.append(1 - ciou)
            place = (image, anchor, row, column)
            wanted[place] = max(wanted.get(place, 0.0), ciou, 0.0)
            classes += [entropy(cell[5 + kind], float(kind == int(targets[n][1]))) for kind in range(CLASSES)]
        if boxes:
            totals["box"] += sum(boxes) / len(boxes)
            totals["cls"] += sum(classes) / len(classes)
        places = [(i, a, r, c) for i in range(len(raw)) for a in range(3) for r in range(side) for c in range(side)]
        terms = [entropy(cell_of(maps, level, *place)[4], wanted.get(place, 0.0)) for place in places]
        totals["obj"] += sum(terms) / len(terms) * (4.0, 1.0)[level]
    return totals


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 6), st.integers(0, 10_000))
def test_loss_agrees_with_loops(count, seed):
    maps, targets = random_maps(seed), random_targets(count, seed)
    answer = YOLOv7Loss(ANCHORS, STRIDES, CLASSES, **GAINS)(maps, targets)
    rows = targets.tolist()
    expected = looped_terms(maps, rows, looped_choice(maps, rows, 0.5, 10))
    for name, value in expected.items():
        assert answer.parts[name].item() == pytest.approx(value * GAINS[name], rel=1e-3, abs=1e-6), name
    assert answer.total.item() == pytest.approx(2 * sum(value * GAINS[name] for name, value in expected.items()), rel=1e-3)


@pytest.mark.parametrize("seed", range(3))
def test_auxiliary_heads_learn_more_cells_that_the_lead_heads_choose(seed):
    lead, beside, targets = random_maps(seed), random_maps(seed + 100), random_targets(5, seed)
    answer = YOLOv7Loss(ANCHORS, STRIDES, CLASSES, **GAINS)([*lead, *beside], targets)
    rows = targets.tolist()
    first = looped_terms(lead, rows, looped_choice(lead, rows, 0.5, 10))
    second = looped_terms(beside, rows, looped_choice(lead, rows, 1.0, 20))
    for name in GAINS:
        expected = (first[name] + AUXILIARY_GAIN * second[name]) * GAINS[name]
        assert answer.parts[name].item() == pytest.approx(expected, rel=1e-3), name


@pytest.mark.parametrize("seed", range(3))
def test_without_choosing_all_cells_that_fit_learn(seed):
    lead, beside, targets = random_maps(seed), random_maps(seed + 100), random_targets(5, seed)
    loss = YOLOv7Loss(ANCHORS, STRIDES, CLASSES, chooses=False, **GAINS)
    answer = loss([*lead, *beside], targets)
    rows = targets.tolist()
    first = looped_terms(lead, rows, fitting_cells(rows, 0.5))
    second = looped_terms(beside, rows, fitting_cells(rows, 1.0))
    for name in GAINS:
        expected = (first[name] + AUXILIARY_GAIN * second[name]) * GAINS[name]
        assert answer.parts[name].item() == pytest.approx(expected, rel=1e-3), name


def test_a_reach_of_one_takes_all_neighbours():
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.2, 0.2]], dtype=torch.float64)
    anchors = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    near = match_anchors(targets, anchors, 5, 5, 4.0, reach=1.0)
    assert sorted(zip(near.row.tolist(), near.column.tolist(), strict=True)) == [(1, 2), (2, 1), (2, 2), (2, 3), (3, 2)]


def test_auxiliary_maps_answer_in_training_alone():
    layer = build_yolov7_tiny(["a"], 64, width=0.25).network.model[-1]
    assert isinstance(layer, IDetect)
    widths = [conv.in_channels for conv in layer.m]
    layer.m2 = torch.nn.ModuleList(
        torch.nn.Conv2d(width, conv.out_channels, 1) for width, conv in zip(widths, layer.m, strict=True)
    )
    maps = [torch.randn(1, width, 4, 4) for width in [*widths, *widths]]
    assert len(layer.eval()(maps)) == 3
    answers = layer.train()(maps)
    assert len(answers) == 6
    torch.testing.assert_close(answers[4], layer.m2[1](maps[4]))


def test_descending_the_loss_moves_an_object_into_place():
    maps = [torch.zeros(1, 3 * (5 + CLASSES), SIZE // stride, SIZE // stride, requires_grad=True) for stride in STRIDES]
    targets = torch.tensor([[0, 2, 0.42, 0.57, 0.3, 0.4]])
    loss = YOLOv7Loss(ANCHORS, STRIDES, CLASSES, box=1.0, cls=1.0, obj=10.0)
    optimizer = torch.optim.Adam(maps, 0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss(maps, targets).total.backward()
        optimizer.step()
    rows = AnchorHead(CLASSES, list(STRIDES), ANCHORS)([raw.detach() for raw in maps])[0]
    best = rows[rows[:, 4].argmax()]
    assert corners(best[:4]).tolist() == pytest.approx(box_of(targets[0].tolist()), abs=0.7)
    assert best[5:].argmax() == 2
