"""Detect objects in pictures and draw them."""

from __future__ import annotations

import colorsys
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from yoloquant.data.dataset import ImageEntry, load_dataset
from yoloquant.data.images import IMAGE_SUFFIXES, read_image
from yoloquant.data.loader import ImageLoader
from yoloquant.errors import DataError, YoloquantError
from yoloquant.evaluation.evaluator import run_batch
from yoloquant.evaluation.postprocess import Detections, detections_of
from yoloquant.files.outputs import refuse_images, refuse_inputs, storage_errors_told
from yoloquant.files.writing import checked_folder, replaced_whole
from yoloquant.runtime.runner import Runner


def find_images(sources: Sequence[str | Path]) -> list[ImageEntry]:
    """Images, folders and lists as entries.

    Raises:
        DataError: one does not exist or holds no images.
    """
    paths: list[Path] = []
    for source in map(Path, sources):
        if not source.exists():
            raise DataError(f"there is no picture {source}: give images, folders or lists of images")
        if source.is_file() and source.suffix.lower() in IMAGE_SUFFIXES:
            paths.append(source)
        else:
            paths += [entry.path for entry in load_dataset(source).images]
    return [ImageEntry(path, number) for number, path in enumerate(dict.fromkeys(paths))]


def predict(
    runner: Runner,
    entries: Sequence[ImageEntry],
    confidence: float = 0.25,
    iou: float = 0.45,
    max_detections: int = 300,
    *,
    skipped: list[str] | None = None,
) -> Iterator[tuple[ImageEntry, Detections]]:
    """Detect objects, image by image.

    Args:
        runner: The model.
        entries: Images.
        confidence: Minimum score.
        iou: Threshold of non-maximum suppression.
        max_detections: Maximum number of boxes in an image.
        skipped: Gets a sentence for each image that cannot be decoded, which is left out.

    Yields:
        The image and its detections in its own pixels.

    Raises:
        DataError: No image can be decoded.
    """
    loader = ImageLoader(entries, runner.input_size, runner.batch_size or 1, top_left=runner.preprocessing.top_left)
    for batch in loader:
        output = run_batch(runner, batch)
        found = detections_of(output, runner.layout, confidence, iou, max_detections, multi_label=False)
        for entry, box, detections in zip(batch.entries, batch.letterboxes, found, strict=True):
            yield entry, Detections(box.to_original(detections.boxes), detections.scores, detections.classes)
    if len(loader.skipped) == len(entries):
        raise DataError(loader.skipped[0])
    if skipped is not None:
        skipped += loader.skipped


def class_color(index: int) -> tuple[int, int, int]:
    """A colour for a class, RGB; neighbours in number differ by the golden ratio of the colour circle."""
    red, green, blue = colorsys.hsv_to_rgb(index * 0.61803 % 1.0, 0.85, 0.9)
    return round(red * 255), round(green * 255), round(blue * 255)


def draw_detections(image: np.ndarray, detections: Detections, names: Sequence[str]) -> np.ndarray:
    """A copy of an image with boxes, class names and scores.

    Args:
        image: uint8 `(H, W, 3)`, RGB.
        detections: in the image's pixels.
        names: class names.
    """
    canvas = np.ascontiguousarray(image).copy()
    thickness = max(1, round(max(canvas.shape[:2]) / 320))
    # Worst first, so that the best boxes lie on top.
    for box, score, index in reversed(list(zip(detections.boxes, detections.scores, detections.classes, strict=True))):
        color = class_color(int(index))
        x1, y1, x2, y2 = (round(float(value)) for value in box)
        cv2.rectangle(canvas, (x1, y1), (x2, y2), color, thickness, cv2.LINE_AA)
        _draw_label(canvas, f"{names[int(index)]} {score:.2f}", (x1, y1), color, thickness)
    return canvas


