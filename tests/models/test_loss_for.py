"""The loss that a detector gets: by family, with gains for its size."""

import pytest
import torch

from yoloquant.checkpoint.from_module import from_module
from yoloquant.checkpoint.read import read_detector
from yoloquant.errors import YoloquantError
from yoloquant.models.losses.overlap import angle_iou, generalized_iou
from yoloquant.models.registry import build_detector
from yoloquant.models.ultralytics.loss import YOLOv8Loss
from yoloquant.models.yolov5.loss import YOLOv5Loss
from yoloquant.models.yolov6.loss import YOLOv6Loss
from yoloquant.models.yolov7.loss import YOLOv7Loss
from yoloquant.training.hyperparameters import hyperparameters_for
from yoloquant.training.losses import loss_for


def loss_of(detector, size=640, **changes):
    return loss_for(detector, hyperparameters_for(detector.family, **changes), size)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("yolov5n_v70_custom5", YOLOv5Loss),
        ("yolov6n_w12", YOLOv6Loss),
        ("yolov6s_repopt_w12", YOLOv6Loss),
        ("yolov7_training_w12", YOLOv7Loss),
        ("yolov7-tiny_w25", YOLOv7Loss),
        ("yolov8n_w12", YOLOv8Loss),
        ("yolo11n_w12", YOLOv8Loss),
    ],
)
def test_official_checkpoints_get_a_loss_that_reaches_their_weights(name, kind, shared):
    detector = read_detector(shared / "checkpoints" / f"{name}.pt")
    loss = loss_of(detector, 128)
    assert type(loss) is kind
    targets = torch.tensor([[0, 1, 0.4, 0.4, 0.3, 0.3], [1, 2, 0.6, 0.5, 0.5, 0.6]])
    result = loss(list(detector.network.train()(torch.rand(2, 3, 128, 128))), targets)
    result.total.backward()
    gradients = [p.grad for p in detector.network.parameters() if p.grad is not None]
    assert len(gradients) > 100
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert set(result.parts) >= {"box", "cls"}


def test_gains_of_anchor_losses_follow_classes_levels_and_image_size():
    detector = build_detector("yolov5n", [str(index) for index in range(8)], width=0.06)
    weights = loss_of(detector, 320).weights
    assert weights["box"] == pytest.approx(0.05)
    assert weights["cls"] == pytest.approx(0.5 * 8 / 80)
    assert weights["obj"] == pytest.approx(1.0 / 4)
    assert loss_of(detector, 640, box=0.1, obj=0.7).weights["obj"] == pytest.approx(0.7)


@pytest.mark.parametrize("chooses", [True, False])
def test_yolov7_chooses_cells_unless_told_otherwise(chooses):
    loss = loss_of(build_detector("yolov7-tiny", ["a", "b"], 64, width=0.25), **({} if chooses else {"loss_ota": 0}))
    assert isinstance(loss, YOLOv7Loss)
    assert loss.chooses is chooses


def test_the_overlap_of_yolov6_is_its_sizes():
    names = ["a", "b"]
    assert loss_of(build_detector("yolov6n", names)).overlap is angle_iou
    small = build_detector("yolov6s", names)
    assert loss_of(small).overlap is generalized_iou
    assert loss_of(small, iou_type="siou").overlap is angle_iou


def test_a_head_of_ones_own_has_no_loss():
    own = from_module(torch.nn.Conv2d(3, 8, 8, 8), lambda maps: maps[0].flatten(2), names=["a"], strides=[8])
    with pytest.raises(YoloquantError, match="no training loss"):
        loss_of(own)
