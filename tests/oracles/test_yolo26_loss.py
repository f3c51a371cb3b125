"""YOLO26's loss: numbers that ultralytics 8.4's own code gave, the same code where it is installed, and its parts by loops."""

from types import SimpleNamespace

import pytest
import torch

from small_families import SIDE, small_detector, small_images
from test_losses_distance import box_of, cells, looped_task_aligned, overlap_of
from yoloquant.models.distance_head import DistanceHead
from yoloquant.models.losses.assigners import group_objects
from yoloquant.models.losses.overlap import complete_iou
from yoloquant.models.registry import build_detector
from yoloquant.models.ultralytics.loss import YOLO26Loss, YOLOv8Loss
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.losses import loss_for

STRIDES, CLASSES, SIZE, IMAGES = (8, 16, 32), 3, (128, 160), 2
GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5}
# Crowded, with objects smaller than two cells of the second level.
TARGETS = torch.tensor(
    [
        [0, 0, 0.50, 0.50, 0.40, 0.50],
        [0, 1, 0.55, 0.52, 0.35, 0.45],
        [0, 2, 0.48, 0.55, 0.30, 0.40],
        [0, 1, 0.20, 0.25, 0.04, 0.05],
        [1, 2, 0.70, 0.30, 0.20, 0.30],
        [1, 0, 0.71, 0.33, 0.25, 0.35],
        [1, 0, 0.10, 0.90, 0.06, 0.03],
    ]
)


