"""Data sets of very many images, which are one file under many names, and an evaluation of them that runs no network."""

import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import faster_coco_eval  # noqa: F401  # Before memory is measured.
import numpy as np

from yoloquant.data.dataset import load_dataset
from yoloquant.evaluation.evaluator import evaluate
from yoloquant.models.preprocessing import Preprocessing

SIDE = 32
# Two objects, of which the runner below finds the first.
LABELS = "0 0.5 0.5 0.5 0.5\n1 0.25 0.25 0.25 0.25\n"


def write_large_set(folder: Path, count: int, classes: int = 2) -> Path:
    """A `data.yaml` with `count` images in its val split; each has two objects."""
    images, labels = folder / "images" / "val", folder / "labels" / "val"
    for place in (images, labels):
        place.mkdir(parents=True)
    cv2.imwrite(str(folder / "one.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    (folder / "one.txt").write_text(LABELS)
    # File systems allow some ten thousand names of one file.
    for number in range(count):
        for source, place, suffix in ((folder / "one.png", images, "png"), (folder / "one.txt", labels, "txt")):
            if number % 10_000 == 0:
                (place / f"{number:06}.{suffix}").write_bytes(source.read_bytes())
            else:
                os.link(place / f"{number // 10_000 * 10_000:06}.{suffix}", place / f"{number:06}.{suffix}")
    names = "".join(f"  {number}: class {number}\n" for number in range(classes))
    (folder / "data.yaml").write_text(f"path: .\nval: images/val\nnames:\n{names}")
    return folder / "data.yaml"


class FixedRunner:
    """Finds the same in every image, without looking."""

    name, layout, branch = "fixed", "columns_classes", None
    input_size, batch_size, stride, free_size = (SIDE, SIDE), None, 32, False
    preprocessing = Preprocessing()

    def __init__(self, classes: int = 2) -> None:
        self.names = tuple(f"class {number}" for number in range(classes))

    def __call__(self, images: np.ndarray) -> np.ndarray:
        found = np.zeros((4 + len(self.names), 3), np.float32)
        # Centre x, centre y, width, height, and scores of the first two classes.
        found[:6] = np.array([[16, 16, 16, 16, 0.9, 0.0], [9, 8, 8, 8, 0.0, 0.5], [28, 4, 6, 6, 0.3, 0.0]]).T
        return np.repeat(found[None], len(images), 0)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class Load:
    """What opening and evaluating a data set takes; memory is resident, in bytes, above that of a process that did nothing yet.

    Attributes:
        open_seconds: Until images and labels are known.
        evaluate_seconds: Of the evaluation.
        opened: After opening.
        running: Maximum while images run.
        peak: Maximum until the figures are there.
        figure: mAP50, percent.
    """

    open_seconds: float
    evaluate_seconds: float
    opened: int
    running: int
    peak: int
    figure: float


def load_of(data: Path, classes: int = 2) -> Load:
    """Open and evaluate a data set in a process of its own."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(writing, json.dumps(asdict(_measured(data, classes))).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        found = Load(**json.load(pipe))
    os.waitpid(child, 0)
    return found


def _measured(data: Path, classes: int) -> Load:
    before, start = _resident("VmRSS"), time.monotonic()
    dataset = load_dataset(data)
    _ = dataset.ground_truth
    opened_at, opened = time.monotonic(), _resident("VmRSS")
    running = 0

    def watch(done: int, _all: int) -> None:
        nonlocal running
        running = max(running, _resident("VmRSS") if done % 80 == 0 else 0)

    found = evaluate(FixedRunner(classes), dataset, progress=watch)
    seconds = opened_at - start, time.monotonic() - opened_at
    memory = (value - before for value in (opened, running, _resident("VmHWM")))
    return Load(*seconds, *memory, found.map50)


def _resident(kind: str) -> int:
    """Resident memory of this process in bytes, now ("VmRSS") or at most until now ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(kind))
