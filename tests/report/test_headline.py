"""The sentence and the tiles that a report begins with, from figures that are set by hand."""

import numpy as np
import pytest

from test_uncertainty import evaluation_of, made
from yoloquant.evaluation.latency import Latency
from yoloquant.evaluation.uncertainty import map_loss
from yoloquant.report.headline import facts, headline
from yoloquant.results.quantization import Row, with_drops


def rows(truth, before, after, sizes=(2900, 1000), times=(19.0, 10.0)):
    ids = list(range(40))
    figures = (("float", before, sizes[0], times[0]), ("int8", after, sizes[1], times[1]))
    return with_drops([
        Row(
            model=model,
            runtime="onnxruntime",
            evaluation=evaluation_of(truth, found, ids),
            latency=Latency(milliseconds, 0, 0, 1) if milliseconds else None,
            file_size=size,
        )
        for model, found, size, milliseconds in figures
    ])  # fmt: skip


@pytest.fixture(scope="module")
def models():
    return made()


def test_a_manager_reads_size_speed_and_loss_with_its_error(models):
    pair = rows(*models)
    loss = map_loss(pair[0].evaluation, pair[1].evaluation)
    assert headline(pair, "coco/data.yaml") == (
        f"2.9 times smaller, 1.9 times faster on ONNX Runtime, lost {loss.value:.1f} ± {loss.error:.1f} mAP on 40 images of "
        "coco/data.yaml."
    )
    tiles = facts(pair)
    assert all("ONNX Runtime" in name for name in tiles)
    assert list(tiles.values())[1:] == [f"{loss.value:.2f} ± {loss.error:.2f}", "19.0 → 10.0", "0.0 → 0.0"]


def test_the_other_direction_has_words_of_its_own(models):
    truth, better, worse = models
    sentence = headline(rows(truth, worse, better, (100, 200), (10.0, 15.0)))
    assert sentence.startswith("2.0 times larger, 1.5 times slower on ONNX Runtime, gained ")
    assert "-" not in sentence
    same = headline(rows(truth, better, better, (100, 100), (10.0, 10.1)))
    assert same == ("As large as the float model, as fast as the float model on ONNX Runtime, lost 0.0 ± 0.0 mAP on 40 images.")


def test_what_was_not_measured_is_not_claimed(models):
    truth, better, worse = models
    assert headline(rows(truth, better, worse, (None, None), (None, None))).startswith("Lost ")
    assert headline(None) == ""
    assert facts(None) == {}
    empty = headline(rows({**truth, "annotations": []}, better, worse))
    assert "mAP unknown" in empty
    assert "nan" not in empty


def test_one_standard_error_is_what_the_tile_says(models):
    pair = rows(*models)
    text = list(facts(pair).values())[1]
    value, error = (float(part) for part in text.split(" ± "))
    differences = np.nanmean(pair[0].evaluation.left_out, axis=1) - np.nanmean(pair[1].evaluation.left_out, axis=1)
    expected = np.sqrt(19 / 20 * ((differences - differences.mean()) ** 2).sum())
    assert error == pytest.approx(expected, abs=0.006)
    assert value == pytest.approx(pair[0].evaluation.map50_95 - pair[1].evaluation.map50_95, abs=0.006)
