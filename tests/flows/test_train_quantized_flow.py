"""Presets that train, from a checkpoint and images to a verified file and back."""

import json

import pytest
import torch
from typer.testing import CliRunner

from yoloquant.algorithms.detection_ranges import DetectionRanges
from yoloquant.algorithms.reconstruction.step import Reconstruct
from yoloquant.assets import demo_weights
from yoloquant.cli import app
from yoloquant.data.source import Source
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.exporting.folder import load_quantized
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.recipe.recipe import load_recipe, presets
from yoloquant.training.quantized.step import Train

LABELLED = {"qat-labels", "qat-power-of-two"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=12, val=4)


def short(name):
    """A preset that learns for a step or two."""
    changes = {
        Reconstruct: {"iterations": 2, "images": 4},
        DetectionRanges: {"images": 1, "factors": (0.7,)},
        Train: {"images": 12, "epochs": 2, "batches": 1, "batch_size": 2, "val_images": 4},
    }
    recipe = load_recipe(name)
    steps = tuple(step.model_copy(update=changes.get(type(step), {})) for step in recipe.algorithms)
    calibration = recipe.calibration.model_copy(update={"images": 6})
    return recipe.model_copy(update={"algorithms": steps, "calibration": calibration})


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in presets() if name.startswith("qat-")])
def test_presets_that_train_make_verified_folders(name, data, tmp_path):
    """Without labels, a folder of images is all they need."""
    source = Source(data) if name in LABELLED else Source(calibration=data.parent / "images" / "train")
    out, measure = tmp_path / "out", Measure(evaluate=False, runtimes=("onnxruntime",))
    result = quantize(demo_weights(), source, recipe=short(name), output=out, measure=measure)
    assert all(parity.agrees for parity in result.parity)
    assert not (tmp_path / "out.partial").exists()
    x = torch.rand(1, 3, *result.detector.input_size)
    with torch.no_grad():
        torch.testing.assert_close(load_quantized(out)(x), result.detector(x), rtol=1e-4, atol=1e-4)
    if "aligned" in name or "power-of-two" in name:
        scales = [quantizer.scale.log2() for _, quantizer in result.detector.quantizers()]
        assert all(bool((scale == scale.round()).all()) for scale in scales)


def test_a_folder_of_images_is_enough_on_the_command_line(data, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(short("qat-distillation").to_yaml())
    arguments = ["quantize", str(demo_weights()), "--calibration", str(data.parent / "images" / "train"), "--recipe", str(recipe)]
    answer = CliRunner().invoke(app, [*arguments, "--output", str(tmp_path / "out"), "--no-evaluate"])
    assert answer.exit_code == 0, answer.output
    # All twelve, though six calibrate; four of them judge.
    assert "Calibrate on 6 images" in answer.output
    assert "Read 8 images to train on" in answer.output
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["recipe"]["algorithms"][-1]["name"] == "train"
    assert metrics["seconds"]["train"] > 0
