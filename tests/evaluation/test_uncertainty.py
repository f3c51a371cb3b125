"""The jackknife against its formula written out, and against a bootstrap of COCO's own figures on real detections."""

import numpy as np
import pytest

from small_sets import coco
from yoloquant.data.dataset import load_dataset
from yoloquant.evaluation.coco_metrics import coco_figures
from yoloquant.evaluation.detection_table import table_from_rows
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.evaluator import EvaluationSettings, evaluate
from yoloquant.evaluation.matching import match_objects
from yoloquant.evaluation.precision_recall import class_curves, class_figures, precision_recall
from yoloquant.evaluation.uncertainty import Loss, class_losses, groups_of, left_out_precision, map_loss, standard_error
from yoloquant.runtime.open import open_runner


def made(images=40, classes=3, seed=0):
    """Truth, and rows of a better and a worse model."""
    chance = np.random.default_rng(seed)
    truth = coco({image: [[10, 10, 20, 20], [60, 60, 30, 20]] for image in range(images)}, classes=classes)
    rows = ([], [])
    for annotation in truth["annotations"]:
        annotation["category_id"] = int(chance.integers(classes))
        for model, shift in ((0, 1.0), (1, 2.0)):
            x, y, w, h = annotation["bbox"]
            moved = [x + shift * chance.normal(), y + shift * chance.normal(), w, h]
            score = float(chance.uniform(0.1, 1.0))
            rows[model].append({"image_id": annotation["image_id"], "category_id": annotation["category_id"],
                                "bbox": moved, "score": score})  # fmt: skip
    return truth, *rows


def evaluation_of(truth, rows, ids):
    figures, per_class = coco_figures(truth, table_from_rows(rows), ids)
    names = {category["id"]: category["name"] for category in truth["categories"]}
    table = table_from_rows(rows)
    matches = match_objects(truth, table, ids)
    curves = class_curves(matches)
    return Evaluation(
        figures=figures, classification=precision_recall(curves), classes=class_figures(curves, names),
        per_class={names[index]: values for index, values in per_class.items()}, image_count=len(ids), seconds={},
        detections=table, matches=matches,
    )  # fmt: skip


def test_each_group_is_left_out_once():
    truth, rows, _ = made()
    ids = list(range(40))
    found = left_out_precision(match_objects(truth, table_from_rows(rows), ids))
    groups = groups_of(np.arange(40))
    assert np.bincount(groups).tolist() == [2] * 20
    assert (np.diff(groups) >= 0).all()
    assert found.shape == (20, 3)
    for group in (0, 7, 19):
        rest = [image for image in ids if groups[image] != group]
        expected = class_curves(match_objects(truth, table_from_rows(rows), rest)).average_precision.mean(axis=1) * 100
        np.testing.assert_allclose(found[group], expected, atol=1e-9)


def test_the_error_of_a_mean_is_that_of_the_textbook():
    # Left out one by one, the jackknife of a mean is the standard deviation over the root of the count.
    values = np.random.default_rng(0).normal(size=30)
    means = (values.sum() - values) / 29
    assert standard_error(means) == pytest.approx(values.std(ddof=1) / np.sqrt(30))
    assert np.isnan(standard_error(means[:1]))
    assert np.isnan(standard_error(np.array([1.0, np.nan])))


def test_a_model_loses_nothing_against_itself():
    truth, rows, worse = made()
    first, second = (evaluation_of(truth, found, list(range(40))) for found in (rows, worse))
    assert map_loss(first, first) == Loss(0.0, 0.0)
    assert all(entry.certainty == 0.0 for entry in class_losses(first, first))
    loss = map_loss(first, second)
    assert loss.value > 10
    assert 0.5 < loss.error < loss.value
    certain = [entry.certainty for entry in class_losses(first, second)]
    assert certain == sorted(certain, reverse=True)
    assert {entry.name: (entry.objects, entry.images) for entry in class_losses(first, second)} == {
        entry.name: (entry.objects, entry.images) for entry in first.classes
    }


