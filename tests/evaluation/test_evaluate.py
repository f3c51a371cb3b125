"""Suppression, metrics and drawing against brute force and against the real photographs."""

import re
import shutil
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from small_sets import coco, iou
from yoloquant.assets import demo_weights
from yoloquant.cli import app
from yoloquant.data.dataset import load_dataset
from yoloquant.data.images import read_image
from yoloquant.data.sources import find_sources
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation import coco_metrics
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.drawing import draw_detections, side_by_side
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.matching import match_objects
from yoloquant.evaluation.postprocess import Detections, detections_of, greedy_suppression, non_maximum_suppression
from yoloquant.evaluation.precision_recall import class_curves, class_figures
from yoloquant.evaluation.predict import PredictionSettings, predict
from yoloquant.evaluation.prediction_files import PredictionFiles, predict_to_files
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
    figures, per_class = coco_figures(truth, table_from_rows(perfect), [1, 2])
    assert figures["mAP50-95"] == pytest.approx(100)
    assert np.isnan(figures["mAP50-95 large"])
    assert np.isnan(per_class[1][0])
    # Half of the objects found: precision 1 up to recall 0.5, that is 51 of COCO's 101 points.
    figures, _ = coco_figures(truth, table_from_rows(perfect[:1]), [1, 2])
    assert figures["mAP50"] == pytest.approx(100 * 51 / 101)
    # A box with IoU 0.6 counts at the thresholds 0.50, 0.55 and 0.60.
    shifted = [{**row, "bbox": [10, 15, 20, 20]} for row in perfect]
    figures, _ = coco_figures(truth, table_from_rows(shifted), [1, 2])
    assert figures["mAP50-95"] == pytest.approx(30)
    figures, _ = coco_figures(truth, table_from_rows([]), [1, 2])
    assert figures["mAP50-95"] == 0


def whole_evaluation(truth, rows, ids):
    """The twelve figures as faster-coco-eval summarizes all classes and images together."""
    from faster_coco_eval import COCO, COCOeval_faster

    ground = COCO(truth)
    evaluation = COCOeval_faster(ground, ground.loadRes([{**row, "segmentation": []} for row in rows]), "bbox")
    evaluation.params.imgIds = ids
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [np.nan if value < 0 else value * 100 for value in evaluation.stats[:12]]


@pytest.mark.parametrize("at_once", [1, 40, 500_000])
def test_figures_of_classes_in_parts_are_those_of_all_together(at_once, monkeypatch):
    monkeypatch.setattr(coco_metrics, "_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    boxes = {image: random.uniform(1, 120, (random.integers(0, 8), 4)).tolist() for image in range(1, 30)}
    # Classes without objects, without detections and without either; crowds; small, medium and large objects.
    truth = coco(boxes, classes=9)
    for annotation in truth["annotations"]:
        annotation.update(category_id=int(random.integers(0, 6)), iscrowd=int(random.random() < 0.1))
    rows = [
        {
            "image_id": annotation["image_id"],
            "category_id": annotation["category_id"] if random.random() < 0.8 else int(random.integers(1, 9)),
            "bbox": (np.array(annotation["bbox"]) + random.normal(0, 3, 4)).clip(1).tolist(),
            "score": float(random.random()),
        }
        for annotation in truth["annotations"] * 2
        if annotation["category_id"] != 0
    ]
    ids = list(range(3, 28))
    table = table_from_rows(rows)
    figures, per_class = coco_figures(truth, table, ids)
    assert list(figures.values()) == pytest.approx(whole_evaluation(truth, list(table.rows()), ids), nan_ok=True)
    assert sorted(per_class) == list(range(9))
    assert np.isnan([per_class[category] for category in (6, 7, 8)]).all()


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
    file = shared / "coco" / "images" / "val2017" / "000000000139.jpg"
    files = PredictionFiles(output=tmp_path)
    (done,) = predict_to_files(runner, find_sources([file]), files, compare=runner, titles=("a", "b"))
    ((image, found),) = predict(runner, [read_image(file)], PredictionSettings())
    assert image.shape == (426, 640, 3)
    assert done.objects == len(found) > 3
    names = {runner.names[index] for index in found.classes}
    assert {"tv", "chair", "person"} <= names
    path = tmp_path / "000000000139.jpg"
    assert done.name == str(path)
    # Two pictures in a row, under a title.
    assert read_image(path).shape == (426 + 28, 2 * 640, 3)
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


def test_the_command_prints_the_table_of_ultralytics_and_writes_its_plots(tmp_path):
    data = write_generated_dataset(tmp_path / "set", train=1, val=20)
    out = tmp_path / "plots"
    command = ["evaluate", str(demo_weights()), "--data", str(data), "--verbose", "--plots", "png", "--output", str(out)]
    answer = CliRunner().invoke(app, command)
    assert answer.exit_code == 0, answer.output
    dataset = load_dataset(data)
    found = evaluate(open_runner(demo_weights()), dataset)
    lines = [re.split(r"[\s│┃]+", line.strip("│┃ ")) for line in answer.output.splitlines()]
    (heading,) = [number for number, line in enumerate(lines) if line[:2] == ["Class", "Images"]]
    assert lines[heading] == ["Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95"]
    labels = [annotation["category_id"] for annotation in dataset.ground_truth["annotations"]]
    means = found.classification
    figures = [f"{value:.1f}" for value in (means.precision, means.recall, means.map50, means.map50_95)]
    assert lines[heading + 2] == ["all", "20", str(len(labels)), *figures]
    rows = {line[0]: line for line in lines if line[0] in dataset.names}
    assert {name: int(row[2]) for name, row in rows.items()} == {
        name: labels.count(index) for index, name in enumerate(dataset.names) if index in labels
    }
    assert re.search(r"speed: for an image [\d.]+ ms before the network .+, [\d.]+ ms in it, [\d.]+ ms after it", answer.output)
    assert found.seconds["before"] > 0.0 < found.seconds["after"]
    names = ["F1_curve.png", "PR_curve.png", "P_curve.png", "R_curve.png", "confusion_matrix.png", "pictures"]
    assert sorted(path.name for path in out.iterdir()) == names
    pictures = sorted((out / "pictures").iterdir())
    assert len(pictures) == 16
    first = read_image(dataset.images[0].path)
    assert read_image(pictures[0]).shape == (first.shape[0] + 28, 2 * first.shape[1], 3)
    # Another run replaces what this one left, and never an image that it reads.
    assert CliRunner().invoke(app, command).exit_code == 0
    (out / "pictures").rename(out / "moved")
    shutil.copytree(data.parent / "images" / "val", out / "pictures")
    answer = CliRunner().invoke(app, ["evaluate", str(demo_weights()), "--data", str(out / "pictures"), *command[5:]])
    assert isinstance(answer.exception, YoloquantError)
    assert "would stand among the images that are read" in str(answer.exception)


def test_classes_without_objects_are_left_out(tmp_path):
    truth = coco({1: [[10, 10, 20, 20]], 2: []}, classes=3)
    matches = match_objects(truth, table_from_rows([]), [1, 2])
    (only,) = class_figures(class_curves(matches), dict(enumerate("abc")))
    assert (only.name, only.images, only.objects, only.precision, only.recall, only.map50) == ("a", 1, 1, 0, 0, 0)
