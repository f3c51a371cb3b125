"""Losses of heads without anchors against loops written from the papers, and that descending them finds objects."""

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from test_overlap import published_iou, published_siou
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.losses.assigners import AdaptiveSelection, Cells, TaskAligned, group_objects
from yoloquant.models.losses.distance import distribution_focal
from yoloquant.models.losses.overlap import complete_iou, plain_iou
from yoloquant.models.output_formats import Candidates, corners
from yoloquant.models.registry import build_detector
from yoloquant.models.ultralytics.loss import YOLOv8Loss
from yoloquant.models.yolov6.loss import YOLOv6Loss

STRIDES, CLASSES, SIZE = (8, 16), 3, 64
COUNTS = tuple((SIZE // stride) ** 2 for stride in STRIDES)


def random_targets(count, seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand(count, 6, generator=generator, dtype=torch.float64)
    values[:, 0] = (values[:, 0] * images).floor()
    values[:, 1] = (values[:, 1] * CLASSES).floor()
    values[:, 4:] = 0.1 + values[:, 4:] * 0.5
    return values


def random_maps(bins, seed, images=2):
    generator = torch.Generator().manual_seed(seed)
    maps = []
    for stride in STRIDES:
        side = SIZE // stride
        boxes = torch.randn(images, 4 * bins, side, side, generator=generator, dtype=torch.float64)
        maps.append(boxes if bins > 1 else boxes.abs() + 0.5)
        maps.append(torch.randn(images, CLASSES, side, side, generator=generator, dtype=torch.float64))
    return maps


def cells():
    rows = [((x + 0.5) * s, (y + 0.5) * s, s) for s in STRIDES for y in range(SIZE // s) for x in range(SIZE // s)]
    table = torch.tensor(rows, dtype=torch.float64)
    return Cells(table[:, :2], table[:, 2], COUNTS)


def box_of(target):
    x, y, w, h = (float(value) * SIZE for value in target[2:])
    return (x - w / 2, y - h / 2, x + w / 2, y + h / 2)


def overlap_of(kind):
    return lambda a, b: kind(*(torch.tensor([box], dtype=torch.float64) for box in (a, b))).item()


def winners(claims, overlaps):
    """Cell -> its only claimant, or else the object of the largest overlap of all, whether or not it claims the cell."""
    claimants = {}
    for cell, owner in claims:
        claimants.setdefault(cell, []).append(owner)
    best = {cell: max(range(len(overlaps)), key=lambda n, c=cell: overlaps[n][c]) for cell in claimants}
    return {cell: owners[0] if len(owners) == 1 else best[cell] for cell, owners in claimants.items()}


def inside(cell, box):
    x, y, _ = cell
    return min(x - box[0], y - box[1], box[2] - x, box[3] - y) > 1e-9


def looped_task_aligned(found, targets, top, alpha, beta, overlap, *, anywhere=False, keep=None, smallest=0.0):
    """Section 3.2 of TOOD, image by image, with the options of `TaskAligned`."""

    def is_inside(cell, box):
        missing = [max(0.0, smallest - (box[i + 2] - box[i])) / 2 for i in range(2)]
        return inside(cell, [box[0] - missing[0], box[1] - missing[1], box[2] + missing[0], box[3] + missing[1]])

    places = torch.cat([cells().centers, cells().strides[:, None]], 1).tolist()
    answers = []
    for image in range(len(found.boxes)):
        objects = [row for row in targets.tolist() if row[0] == image]
        boxes, scores = found.boxes[image].tolist(), found.scores[image].tolist()
        overlaps = [[max(0.0, overlap(box_of(o), box)) for box in boxes] for o in objects]
        within = [[is_inside(place, box_of(o)) for place in places] for o in objects]
        if not anywhere:
            overlaps = [[value * ok for value, ok in zip(*pair, strict=True)] for pair in zip(overlaps, within, strict=True)]
        metric = [
            [scores[c][int(o[1])] ** alpha * overlaps[n][c] ** beta for c in range(len(places))] for n, o in enumerate(objects)
        ]
        claims = []
        for n in range(len(objects)):
            best = sorted(range(len(places)), key=lambda c, n=n: -metric[n][c] * within[n][c])[:top]
            claims += [(c, n) for c in best if within[n][c]]
        chosen = winners(claims, overlaps)
        answer = {}
        for n in range(len(objects)):
            own = sorted((c for c, owner in chosen.items() if owner == n), key=lambda c, n=n: -metric[n][c])[:keep]
            if own:
                scale = max(overlaps[n][c] for c in own) / (max(metric[n][c] for c in own) + 1e-9)
                answer.update({c: (n, objects[n], metric[n][c] * scale) for c in own})
        answers.append(answer)
    return answers


def looped_adaptive(found, targets, top, side):
    """Algorithm 1 of ATSS, with the IoU of the found boxes as score."""
    places = torch.cat([cells().centers, cells().strides[:, None]], 1).tolist()
    answers = []
    for image in range(len(found.boxes)):
        objects, claims = [row for row in targets.tolist() if row[0] == image], []
        for n, target in enumerate(objects):
            box = box_of(target)
            middle = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
            candidates, start = [], 0
            for count in COUNTS:
                level = range(start, start + count)
                start += count
                candidates += sorted(level, key=lambda c, m=middle: math.dist(places[c][:2], m))[:top]
            squares = {
                c: [places[c][i % 2] + (side if i > 1 else -side) * places[c][2] / 2 for i in range(4)] for c in candidates
            }
            ious = {c: published_iou(box, square)[0] for c, square in squares.items()}
            mean = sum(ious.values()) / len(ious)
            deviation = math.sqrt(sum((v - mean) ** 2 for v in ious.values()) / (len(ious) - 1))
            claims += [(c, n) for c, v in ious.items() if v > mean + deviation and inside(places[c], box)]
        boxes = found.boxes[image].tolist()
        halves = [side * place[2] / 2 for place in places]
        squares = [(p[0] - h, p[1] - h, p[0] + h, p[1] + h) for p, h in zip(places, halves, strict=True)]
        overlaps = [[published_iou(box_of(o), square)[0] for square in squares] for o in objects]
        chosen = winners(claims, overlaps)
        answers.append({c: (n, objects[n], published_iou(box_of(objects[n]), boxes[c])[0]) for c, n in chosen.items()})
    return answers


def assert_same(assignment, expected):
    for image, answer in enumerate(expected):
        for cell in range(sum(COUNTS)):
            scores = assignment.scores[image, cell].tolist()
            wanted = [0.0] * CLASSES
            if cell in answer:
                _, target, score = answer[cell]
                wanted[int(target[1])] = score
                if score > 0:
                    assert assignment.boxes[image, cell].tolist() == pytest.approx(box_of(target), rel=1e-6)
            assert scores == pytest.approx(wanted, rel=1e-6, abs=1e-9)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(0, 6),
    st.integers(0, 10_000),
    st.sampled_from([(1, 0.5, 6.0), (4, 1.0, 6.0), (10, 0.5, 2.0)]),
    st.sampled_from([{}, {"anywhere": True}, {"keep": 1, "smallest": 16.0}]),
)
def test_task_aligned_assignment_agrees_with_loops(count, seed, options, more):
    head = DistanceHead("columns_classes", CLASSES, list(STRIDES), 4)
    found = head.candidates(random_maps(4, seed))
    targets = random_targets(count, seed)
    answer = TaskAligned(*options, complete_iou, **more)(found, cells(), group_objects(targets, 2, SIZE, SIZE))
    assert_same(answer, looped_task_aligned(found, targets, *options, overlap_of(complete_iou), **more))


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 6), st.integers(0, 10_000), st.sampled_from([2, 9]))
def test_adaptive_selection_agrees_with_loops(count, seed, top):
    found = DistanceHead("rows_objectness", CLASSES, list(STRIDES), 1).candidates(random_maps(1, seed))
    targets = random_targets(count, seed)
    answer = AdaptiveSelection(top, 5.0)(found, cells(), group_objects(targets, 2, SIZE, SIZE))
    assert_same(answer, looped_adaptive(found, targets, top, 5.0))


def entropy(logit, wanted):
    return math.log1p(math.exp(-abs(logit))) + max(logit, 0.0) - logit * wanted


def looped_loss(maps, bins, targets, answers, box_loss, class_loss, gains):
    """Terms cell by cell, over the sum of the wanted scores."""
    places = torch.cat([cells().centers, cells().strides[:, None]], 1).tolist()
    sums = dict.fromkeys(gains, 0.0)
    total = max(1.0, sum(score for answer in answers for _, _, score in answer.values()))
    for image, answer in enumerate(answers):
        logits = torch.cat([raw[image].flatten(1) for raw in maps[1::2]], 1).T.tolist()
        sides = torch.cat([raw[image].flatten(1) for raw in maps[::2]], 1).T
        for cell, (x, y, stride) in enumerate(places):
            owned = answer.get(cell)
            for kind in range(CLASSES):
                wanted = owned[2] if owned and int(owned[1][1]) == kind else 0.0
                sums["cls"] += class_loss(logits[cell][kind], wanted)
            if not owned or owned[2] == 0:
                continue
            shares = sides[cell].view(4, bins).softmax(1)
            distances = (shares * torch.arange(bins)).sum(1).tolist() if bins > 1 else sides[cell].tolist()
            found = [x - distances[0] * stride, y - distances[1] * stride, x + distances[2] * stride, y + distances[3] * stride]
            box = box_of(owned[1])
            sums["box"] += (1 - box_loss(found, box)) * owned[2]
            if bins > 1:
                wanted_sides = [(x - box[0]) / stride, (y - box[1]) / stride, (box[2] - x) / stride, (box[3] - y) / stride]
                for side, wanted in enumerate(wanted_sides):
                    wanted = min(max(wanted, 0.0), bins - 1.01)
                    low = int(wanted)
                    logs = shares[side].log().tolist()
                    sums["dfl"] -= owned[2] / 4 * (logs[low] * (low + 1 - wanted) + logs[low + 1] * (wanted - low))
    return {name: value / total * gains[name] for name, value in sums.items()}


@pytest.mark.parametrize("count", [0, 1, 7])
def test_yolov8s_loss_agrees_with_loops(count):
    head = DistanceHead("columns_classes", CLASSES, list(STRIDES), 8)
    maps, targets = random_maps(8, count), random_targets(count, count)
    answer = YOLOv8Loss(head, box=7.0, cls=0.6, dfl=1.4)(maps, targets)
    found = head.candidates(maps)
    assigned = looped_task_aligned(found, targets, 10, 0.5, 6.0, overlap_of(complete_iou))
    gains = {"box": 7.0, "cls": 0.6, "dfl": 1.4}
    expected = looped_loss(maps, 8, targets, assigned, overlap_of(complete_iou), entropy, gains)
    for name, value in expected.items():
        assert answer.parts[name].item() == pytest.approx(value, rel=1e-3, abs=1e-6), name
    assert answer.total.item() == pytest.approx(2 * sum(expected.values()), rel=1e-3)


def varifocal(logit, wanted):
    probability = 1 / (1 + math.exp(-logit))
    return entropy(logit, wanted) * (wanted if wanted > 0 else 0.75 * probability**2)


@pytest.mark.parametrize(("epoch", "iou_type", "bins"), [(0, "siou", 1), (4, "siou", 1), (4, "giou", 5)])
def test_yolov6s_loss_agrees_with_loops(epoch, iou_type, bins):
    head = DistanceHead("rows_objectness", CLASSES, list(STRIDES), bins)
    maps, targets = random_maps(bins, 3), random_targets(6, 3)
    loss = YOLOv6Loss(head, iou_type=iou_type, atss_warmup_epoch=4)
    loss.start_epoch(epoch)
    answer = loss(maps, targets)
    found = head.candidates(maps)
    assigned = (
        looped_adaptive(found, targets, 9, 5.0)
        if epoch < 4
        else looped_task_aligned(found, targets, 13, 1.0, 6.0, overlap_of(plain_iou), anywhere=True)
    )

    def giou(a, b):
        iou, union = published_iou(a, b)
        hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
        return iou - (hull - union) / hull

    gains = {"box": 2.5, "cls": 1.0} | ({"dfl": 0.5} if bins > 1 else {})
    overlap = published_siou if iou_type == "siou" else giou
    expected = looped_loss(maps, bins, targets, assigned, overlap, varifocal, gains)
    assert answer.parts.keys() == expected.keys()
    for name, value in expected.items():
        assert answer.parts[name].item() == pytest.approx(value, rel=1e-3), name
    assert answer.total.item() == pytest.approx(sum(expected.values()), rel=1e-3)


def test_distances_at_a_bin_want_that_bin_alone():
    logits = torch.randn(1, 4, 6, generator=torch.Generator().manual_seed(0))
    wanted = torch.tensor([[0.0, 2.0, 4.0, 3.0]])
    expected = -logits[0].log_softmax(-1)[torch.arange(4), wanted[0].long()].mean()
    assert distribution_focal(logits, wanted).item() == pytest.approx(expected.item(), rel=1e-5)


def test_objects_are_grouped_by_image():
    targets = torch.tensor([[1, 2, 0.5, 0.5, 0.2, 0.4], [0, 1, 0.1, 0.2, 0.2, 0.2], [1, 0, 0.3, 0.3, 0.1, 0.1]])
    objects = group_objects(targets, 3, 100, 50)
    assert objects.real.tolist() == [[True, False], [True, True], [False, False]]
    assert objects.classes[1].tolist() == [2, 0]
    assert objects.boxes[1, 0].tolist() == pytest.approx([40, 15, 60, 35])


def test_both_pairs_of_branches_of_a_head_without_suppression_learn():
    head = DistanceHead("rows_final", CLASSES, list(STRIDES), 4)
    first, second = random_maps(4, 1), random_maps(4, 2)
    targets = random_targets(5, 1)
    together = YOLOv8Loss(head)([*first, *second], targets)
    alone = YOLOv8Loss(head)(first, targets)
    many = YOLOv8Loss(DistanceHead("columns_classes", CLASSES, list(STRIDES), 4))(second, targets)
    assert together.total.item() == pytest.approx(alone.total.item() + many.total.item(), rel=1e-6)
    one = looped_task_aligned(head.candidates(first), targets, 1, 0.5, 6.0, overlap_of(complete_iou))
    gains = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
    expected = looped_loss(first, 4, targets, one, overlap_of(complete_iou), entropy, gains)
    assert alone.parts["cls"].item() == pytest.approx(expected["cls"], rel=1e-3)


def test_a_head_without_suppression_answers_twice_in_training():
    layer = build_detector("yolov8n", ["a"], 64, width=0.06).network.model[-1]
    layer.one2one_cv2, layer.one2one_cv3 = copy.deepcopy(layer.cv2), copy.deepcopy(layer.cv3)
    layer.end_to_end = True
    maps = [torch.randn(1, branch[0].conv.in_channels, 4, 4, requires_grad=True) for branch in layer.cv2]
    alone = layer.eval()(maps)
    assert len(alone) == 6
    both = layer.train()(maps)
    assert len(both) == 12
    sum(raw.sum() for raw in both[:6]).backward(retain_graph=True)
    # The first pair learns by itself; what stands before the head learns from the second.
    assert all(x.grad is None for x in maps)
    sum(raw.sum() for raw in both[6:]).backward()
    assert all(x.grad is not None for x in maps)


@pytest.mark.parametrize("kind", ["yolov8", "yolov6"])
def test_descending_a_loss_moves_an_object_into_place(kind):
    bins = 16 if kind == "yolov8" else 1
    head = DistanceHead("columns_classes", CLASSES, list(STRIDES), bins)
    loss = YOLOv8Loss(head) if kind == "yolov8" else YOLOv6Loss(head, iou_type="siou")
    maps = []
    for stride in STRIDES:
        side = SIZE // stride
        maps += [torch.full((1, 4 * bins, side, side), 1.0), torch.full((1, CLASSES, side, side), -2.0)]
    for raw in maps:
        raw.requires_grad_()
    optimizer = torch.optim.Adam(maps, 0.1)
    targets = torch.tensor([[0, 2, 0.42, 0.57, 0.3, 0.4]])
    for _ in range(150):
        optimizer.zero_grad()
        loss(maps, targets).total.backward()
        optimizer.step()
    found: Candidates = head.candidates([raw.detach() for raw in maps])
    best = found.scores[0].amax(1).argmax()
    assert found.scores[0, best].argmax() == 2
    assert found.boxes[0, best].tolist() == pytest.approx((corners(targets[0, 2:]) * SIZE).tolist(), abs=0.7)
