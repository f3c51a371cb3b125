"""Precision, recall and average precision against their rules written out, and against ultralytics where it is installed."""

import json

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from small_sets import coco, iou
from yoloquant.data.dataset import load_dataset
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.confusion import confusion_matrix
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.matching import THRESHOLDS, box_iou, corners, indices_by, match_detections, match_objects
from yoloquant.evaluation.precision_recall import average_precision, class_curves, class_figures, precision_recall
from yoloquant.runtime.open import open_runner

# Odd sizes, so that overlaps differ.
corner = st.integers(0, 40)
box = st.tuples(corner, corner, st.integers(5, 37), st.integers(5, 37)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))
boxes = st.lists(box, max_size=6, unique=True)


def as_written(detections, objects, threshold):
    """YOLOv5's rule, step by step: the best object of each detection that overlaps enough, the first detection of each object."""
    best = {}
    for number, detection in enumerate(detections):
        pairs = [(iou(detection, thing), -index) for index, thing in enumerate(objects)]
        overlap, index = max(pairs, default=(0.0, 0))
        if pairs and overlap >= threshold:
            best[number] = -index
    taken = {}
    for number in sorted(best):
        taken.setdefault(best[number], number)
    return [number in taken.values() for number in range(len(detections))]


@settings(max_examples=300, deadline=None)
@given(detections=boxes, objects=boxes)
def test_matching_equals_the_rule_of_yolov5(detections, objects):
    found = match_detections(np.array(detections, float).reshape(-1, 4), np.array(objects, float).reshape(-1, 4))
    for column, threshold in enumerate(THRESHOLDS):
        assert found[:, column].tolist() == as_written(detections, objects, threshold)


def test_a_detection_keeps_its_best_object_and_an_object_its_most_confident_detection():
    objects = np.array([[0, 0, 10, 10], [0, 0, 10, 14]], float)
    # The second overlaps the first object best, which the first detection has; it does not take the other one.
    detections = np.array([[0, 0, 10, 9], [0, 0, 10, 10]], float)
    assert match_detections(detections, objects)[:, 0].tolist() == [True, False]
    # The more confident one wins, and not the one that overlaps more.
    assert match_detections(detections[::-1], objects)[:, 0].tolist() == [True, False]


@settings(max_examples=100, deadline=None)
@given(hits=st.lists(st.booleans(), min_size=1, max_size=30), missed=st.integers(0, 10))
def test_average_precision_is_the_area_under_the_envelope(hits, missed):
    count = max(1, sum(hits) + missed)
    scores = np.linspace(0.9, 0.1, len(hits))
    (found,) = average_precision(scores, np.array(hits, bool)[:, None], count)
    right = np.cumsum(hits)
    precision, recall = right / np.arange(1, len(hits) + 1), right / count
    # A fine grid instead of 101 recalls: the two agree to the grid's width.
    grid = np.linspace(0, 1, 100001)
    x = np.concatenate([[0], recall, [recall[-1], 1]])
    y = [max(precision[index:], default=0) for index in range(len(hits))]
    envelope = np.interp(grid, x, np.concatenate([[max([1.0, *y])], y, [0, 0]]))
    assert found == pytest.approx(envelope.mean(), abs=0.011)


def test_precision_and_recall_at_the_best_confidence():
    truth = coco({1: [[10, 10, 20, 20], [60, 60, 20, 20]]})
    rows = [
        {"image_id": 1, "category_id": 0, "bbox": [10, 10, 20, 20], "score": 0.9},
        {"image_id": 1, "category_id": 0, "bbox": [60, 60, 20, 20], "score": 0.8},
        {"image_id": 1, "category_id": 0, "bbox": [0, 80, 5, 5], "score": 0.1},
    ]
    found = precision_recall(class_curves(match_objects(truth, table_from_rows(rows), [1])))
    # Between the confidences of two detections the curve is a line, so the best point lies a little to one side.
    assert found.precision == pytest.approx(100, abs=3)
    assert found.recall == pytest.approx(100, abs=3)
    assert 0.1 < found.confidence < 0.8
    nothing = precision_recall(class_curves(match_objects(truth, table_from_rows([]), [1])))
    assert (nothing.recall, nothing.f1, nothing.map50_95) == (0, 0, 0)
    missed = precision_recall(class_curves(match_objects(truth, table_from_rows(rows[:1]), [1])))
    assert missed.recall == pytest.approx(50, abs=0.5)


