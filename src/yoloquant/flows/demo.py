"""The demo: a shipped detector on a generated data set, through the whole flow."""

from __future__ import annotations

import tempfile
from pathlib import Path

from yoloquant.assets import demo_weights
from yoloquant.data.synthetic import write_generated_dataset
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.flows.finish import checked_output
from yoloquant.flows.options import Measure, Report
from yoloquant.flows.quantize import quantize
from yoloquant.progress import Reporter, Silent
from yoloquant.recipe.recipe import load_recipe
from yoloquant.results.quantization import Quantization
from yoloquant.targets.registry import get_target

IMAGES = 256

# What quantization often is without care: one symmetric scale for each tensor, from its extremes, and every layer.
CARELESS = (
    "target=onnxruntime",
    "input_layers=quantized",
    "output_layers=quantized",
    "weights.granularity=tensor",
    "activations.symmetric=true",
    "activations.signed=true",
    "activations.observer=minmax",
    "weights.observer=minmax",
)


def run_demo(output: Path, target: str = "onnxruntime", reporter: Reporter | None = None) -> tuple[Quantization, Evaluation]:
    """Generate a data set, quantize the shipped detector for a target, and for contrast without care.

    Args:
        output: Folder to write; the generated set itself is not kept.
        target: Deployment target.
        reporter: Reporter of progress.

    Returns:
        The result, and what careless INT8 scores.

    Raises:
        YoloquantError: There is no such target, or the folder cannot be written.
    """
    tell = reporter or Silent()
    get_target(target)
    checked_output(output)
    with tempfile.TemporaryDirectory() as scratch:
        with tell.step("Draw the data set") as update:
            data = write_generated_dataset(Path(scratch) / "dataset", train=128, val=IMAGES, progress=update)
        again = f"yoloquant demo --target {target}"
        result = quantize(demo_weights(), data, target=target, output=output, report=Report(commands=(again,)), reporter=tell)
        tell.note("for contrast, INT8 without care:")
        careless = quantize(
            demo_weights(), data, recipe=load_recipe("int8-mse", CARELESS), measure=Measure(runtimes=()), reporter=tell
        )
    evaluation = careless.rows[1].evaluation
    assert evaluation is not None
    return result, evaluation
