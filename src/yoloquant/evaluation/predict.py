"""Detect objects in frames, one batch after the other, so that memory does not grow with a video."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from yoloquant.data.images import letterbox
from yoloquant.errors import YoloquantError, nearest
from yoloquant.evaluation.evaluator import run_images
from yoloquant.evaluation.postprocess import Detections, detections_of
from yoloquant.runtime.runner import Runner


@dataclass(frozen=True, kw_only=True)
class PredictionSettings:
    """How objects are detected.

    Attributes:
        confidence: Minimum score, 0..1.
        iou: Threshold of non-maximum suppression.
        max_detections: Maximum number of boxes in an image.
        classes: Indices of the classes that are kept; all by default.
    """

    confidence: float = 0.25
    iou: float = 0.45
    max_detections: int = 300
    classes: tuple[int, ...] | None = None


def predict(
    runner: Runner, images: Iterable[np.ndarray], settings: PredictionSettings | None = None
) -> Iterator[tuple[np.ndarray, Detections]]:
    """Detect objects, image by image; the next one is read while the network runs.

    Args:
        runner: Runner of the model.
        images: Images, uint8 `(H, W, 3)`, RGB, of any sizes.
        settings: Thresholds and classes.

    Yields:
        The image and its detections in its own pixels.
    """
    settings = settings or PredictionSettings()
    # However this ends, its thread has left the images when it has: they are the caller's to close.
    with closing(_read_ahead(images)) as ahead:
        while batch := list(islice(ahead, runner.batch_size or 1)):
            yield from zip(batch, detect(runner, batch, settings), strict=True)


def detect(runner: Runner, images: Sequence[np.ndarray], settings: PredictionSettings) -> list[Detections]:
    """Detections in each of some images, in its own pixels; the images are uint8 `(H, W, 3)`, RGB."""
    fitted = [letterbox(image, runner.input_size, top_left=runner.preprocessing.top_left) for image in images]
    output = run_images(runner, np.stack([image.transpose(2, 0, 1) for image, _ in fitted]))
    found = detections_of(
        output, runner.layout, settings.confidence, settings.iou, settings.max_detections, multi_label=False
    )  # fmt: skip
    return [
        _of_classes(Detections(box.to_original(own.boxes), own.scores, own.classes), settings.classes)
        for (_, box), own in zip(fitted, found, strict=True)
    ]


def _of_classes(found: Detections, classes: tuple[int, ...] | None) -> Detections:
    if classes is None:
        return found
    kept = np.isin(found.classes, classes)
    return Detections(found.boxes[kept], found.scores[kept], found.classes[kept])


def _read_ahead(images: Iterable[np.ndarray]) -> Generator[np.ndarray, None, None]:
    """The same images, of which one is read ahead in a thread: decoding runs outside of Python's lock."""
    iterator = iter(images)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(next, iterator, None)
        while (image := waiting.result()) is not None:
            waiting = pool.submit(next, iterator, None)
            yield image


def class_indices(words: Sequence[str], names: Sequence[str]) -> tuple[int, ...] | None:
    """The classes that a user names, by name or number, or several with commas between them; none for all.

    Args:
        words: As given.
        names: Class names of the model.

    Raises:
        YoloquantError: The model has no such class.
    """
    if not words:
        return None
    parts = [part for word in words for part in ([word] if word in names else word.split(","))]
    return tuple(dict.fromkeys(_class_index(part.strip(), names) for part in parts))


def _class_index(word: str, names: Sequence[str]) -> int:
    if word in names:
        return list(names).index(word)
    if word.isdecimal() and word.isascii() and len(word) < 9 and int(word) < len(names):
        return int(word)
    like = nearest(word, names)
    hint = f"did you mean {like!r}?" if like else f"give names, or numbers from 0 to {len(names) - 1}"
    raise YoloquantError(f"the model has no class {word!r}: {hint}")