@settings(max_examples=50, deadline=None)
@given(first=st.lists(box, min_size=1, max_size=5), second=st.lists(box, min_size=1, max_size=5))
def test_iou_matrix(first, second):
    expected = [[iou(a, b) for b in second] for a in first]
    np.testing.assert_allclose(box_iou(np.array(first, float), np.array(second, float)), expected, atol=1e-9)


# What `yolo val` of ultralytics 8.4.190 reads for YOLOv8n on the 634 photographs at 640 pixels, confidence 0.001, IoU 0.6, 300
# boxes: precision, recall, F1, mAP50-95 and mAP50 as it prints them, and COCO's mAP50-95 and mAP50 of its boxes, with the label
# files as ground truth.
BY_ULTRALYTICS = {
    False: ((58.750, 51.577, 52.820, 38.297, 54.749), (38.574, 54.888)),
    # With one image in a batch: larger ones are padded to the most nearly square image in them.
    True: ((63.212, 48.651, 52.782, 38.659, 55.027), (38.925, 55.136)),
}


def linked_set(shared, folder, count=None):
    """The val photographs with label files, without annotations, in a folder that ultralytics may write its cache to."""
    for kind in ("images", "labels"):
        (folder / kind / "val2017").mkdir(parents=True)
        for path in sorted((shared / "coco" / kind / "val2017").iterdir())[:count]:
            (folder / kind / "val2017" / path.name).symlink_to(path)
    names = load_dataset(shared / "coco" / "data.yaml").names
    path = folder / "data.yaml"
    path.write_text(f"path: {folder}\ntrain: images/val2017\nval: images/val2017\nnames: {json.dumps(names)}\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("rectangular", [False, True])
def test_figures_equal_those_of_ultralytics(rectangular, shared, tmp_path):
    dataset = load_dataset(linked_set(shared, tmp_path))
    found = evaluate(open_runner(shared / "weights" / "yolov8n.pt"), dataset, EvaluationSettings(rectangular=rectangular))
    printed, by_coco = BY_ULTRALYTICS[rectangular]
    assert (found.map50_95, found.map50) == pytest.approx(by_coco, abs=0.01)
    figures = found.classification
    assert (figures.map50_95, figures.map50) == pytest.approx(printed[3:], abs=0.05)
    # Where F1 hardly changes, other matches move the confidence that precision and recall are read at.
    assert figures.f1 == pytest.approx(printed[2], abs=0.1)
    assert (figures.precision, figures.recall) == pytest.approx(printed[:2], abs=1.0 if rectangular else 0.01)


@pytest.mark.parametrize(("size", "rectangular"), [(640, False), (640, True)])
def test_a_few_images_equal_the_installed_ultralytics(size, rectangular, shared, tmp_path, monkeypatch):
    monkeypatch.setenv("YOLO_OFFLINE", "1")
    monkeypatch.setenv("YOLO_AUTOINSTALL", "false")
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    ultralytics = pytest.importorskip("ultralytics")
    try:
        import torchvision.ops  # noqa: F401
    except (ImportError, RuntimeError):
        pytest.skip("ultralytics needs a torchvision that fits torch")
    path = linked_set(shared, tmp_path / "set", 12)
    options = {"imgsz": size, "rect": rectangular, "batch": 1, "conf": 0.001, "iou": 0.6, "max_det": 300, "workers": 0}
    model = ultralytics.YOLO(shared / "weights" / "yolov8n.pt")
    theirs = model.val(data=path, **options, plots=False, save_json=True, device="cpu", project=tmp_path / "runs", name="val")
    dataset = load_dataset(path)
    ours = evaluate(
        open_runner(shared / "weights" / "yolov8n.pt"),
        dataset,
        EvaluationSettings(image_size=(size, size), rectangular=rectangular),
    )
    expected = (theirs.box.map * 100, theirs.box.map50 * 100)
    assert (ours.classification.map50_95, ours.classification.map50) == pytest.approx(expected, abs=0.5)
    # Their boxes by our rules: everything but the matching is equal, up to the last bits of scores that choose a confidence.
    written = json.loads((tmp_path / "runs" / "val" / "predictions.json").read_text())
    rows = [{**row, "category_id": row["category_id"] - 1} for row in written]
    ids = [entry.image_id for entry in dataset.images]
    figures, _ = coco_figures(dataset.ground_truth, table_from_rows(rows), ids)
    assert (ours.map50_95, ours.map50) == pytest.approx((figures["mAP50-95"], figures["mAP50"]), abs=0.02)
    assert ours.classification.f1 == pytest.approx(
        precision_recall(class_curves(match_objects(dataset.ground_truth, table_from_rows(rows), ids))).f1, abs=0.02
    )


@st.composite
def sets(draw):
    """Truth and detections of a few images, boxes near the objects and far from them."""
    truth = coco({image: draw(st.lists(box, max_size=4, unique=True)) for image in (3, 5, 8)}, classes=3)
    for annotation in truth["annotations"]:
        x1, y1, x2, y2 = annotation["bbox"]
        annotation.update(bbox=[x1, y1, x2 - x1, y2 - y1], category_id=draw(st.integers(0, 2)))
    rows = []
    for annotation in truth["annotations"]:
        for _ in range(draw(st.integers(0, 2))):
            moved = [value + draw(st.integers(-3, 3)) for value in annotation["bbox"][:2]]
            category = draw(st.sampled_from([annotation["category_id"], 0]))
            rows.append({**annotation, "bbox": [*moved, *annotation["bbox"][2:]], "category_id": category})
    rows += [{"image_id": 8, "bbox": [200, 200, 9, 9], "category_id": 1}] * draw(st.integers(0, 1))
    # Different scores: what equal ones keep is chance in both.
    scores = draw(st.permutations(range(len(rows))))
    for row, rank in zip(rows, scores, strict=True):
        row["score"] = 0.9 - 0.8 * rank / max(1, len(rows))
    return truth, table_from_rows([{key: row[key] for key in ("image_id", "bbox", "category_id", "score")} for row in rows])


@pytest.fixture
def metrics(monkeypatch, tmp_path):
    """The module of ultralytics."""
    for name, value in (("YOLO_OFFLINE", "1"), ("YOLO_AUTOINSTALL", "false"), ("YOLO_CONFIG_DIR", str(tmp_path / "config"))):
        monkeypatch.setenv(name, value)
    pytest.importorskip("ultralytics")
    try:
        from ultralytics.utils import metrics
    except (ImportError, RuntimeError):
        pytest.skip("ultralytics needs a torchvision that fits torch")
    return metrics


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=sets())
def test_the_confusion_matrix_is_that_of_ultralytics(metrics, found):
    truth, table = found
    matches = match_objects(truth, table, [3, 5, 8])
    boxes = corners(table.boxes)
    expected = metrics.ConfusionMatrix(names=dict(enumerate("abc")))
    detections, objects = indices_by(table.image_ids), matches.objects.by_image()
    for image in (3, 5, 8):
        own, things = detections.get(image, np.zeros(0, int)), objects.get(image, np.zeros(0, int))
        expected.process_batch(
            {
                "cls": torch.tensor(table.classes[own]),
                "conf": torch.tensor(table.scores[own]),
                "bboxes": torch.tensor(boxes[own]),
            },
            {"cls": torch.tensor(matches.objects.classes[things]), "bboxes": torch.tensor(matches.objects.boxes[things])},
        )
    np.testing.assert_array_equal(confusion_matrix(matches.objects, table, 3), expected.matrix)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=sets())