def _draw_label(canvas: np.ndarray, text: str, corner: tuple[int, int], color: tuple[int, int, int], thickness: int) -> None:
    """Text on a filled ground above a box, or inside it at the image's upper edge."""
    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.3 + 0.12 * thickness
    (width, height), baseline = cv2.getTextSize(text, font, scale, 1)
    x = max(0, min(corner[0], canvas.shape[1] - width))
    y = corner[1] if corner[1] >= height + baseline else corner[1] + height + baseline
    cv2.rectangle(canvas, (x, y - height - baseline), (x + width, y), color, cv2.FILLED)
    ink = (0, 0, 0) if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 140 else (255, 255, 255)
    cv2.putText(canvas, text, (x, y - baseline // 2 - 1), font, scale, ink, 1, cv2.LINE_AA)


def side_by_side(pictures: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Pictures of one height in a row, each under its title."""
    columns = []
    for title, picture in pictures:
        bar = np.full((28, picture.shape[1], 3), 255, np.uint8)
        cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
        columns.append(np.concatenate([bar, picture]))
    return np.concatenate(columns, axis=1)


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture.

    Raises:
        DataError: it cannot be written there.
    """
    with storage_errors_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(path.suffix, image[..., ::-1])
    if not written:
        raise DataError(f"the picture {path} cannot be encoded: choose another format")
    with replaced_whole(path) as partial:
        partial.write_bytes(data.tobytes())


def picture_names(paths: Sequence[Path]) -> dict[Path, Path]:
    """Image -> name of its picture: the image's own as `.jpg`, in the folders below the one that holds all images."""
    # Without `..`, which would lead out of the folder of pictures; `Path.resolve` would follow links, too, and rename pictures.
    whole = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100
    top = os.path.commonpath([path.parent for path in whole.values()]) if whole else ""
    owns = {path: absolute.relative_to(top) for path, absolute in whole.items()}
    names: dict[Path, Path] = {}
    taken = {parent for own in owns.values() for parent in own.parents}
    for path, own in owns.items():
        name = own.with_suffix(".jpg")
        # a.png and a.jpg of one folder, and a file beside a folder that is called as its picture would be.
        while name in taken:
            own = own.with_name(f"{own.name}.jpg")
            name = own
        taken.add(name)
        names[path] = name
    return names


def check_pictures(entries: Sequence[ImageEntry], output: Path, models: Sequence[Path | None] = ()) -> dict[Path, Path]:
    """The name of each image's picture, see `picture_names`.

    Args:
        entries: Images.
        output: Folder for the pictures.
        models: Files that are read, too.

    Raises:
        YoloquantError: The folder cannot be made, or a picture would replace an image or a model, or stand beside an image.
    """
    folder = checked_folder(output)
    names = picture_names([entry.path for entry in entries])
    pictures = [folder / name for name in names.values()]
    read = {os.path.realpath(entry.path.parent) for entry in entries}
    if any(os.path.realpath(picture.parent) in read for picture in pictures):
        raise YoloquantError(f"the pictures in {output} would stand among the images that are read: name another output")
    refuse_images(pictures, entries)
    refuse_inputs([path for path in pictures if path.exists()], models)
    return names


def predict_to_files(
    runner: Runner,
    entries: Sequence[ImageEntry],
    output: Path,
    confidence: float = 0.25,
    iou: float = 0.45,
    *,
    compare: Runner | None = None,
    titles: tuple[str, str] = ("model", "compared with"),
    skipped: list[str] | None = None,
) -> Iterator[tuple[Path, Detections]]:
    """Draw detections into files of the images' names; beside those of a second model where `compare` is given.

    Pictures stand in the same sub-folders as the images.

    Args:
        runner: The model.
        entries: Images.
        output: Folder for the pictures.
        confidence: Minimum score.
        iou: Threshold of non-maximum suppression.
        compare: A second model.
        titles: Of both models.
        skipped: Gets a sentence for each image that cannot be decoded, which is left out.

    Yields:
        The picture's path and the first model's detections, for each image.

    Raises:
        YoloquantError: The folder cannot be made, or no image can be decoded.
    """
    names = check_pictures(entries, output)
    others = predict(compare, entries, confidence, iou) if compare else None
    for entry, detections in predict(runner, entries, confidence, iou, skipped=skipped):
        image = read_image(entry.path)
        picture = draw_detections(image, detections, runner.names)
        if others is not None and compare is not None:
            second = draw_detections(image, next(others)[1], compare.names)
            picture = side_by_side([(titles[0], picture), (titles[1], second)])
        path = output / names[entry.path]
        save_picture(path, picture)
        yield path, detections
