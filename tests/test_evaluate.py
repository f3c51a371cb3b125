"""Suppression, metrics and drawing against brute force and against the real photographs."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import coco, iou
from yoloquant.data.dataset import load_dataset
from yoloquant.errors import DataError
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.postprocess import Detections, detections_of, greedy_suppression, non_maximum_suppression
from yoloquant.evaluation.predict import draw_detections, find_images, predict_to_files, side_by_side
from yoloquant.runtime.open import open_runner


def brute_force(boxes, classes, threshold):
    kept = []
    for index in range(len(boxes)):
        if all(classes[index] != classes[k] or iou(boxes[index], boxes[k]) <= threshold for k in kept):
            kept.append(index)
    return kept


# Corners on a coarse grid, so that equal and touching boxes occur; odd thresholds, so that ties with them do not.
corner = st.integers(0, 12)
box = st.tuples(corner, corner, st.integers(1, 8), st.integers(1, 8)).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3]))

boxes_of_classes = st.lists(st.tuples(box, st.integers(0, 2)), min_size=1, max_size=30)


@settings(max_examples=200, deadline=None)
@given(items=boxes_of_classes, threshold=st.sampled_from([0.313, 0.457, 0.613]))
def test_suppression_equals_the_greedy_definition(items, threshold):
    boxes = np.array([item[0] for item in items], np.float32)
    classes = np.array([item[1] for item in items])
    expected = brute_force(boxes.tolist(), classes.tolist(), threshold)
    assert greedy_suppression(boxes, classes, threshold, 300).tolist() == expected
    assert greedy_suppression(boxes, classes, threshold, 2).tolist() == expected[:2]


def test_multi_label_and_class_agnostic():
    boxes = np.array([[[0, 0, 10, 10], [1, 1, 11, 11], [50, 50, 60, 60]]], np.float32)
    scores = np.array([[[0.9, 0.8], [0.7, 0.6], [0.0, 0.3]]], np.float32)
    (found,) = non_maximum_suppression(boxes, scores, 0.1, 0.5)
    assert found.classes.tolist() == [0, 1, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.3])
    (found,) = non_maximum_suppression(boxes, scores, 0.1, 0.5, class_agnostic=True)
    assert found.scores.round(1).tolist() == pytest.approx([0.9, 0.3])
    (found,) = non_maximum_suppression(boxes, scores, 0.1, 0.5, multi_label=False, max_detections=1)
    assert len(found) == 1
    (found,) = non_maximum_suppression(boxes, scores, 0.95, 0.5)
    assert len(found) == 0


def test_figures_of_cases_known_by_hand():
    truth = coco({1: [[10, 10, 20, 20]], 2: [[10, 10, 20, 20]]}, classes=2)
    perfect = [{"image_id": i, "category_id": 0, "bbox": [10, 10, 20, 20], "score": 0.9} for i in (1, 2)]
    figures, per_class = coco_figures(truth, perfect, [1, 2])
    assert figures["mAP50-95"] == pytest.approx(100)
    assert np.isnan(figures["mAP50-95 large"])
    assert np.isnan(per_class[1][0])
    # Half of the objects found: precision 1 up to recall 0.5, that is 51 of COCO's 101 points.
    figures, _ = coco_figures(truth, perfect[:1], [1, 2])
    assert figures["mAP50"] == pytest.approx(100 * 51 / 101)
    # A box with IoU 0.6 counts at the thresholds 0.50, 0.55 and 0.60.
    shifted = [{**row, "bbox": [10, 15, 20, 20]} for row in perfect]
    figures, _ = coco_figures(truth, shifted, [1, 2])
    assert figures["mAP50-95"] == pytest.approx(30)
    figures, _ = coco_figures(truth, [], [1, 2])
    assert figures["mAP50-95"] == 0


def test_runtimes_agree_on_photographs(shared):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    settings = EvaluationSettings(limit=24)
    in_torch = evaluate(open_runner(shared / "weights" / "yolov5n.pt"), dataset, settings)
    foreign = evaluate(open_runner(shared / "weights" / "yolov5n.onnx"), dataset, settings)
    assert in_torch.image_count == 24
    assert in_torch.map50_95 > 20
    # The same network from another exporter.
    assert foreign.map50_95 == pytest.approx(in_torch.map50_95, abs=0.3)


@pytest.mark.slow
def test_float_yolov5n_on_all_photographs(shared):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    in_torch = evaluate(open_runner(shared / "weights" / "yolov5n.pt"), dataset)
    in_onnxruntime = evaluate(open_runner(shared / "weights" / "yolov5n.pt", "onnxruntime"), dataset)
    assert in_torch.map50_95 == pytest.approx(27.3, abs=0.2)
    assert in_onnxruntime.map50_95 == pytest.approx(in_torch.map50_95, abs=0.05)


def test_other_classes_are_refused(shared):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    runner = open_runner(shared / "checkpoints" / "yolov5n_v60_custom2.pt")
    with pytest.raises(DataError, match="the model has 2 classes but the data set has 80"):
        evaluate(runner, dataset)


def test_predictions_are_drawn_side_by_side(shared, tmp_path):
    runner = open_runner(shared / "weights" / "yolov5n.pt")
    entries = find_images([shared / "coco" / "images" / "val2017" / "000000000139.jpg"])
    ((path, found),) = predict_to_files(runner, entries, tmp_path, compare=runner, titles=("a", "b"))
    assert len(found) > 3
    names = {runner.names[index] for index in found.classes}
    assert {"tv", "chair", "person"} <= names
    assert path.stat().st_size > 10_000
    # Boxes are in the picture's own pixels, 640 x 426.
    assert found.boxes[:, 2].max() <= 640
    assert found.boxes[:, 3].max() <= 426


def test_drawing_leaves_the_image_alone():
    image = np.zeros((50, 80, 3), np.uint8)
    found = Detections(np.array([[10, 10, 40, 40]], np.float32), np.array([0.5], np.float32), np.array([0]))
    drawn = draw_detections(image, found, ["thing"])
    assert not image.any()
    assert drawn[10, 10:40].any(axis=-1).all()
    assert side_by_side([("a", drawn), ("b", drawn)]).shape[1] == 160


def test_outputs_that_wait_are_few_and_detections_keep_the_order(shared, monkeypatch):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    runner = open_runner(shared / "weights" / "yolov5n.pt")
    alive, most = [0], [0]

    class Output(np.ndarray):
        """Counts itself."""

        def __array_finalize__(self, _):
            alive[0] += 1
            most[0] = max(most[0], alive[0])

        def __del__(self):
            alive[0] -= 1

    class Fast:
        """Answers at once with what the first image gave."""

        def __init__(self):
            self.output = runner(np.zeros((1, 3, 64, 64), np.float32))

        def __getattr__(self, name):
            return getattr(runner, name)

        def __call__(self, images):
            return np.repeat(self.output, len(images), axis=0).view(Output)

    def slow(*given, **options):
        time.sleep(0.03)
        return detections_of(*given, **options)

    monkeypatch.setattr("yoloquant.evaluation.evaluator.detections_of", slow)
    found = evaluate(Fast(), dataset, EvaluationSettings(limit=24, batch_size=1, image_size=(64, 64), confidence=1e-5))
    assert found.image_count == 24
    # Views of one output count, too: a few for each that waits, and not for each image.
    assert most[0] < 20
    ids = [entry.image_id for entry in dataset.images[:24]]
    assert list(dict.fromkeys(found.detections.image_ids.tolist())) == ids
    table = found.detections
    again = table_from_rows(table.rows())
    for name in ("image_ids", "classes"):
        assert np.array_equal(getattr(again, name), getattr(table, name))
    np.testing.assert_allclose(again.boxes, table.boxes, atol=6e-4)
    np.testing.assert_allclose(again.scores, table.scores, atol=6e-7)
    rows = found.rows
    evaluated = [sorted(row) for row in rows[:3]]
    coco_figures(dataset.ground_truth, rows, ids)
    assert [sorted(row) for row in rows[:3]] == evaluated