def waves(phase):
    """Maps that need no random numbers: box map and class map of each level."""
    maps = []
    for level, stride in enumerate(STRIDES):
        height, width = (side // stride for side in SIZE)
        for kind, channels in enumerate((4, CLASSES)):
            count = IMAGES * channels * height * width
            wave = torch.sin(torch.arange(count, dtype=torch.float64) * (0.7 + 0.1 * level + kind) + phase)
            wave = wave.view(IMAGES, channels, height, width)
            maps.append((wave + 2.2 if kind == 0 else 2 * wave - 1).float())
    return maps


def ours(epoch, epochs=10):
    loss = YOLO26Loss(DistanceHead("rows_final", CLASSES, list(STRIDES), 1), epochs=epochs, **GAINS)
    loss.start_epoch(epoch)
    return loss


# Epoch of ten -> box, class and distance part of `E2ELoss` of ultralytics 8.4.190, for both images together.
PUBLISHED = {
    0: (6.103498, 231.106018, 0.1383329),
    4: (5.822678, 298.935059, 0.1301119),
    9: (5.471652, 383.721283, 0.1198356),
}


@pytest.mark.parametrize("epoch", PUBLISHED)
def test_the_loss_is_the_number_that_ultralytics_gave(epoch):
    result = ours(epoch)([*waves(0.3), *waves(1.1)], TARGETS)
    parts = [IMAGES * result.parts[name].item() for name in ("box", "cls", "l1")]
    assert parts == pytest.approx(PUBLISHED[epoch], rel=1e-5)
    assert result.total.item() == pytest.approx(sum(PUBLISHED[epoch]), rel=1e-5)


def theirs(bins=1):
    """Criterion class and a stand-in of a model for it."""
    criterion = pytest.importorskip("ultralytics.utils.loss")
    head = SimpleNamespace(stride=torch.tensor([8.0, 16.0, 32.0]), nc=CLASSES, reg_max=bins)
    arguments = SimpleNamespace(epochs=10, **GAINS)
    model = SimpleNamespace(parameters=lambda: iter([torch.zeros(1)]), args=arguments, model=[head])
    return criterion, model


def predictions(maps):
    return {
        "boxes": torch.cat([raw.flatten(2) for raw in maps[::2]], 2),
        "scores": torch.cat([raw.flatten(2) for raw in maps[1::2]], 2),
        "feats": maps[::2],
    }


BATCH = {"batch_idx": TARGETS[:, 0], "cls": TARGETS[:, 1:2], "bboxes": TARGETS[:, 2:]}


@pytest.mark.parametrize("epoch", PUBLISHED)
def test_the_loss_is_that_of_ultralytics(epoch):
    criterion, model = theirs()
    published = criterion.E2ELoss(model)
    for _ in range(epoch):
        published.update()
    first, second = waves(0.3), waves(1.1)
    total, _ = published({"one2many": predictions(second), "one2one": predictions(first)}, BATCH)
    result = ours(epoch)([*first, *second], TARGETS)
    parts = [IMAGES * result.parts[name].item() for name in ("box", "cls", "l1")]
    assert parts == pytest.approx(total.tolist(), rel=1e-5)


@pytest.mark.parametrize("bins", [1, 16])
def test_yolov8s_loss_is_that_of_ultralytics(bins):
    """On objects that release 8.4 does not enlarge."""
    criterion, model = theirs(bins)
    large = TARGETS[[0, 1, 2, 4, 5]]
    maps = waves(0.3)
    maps[::2] = [raw.repeat(1, bins, 1, 1) * torch.linspace(0.5, 1.5, 4 * bins).view(1, -1, 1, 1) for raw in maps[::2]]
    batch = {"batch_idx": large[:, 0], "cls": large[:, 1:2], "bboxes": large[:, 2:]}
    total, parts = criterion.v8DetectionLoss(model)(predictions(maps), batch)
    answer = YOLOv8Loss(DistanceHead("columns_classes", CLASSES, list(STRIDES), bins), **GAINS)(maps, large)
    for name in ("box", "cls", *(["dfl"] if bins > 1 else [])):
        assert answer.parts[name].item() == pytest.approx(parts[f"{name}_loss"].item(), rel=1e-4), name
    if bins > 1:
        assert answer.total.item() == pytest.approx(total.sum().item(), rel=1e-4)


def test_an_object_keeps_one_cell_of_the_first_branches_and_small_ones_get_one_too():
    loss = YOLO26Loss(DistanceHead("rows_final", CLASSES, [8, 16], 1), epochs=1)
    targets = torch.tensor([[0, 1, 0.08, 0.08, 0.02, 0.02], [0, 2, 0.6, 0.6, 0.4, 0.4]], dtype=torch.float64)
    maps = []
    for side in (8, 4):
        maps += [
            torch.full((1, 4, side, side), 0.2, dtype=torch.float64),
            torch.zeros(1, CLASSES, side, side, dtype=torch.float64),
        ]
    found = DistanceHead("rows_final", CLASSES, [8, 16], 1).candidates(maps)
    assigned = loss.one(found, cells(), group_objects(targets, 1, 64, 64))
    assert (assigned.scores[0] > 0).sum(0).tolist() == [0, 1, 1]
    expected = looped_task_aligned(found, targets, 7, 0.5, 6.0, overlap_of(complete_iou), keep=1, smallest=16.0)
    for cell, (_, target, score) in expected[0].items():
        assert assigned.scores[0, cell, int(target[1])].item() == pytest.approx(score)
        assert assigned.boxes[0, cell].tolist() == pytest.approx(box_of(target))


def test_shares_fall_over_the_run():
    assert [ours(epoch, 8).shares()[1] for epoch in (0, 7, 9)] == pytest.approx([0.8, 0.1, 0.1])
    assert ours(3, 7).shares() == pytest.approx((0.55, 0.45))
    assert ours(0, 1).shares()[1] == pytest.approx(0.8)


def test_yolo26_trains_with_its_own_loss_and_both_pairs_of_branches_learn():
    detector = small_detector("yolo26n")
    loss = loss_for(detector, hyperparameters_for("yolo26"), SIDE, 5)
    assert isinstance(loss, YOLO26Loss)
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.3, 0.3], [1, 2, 0.6, 0.5, 0.5, 0.6]])
    detector.network.requires_grad_(True)
    result = loss(list(detector.network.train()(small_images(2) / 255.0)), targets)
    assert result.total.item() == pytest.approx(2 * sum(part.item() for part in result.parts.values()), rel=1e-5)
    assert set(result.parts) == {"box", "cls", "l1"}
    result.total.backward()
    head = detector.network.model[-1]
    for branch in (head.cv2, head.cv3, head.one2one_cv2, head.one2one_cv3):
        # Of boxes only levels with an object learn.
        assert any(level[-1].weight.grad.abs().sum() > 0 for level in branch)
    assert type(loss_for(build_detector("yolov10n", ["a"], width=0.06), hyperparameters_for("yolov10"), 64)) is YOLOv8Loss