def test_curves_of_classes_are_those_of_ultralytics(metrics, found):
    matches = match_objects(*found, [3, 5, 8])
    curves = class_curves(matches)
    if not len(curves.classes):
        assert np.isnan(precision_recall(curves).f1)
        return
    answer = metrics.ap_per_class(matches.hits, matches.scores, matches.classes, matches.objects.classes)
    _, _, precision, recall, f1, areas, classes, p_curve, r_curve, f1_curve, _, over_recall = answer
    np.testing.assert_array_equal(curves.classes, classes)
    named = {"precision": p_curve, "recall": r_curve, "f1": f1_curve, "average_precision": areas}
    for name, expected in {**named, "precision_at_recall": over_recall}.items():
        np.testing.assert_allclose(getattr(curves, name), expected, atol=1e-9, err_msg=name)
    figures = class_figures(curves, dict(enumerate("abc")))
    assert [entry.name for entry in figures] == ["abc"[index] for index in classes]
    for values, name in ((precision, "precision"), (recall, "recall"), (areas[:, 0], "map50"), (areas.mean(1), "map50_95")):
        np.testing.assert_allclose([getattr(entry, name) for entry in figures], values * 100, atol=1e-7)
    assert precision_recall(curves).f1 == pytest.approx(f1.mean() * 100)
    counts = {index: [a for a in found[0]["annotations"] if a["category_id"] == index] for index in classes}
    assert [entry.objects for entry in figures] == [len(own) for own in counts.values()]
    assert [entry.images for entry in figures] == [len({a["image_id"] for a in own}) for own in counts.values()]
