"""Corrected biases are kept only where boxes and scores come nearer to the float network's."""

import pytest
import torch

from notes import Notes
from yoloquant.algorithms import bias_correction
from yoloquant.assets import demo_weights
from yoloquant.checkpoint.read import read_detector
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.flows.job import begin, follow
from yoloquant.progress import Silent
from yoloquant.quant.images import images_to_calibrate
from yoloquant.recipe.recipe import load_recipe


def biases(detector):
    return {name: value.detach().clone() for name, value in detector.network.named_parameters() if name.endswith("bias")}


@pytest.mark.parametrize("spoiled", [False, True])
def test_biases_that_cost_boxes_are_taken_back(spoiled, tmp_path, monkeypatch):
    data = write_generated_dataset(tmp_path, train=6, val=1)
    overrides = ["weights.bits=4", "target=reference", "calibration.images=6"]
    plain = load_recipe(None, ["algorithms=[calibrate]", *overrides])
    corrected = load_recipe(None, ["algorithms=[calibrate, {bias_correction: {images: 4}}]", *overrides])
    detector = read_detector(demo_weights())
    images = images_to_calibrate(plain.calibration, data, None)
    before = biases(follow(plain, begin(detector, plain, images, Silent())).quantized)
    if spoiled:
        exact = bias_correction.correct_biases

        def spoil(detector, *arguments):
            found = exact(detector, *arguments)
            for name, value in detector.network.named_parameters():
                if name.endswith("bias"):
                    value.data += 3.0
            return found

        monkeypatch.setattr(bias_correction, "correct_biases", spoil)
    tell = Notes()
    after = biases(follow(corrected, begin(detector, corrected, images, tell)).quantized)
    assert any("biases stay as they were" in text for text in tell.told) == spoiled
    assert all(torch.equal(after[name], value) for name, value in before.items()) == spoiled
