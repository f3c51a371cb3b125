"""Train the demo's detector on the generated set and write the weights that the package ships.

    python scripts/train_demo.py silu.safetensors
    python scripts/train_demo.py --start silu.safetensors --activation relu --epochs 14 --lr 0.01

The first run trains from random weights, half an hour on two cores. The second trains on with ReLU, which integer kernels compute
within the convolution, in the place of SiLU. With `--folder`, an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from yoloquant.assets import demo_weights
from yoloquant.checkpoint.read import read_detector
from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.data.dataset import load_dataset
from yoloquant.data.synthetic import CLASS_NAMES, generate_image, write_generated_dataset
from yoloquant.evaluation.evaluator import evaluate
from yoloquant.models.activations import ACTIVATIONS, swap_activations
from yoloquant.models.detector import Detector
from yoloquant.models.yolov5.build import build_yolov5, official_config
from yoloquant.models.yolov5.loss import YOLOv5Loss
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.training.augment import Sample
from yoloquant.training.float.trainer import EpochResult, Trainer
from yoloquant.training.hyperparameters import Hyperparameters
from yoloquant.training.loader import TrainingLoader

SIZE = 192
# Anchors in pixels, about an octave from first to last in each level, for objects of 10 to 95 pixels.
ANCHORS = [[10, 10, 15, 15, 21, 21], [28, 28, 36, 36, 46, 46], [58, 58, 72, 72, 90, 90]]
HYPERPARAMETERS = Hyperparameters(scale=0.3, mosaic=0.5, warmup_epochs=1.0)


def demo_config() -> dict[str, object]:
    """YOLOv5's architecture at 0.16 of its width."""
    return {**official_config("n", len(CLASS_NAMES)), "width_multiple": 0.16, "anchors": ANCHORS}


def training_samples(count: int, seed: int) -> list[Sample]:
    """Generated images with boxes in pixels."""
    samples = []
    for index in range(count):
        drawn = generate_image(seed, index, SIZE)
        centers, sides = drawn.labels[:, 1:3] * SIZE, drawn.labels[:, 3:] * SIZE
        samples.append((drawn.image, np.concatenate([drawn.labels[:, :1], centers - sides / 2, centers + sides / 2], 1)))
    return samples


def train(
    detector: Detector,
    loader: TrainingLoader,
    hyperparameters: Hyperparameters,
    epochs: int,
    validation: Path,
    folder: Path | None,
) -> Trainer:
    """Run to the end, telling each epoch."""
    dataset = load_dataset(validation)
    started = time.time()

    def score(network: torch.nn.Module) -> float:
        candidate = Detector(network, detector.head, detector.names, detector.strides, (SIZE, SIZE), "yolov5")
        return evaluate(TorchRunner(candidate), dataset).map50_95

    def tell(result: EpochResult) -> None:
        losses = " ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
        logging.info("epoch %d  %s  mAP50-95 %.2f  %.0f s", result.epoch, losses, result.score, time.time() - started)

    head = detector.head
    loss = YOLOv5Loss(head.anchors, detector.strides, head.class_count, cls=0.25)
    trainer = Trainer(
        detector.network, loss, loader, epochs, hyperparameters, evaluate=score, evaluate_every=3, cosine=True, folder=folder
    )
    trainer.resume()
    trainer.run(on_epoch=tell)
    return trainer


def main() -> None:
    """Parse arguments, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, nargs="?", default=demo_weights())
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="weights to begin with, instead of random ones")
    parser.add_argument("--activation", choices=list(ACTIVATIONS), default="silu")
    parser.add_argument("--lr", type=float, default=0.02, help="first learning rate")
    parser.add_argument("--folder", type=Path, help="keeps the log and the state to resume from")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    detector = read_detector(options.start) if options.start else build_yolov5(demo_config(), CLASS_NAMES, SIZE, options.seed)
    swap_activations(detector.network, options.activation)
    hyperparameters = HYPERPARAMETERS.model_copy(update={"lr0": options.lr})
    samples = training_samples(options.images, options.seed)
    loader = TrainingLoader(samples, SIZE, options.batch_size, hyperparameters, options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        validation = write_generated_dataset(Path(scratch), train=1, val=256, size=SIZE)
        trainer = train(detector, loader, hyperparameters, options.epochs, validation, options.folder)
    assert trainer.best is not None
    detector.network.load_state_dict(trainer.best)
    save_detector(detector, options.output, half=True)
    logging.info("best mAP50-95 %.2f, written to %s", trainer.best_score, options.output)


if __name__ == "__main__":
    main()
