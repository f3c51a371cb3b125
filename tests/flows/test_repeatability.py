"""Quantizing is repeatable: model, images and recipe decide the files, whatever the state of the random generators."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from yoloquant.assets import demo_weights
from yoloquant.data.source import Source
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.flows.options import Measure
from yoloquant.flows.quantize import quantize
from yoloquant.recipe.recipe import load_recipe

# Fewer iterations and images where networks learn; a state is kept whatever it gains, so that training shows in the files.
SHORT = {
    "qat-distillation": {
        "algorithms.reconstruct.iterations": 20, "algorithms.train.epochs": 2, "algorithms.train.images": 24,
        "algorithms.train.val_images": 8, "algorithms.train.batches": 4, "algorithms.train.min_gain": 1e-9,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_generated_dataset(tmp_path_factory.mktemp("set"), train=24, val=2)


def without_times(path: Path) -> bytes | dict:
    """What a file holds; of figures, all but the seconds that steps took."""
    if path.name != "metrics.json":
        return path.read_bytes()
    figures = json.loads(path.read_text(encoding="utf-8"))
    assert figures.pop("seconds")
    return figures


def made(recipe: str, data: Path, output: Path, seed: int) -> dict[str, bytes | dict]:
    """Files of a folder by name."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  (the generator that code may have used by mistake)
    torch.manual_seed(seed)
    measure = Measure(evaluate=False, runtimes=("onnxruntime",))
    chosen = load_recipe(recipe, overrides=[f"{name}={value}" for name, value in SHORT.get(recipe, {}).items()])
    quantize(demo_weights(), Source(data), recipe=chosen, output=output, measure=measure, report=None)
    return {path.name: without_times(path) for path in output.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "4w8f", "mixed-4-8", "qat-distillation"])
def test_the_same_recipe_makes_the_same_files(recipe, data, tmp_path):
    first, again = (made(recipe, data, tmp_path / str(seed) / "out", seed) for seed in (0, 1))
    assert set(first) == set(again) >= {"model.onnx", "quantized.safetensors", "recipe.yaml", "metrics.json"}
    assert [name for name, content in first.items() if content != again[name]] == []
