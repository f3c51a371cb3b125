"""Train one detector of each family from fresh weights on the generated set, quantize each, train on in INT8, and print a table.

    python benchmarks/train_families.py runs/

Images of 192 pixels; 4,000 to train on, 256 others to evaluate; INT8 by the default recipe, calibrated on 128 of the 4,000, then
taught by the float detector on 1,000 of them without labels. The last epoch's average counts, none is chosen. Runs that are
complete in the folder are not repeated, others go on where they were.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from yoloquant import quantize, read_detector
from yoloquant.cli.console import RichReporter
from yoloquant.data.synthetic import CLASS_NAMES, write_generated_dataset
from yoloquant.flows.finetune import finetune
from yoloquant.flows.train import BEST, TrainingOptions, train
from yoloquant.models.registry import build_detector
from yoloquant.results.quantization import Quantization

SIZE, IMAGES, VALIDATION = 192, 4000, 256
# Pixels, about an octave from first to last in each level, for objects of 10 to 95 pixels.
ANCHORS = (((10, 10), (15, 15), (21, 21)), ((28, 28), (36, 36), (46, 46)), ((58, 58), (72, 72), (90, 90)))
# Batches step at once, and images stand alone: such short runs have no time for the noise of mosaics.
SETTINGS = ("mosaic=0", "mixup=0", "scale=0.25", "translate=0.1", "flipud=0.5", "warmup_epochs=1", "hsv_h=0.03")
# Quantization-aware training: the network's own size, since its images are small.
TRAINING = {
    "teacher": "features",
    "images": 1000,
    "epochs": 4,
    "learning_rate": 1e-5,
    "weights": "fixed",
    "activations": "fixed",
    "ema": 0.98,
    "fliplr": 0.5,
}
COLUMNS = ("architecture", "width", "parameters, M", "epochs", "float", "INT8", "drop", "trained INT8", "drop")
DONE = "done.txt"


@dataclass(frozen=True)
class Run:
    """What is trained.

    Attributes:
        name: of the architecture.
        epochs: of training.
        width: multiple of the channels; the architecture's own without.
        overrides: hyperparameters.
    """

    name: str
    epochs: int
    width: float | None = None
    overrides: tuple[str, ...] = ()


RUNS = (
    Run("yolov8n", 16),
    # Objectness is weighted by the images' area over 640 x 640, classes by their number over 80: a tenth each here.
    Run("yolov5n", 32, overrides=("lr0=0.03", "box=0.2", "obj=6", "cls=4")),
    # Less augmentation than the others: it learns slowest, and has nothing to gain from images it has not seen.
    Run(
        "yolov7-tiny",
        52,
        width=0.5,
        overrides=(
            "lr0=0.03",
            "box=0.2",
            "obj=6",
            "cls=4",
            "loss_ota=0",
            "scale=0",
            "translate=0.05",
            "hsv_s=0.3",
            "hsv_v=0.2",
        ),
    ),
    Run("yolov6n", 16, width=0.16, overrides=("lr0=0.1",)),
)


def trained(run: Run, data: Path, folder: Path, *, amp: bool, seed: int) -> Path:
    """The file of a run's detector, trained if it is not there."""
    path = folder / BEST
    done = folder / DONE
    if not done.is_file():
        detector = build_detector(run.name, CLASS_NAMES, SIZE, seed=seed, width=run.width, anchors=ANCHORS)
        options = TrainingOptions(
            epochs=run.epochs,
            batch_size=16,
            nominal_batch=16,
            overrides=SETTINGS + run.overrides,
            cosine=True,
            evaluate_every=run.epochs,
            amp=amp,
            seed=seed,
        )
        train(detector, data, folder, options, resume=(folder / "last.safetensors").is_file(), reporter=RichReporter())
        done.touch()
    return path


def row(run: Run, path: Path, data: Path, folder: Path) -> list[str]:
    """One line of the table; INT8 is quantized, trained and evaluated here, in ONNX Runtime."""
    result = quantize(path, data, target="onnxruntime", output=folder / "int8")
    taught = finetune(folder / "int8", data, folder / "trained-int8", teacher=path, settings=TRAINING)
    plain, integer, trained_integer = (
        _score(one, precision) for one, precision in ((result, "float"), (result, "int8"), (taught, "int8"))
    )
    parameters = sum(parameter.numel() for parameter in read_detector(path).network.parameters())
    width = "own" if run.width is None else str(run.width)
    figures = (plain, integer, plain - integer, trained_integer, plain - trained_integer)
    return [run.name, width, f"{parameters / 1e6:.2f}", str(run.epochs), *(f"{figure:.2f}" for figure in figures)]


def _score(result: Quantization, model: str) -> float:
    evaluation = result.row(model, "onnxruntime").evaluation
    assert evaluation is not None
    return evaluation.map50_95


def main() -> None:
    """Parse arguments, train and quantize, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="of data and runs")
    parser.add_argument("--only", nargs="*", help="names of architectures")
    parser.add_argument("--train-only", action="store_true", help="leave quantization for another call")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=True, help="bf16 where it is enough")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = options.folder / "data" / "data.yaml"
    if not data.is_file():
        write_generated_dataset(data.parent, train=IMAGES, val=VALIDATION, size=SIZE)
    table = Table(*COLUMNS)
    for run in RUNS:
        if options.only and run.name not in options.only:
            continue
        folder = options.folder / run.name
        path = trained(run, data, folder, amp=options.amp, seed=options.seed)
        if not options.train_only:
            table.add_row(*row(run, path, data, folder))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
