"""Train the demo's detector on the generated set: `python scripts/train_demo.py OUTPUT.safetensors`."""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

import torch

from yoloquant.checkpoint.safetensors_file import save_detector
from yoloquant.data.dataset import load_dataset
from yoloquant.data.generated import CLASS_NAMES, generate_image, write_generated_dataset
from yoloquant.evaluate.evaluator import evaluate
from yoloquant.models.detector import Detector
from yoloquant.models.yolov5.build import build_yolov5, official_config
from yoloquant.models.yolov5.loss import YOLOv5Loss
from yoloquant.runtime.torch_runner import TorchRunner
from yoloquant.train.data import TrainingLoader
from yoloquant.train.hyperparameters import Hyperparameters
from yoloquant.train.trainer import EpochResult, Trainer

SIZE = 192
# Anchors in pixels, one octave apart, for objects of 10 to 95 pixels.
ANCHORS = [[10, 10, 15, 15, 21, 21], [28, 28, 36, 36, 46, 46], [58, 58, 72, 72, 90, 90]]


def demo_config() -> dict[str, object]:
    """YOLOv5's architecture at 0.16 of its width."""
    return {**official_config("n", len(CLASS_NAMES)), "width_multiple": 0.16, "anchors": ANCHORS}


def samples(count: int, seed: int) -> list:
    """Generated training images with boxes in pixels."""
    drawn = []
    for index in range(count):
        item = generate_image(seed, index, SIZE)
        boxes = item.labels[:, 1:] * SIZE
        corners = torch.tensor(boxes).numpy()
        corners = corners[:, [0, 1, 0, 1]] + corners[:, [2, 3, 2, 3]] * [-0.5, -0.5, 0.5, 0.5]
        drawn.append((item.image, torch.cat([torch.tensor(item.labels[:, :1]), torch.tensor(corners)], 1).numpy()))
    return drawn


def main() -> None:
    """Parse arguments and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("output", type=Path)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    detector = build_yolov5(demo_config(), CLASS_NAMES, SIZE, options.seed)
    head = detector.head
    parameters = Hyperparameters(scale=0.3, mosaic=0.5, warmup_epochs=1.0, degrees=0.0, lr0=0.02)
    loss = YOLOv5Loss(head.anchors, tuple(head.strides), head.class_count, cls=0.25)
    loader = TrainingLoader(samples(options.images, options.seed), SIZE, options.batch_size, parameters, options.seed)
    started = time.time()
    with tempfile.TemporaryDirectory() as folder:
        validation = load_dataset(write_generated_dataset(Path(folder), train=1, val=256, size=SIZE))

        def score(network: torch.nn.Module) -> float:
            network.eval()
            candidate = Detector(network, head, detector.names, detector.strides, (SIZE, SIZE), "yolov5")
            answer = evaluate(TorchRunner(candidate), validation).map50_95
            save_detector(candidate, options.output, half=True)
            return answer

        def tell(result: EpochResult) -> None:
            losses = " ".join(f"{name} {value:.4f}" for name, value in result.losses.items())
            logging.info("epoch %d  %s  mAP50-95 %.2f  %.0f s", result.epoch, losses, result.score, time.time() - started)

        trainer = Trainer(
            detector.network, loss, loader, options.epochs, parameters, evaluate=score, evaluate_every=2, cosine=True
        )
        trainer.run(on_epoch=tell)
    assert trainer.best is not None
    detector.network.load_state_dict(trainer.best)
    save_detector(detector, options.output, half=True)
    logging.info("best mAP50-95 %.2f", trainer.best_score)


if __name__ == "__main__":
    main()