def test_where_it_cannot_be_known_nothing_is_claimed():
    truth, rows, worse = made(images=6, classes=2)
    first = evaluation_of(truth, rows, list(range(6)))
    # Other images, one image, and no object at all.
    assert np.isnan(map_loss(first, evaluation_of(truth, worse, list(range(5)))).error)
    one = evaluation_of(truth, rows, [0])
    assert np.isnan(map_loss(one, one).error)
    assert str(map_loss(one, one)) == "0.00"
    empty = evaluation_of({**truth, "annotations": []}, rows, list(range(6)))
    assert np.isnan(map_loss(empty, empty).error)
    # A class whose objects are all in one image.
    for annotation in truth["annotations"]:
        annotation["category_id"] = int(annotation["image_id"] == 3)
    rows = [{**row, "category_id": int(row["image_id"] == 3)} for row in rows]
    rare = evaluation_of(truth, rows, list(range(6)))
    last = class_losses(rare, rare)[-1]
    assert last.name == "1"
    assert np.isnan(last.loss.error)
    assert last.certainty == float("-inf")


def bootstrap(truth, both, ids, count, seed=0):
    """Standard deviation of the difference of COCO's mAP over sets of images drawn with replacement."""
    chance = np.random.default_rng(seed)
    annotations, rows = {}, [{}, {}]
    for annotation in truth["annotations"]:
        annotations.setdefault(annotation["image_id"], []).append(annotation)
    for own, found in zip(rows, both, strict=True):
        for row in found:
            own.setdefault(row["image_id"], []).append(row)
    differences = []
    for _ in range(count):
        drawn = list(enumerate(chance.choice(ids, len(ids)).tolist()))
        again = {
            **truth,
            "images": [{"id": new, "width": 640, "height": 640, "file_name": str(new)} for new, _ in drawn],
            "annotations": [{**a, "image_id": new} for new, old in drawn for a in annotations.get(old, ())],
        }
        for number, annotation in enumerate(again["annotations"], 1):
            annotation["id"] = number
        sets = [[{**row, "image_id": new} for new, old in drawn for row in own.get(old, ())] for own in rows]
        maps = [coco_figures(again, table_from_rows(found), list(range(len(drawn))))[0]["mAP50-95"] for found in sets]
        differences.append(maps[0] - maps[1])
    return float(np.std(differences, ddof=1))


def test_the_jackknife_agrees_with_a_bootstrap_on_real_detections(shared):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    runner = open_runner(shared / "weights" / "yolov5n.pt")
    # One network at two sizes is as two networks, one of which is a little worse.
    first, second = (
        evaluate(runner, dataset, EvaluationSettings(limit=64, image_size=(size, size), confidence=0.05)) for size in (320, 288)
    )
    ids = first.matches.objects.images.tolist()
    # Persons and all else: with a few objects of each of 80 classes, which ones are drawn at all decides a bootstrap.
    truth = {**dataset.ground_truth, "annotations": [pooled(entry) for entry in dataset.ground_truth["annotations"]]}
    rows = [[pooled(row) for row in found.rows] for found in (first, second)]
    first, second = (evaluation_of(truth, own, ids) for own in rows)
    # Both are estimates: of 20 groups one knows the error to some 16 %, of 60 draws to some 9 %.
    assert map_loss(first, second).error == pytest.approx(bootstrap(truth, rows, ids, 60), rel=0.4)
    # What both models share cancels.
    assert map_loss(first, second).error < 0.8 * standard_error(first.left_out.mean(axis=1))


def pooled(entry):
    return {**entry, "category_id": min(entry["category_id"], 1)}


@pytest.mark.slow
def test_the_jackknife_agrees_with_a_bootstrap_on_all_photographs(shared):
    dataset = load_dataset(shared / "coco" / "data.yaml")
    runner = open_runner(shared / "weights" / "yolov5n.pt", "onnxruntime")
    settings = [EvaluationSettings(confidence=0.02, max_detections=count) for count in (300, 8)]
    first, second = (evaluate(runner, dataset, found) for found in settings)
    ids = first.matches.objects.images.tolist()
    expected = bootstrap(dataset.ground_truth, (first.rows, second.rows), ids, 100)
    assert map_loss(first, second).error == pytest.approx(expected, rel=0.35)
