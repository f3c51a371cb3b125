"""What `yoloquant evaluate --plots` writes beside its charts: pictures with the labelled objects beside the predictions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from yoloquant.data.dataset import DetectionDataset, ImageEntry
from yoloquant.data.images import read_image
from yoloquant.errors import DataError
from yoloquant.evaluation.confusion import CONFIDENCE
from yoloquant.evaluation.drawing import Mark, class_color, draw_detections, draw_marks, side_by_side
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.matching import corners
from yoloquant.evaluation.pictures import check_drawn, picture_names, save_picture
from yoloquant.evaluation.postprocess import Detections
from yoloquant.files.writing import checked_folder
from yoloquant.report.accuracy_charts import CHARTS
from yoloquant.report.formats import check_format

# Pictures that are written, and their folder.
PICTURES, FOLDER = 16, "pictures"


def checked_plots(output: Path, suffix: str, dataset: DetectionDataset, inputs: Sequence[Path | None]) -> None:
    """Make sure that charts and pictures can be written, before anything long begins.

    Raises:
        YoloquantError: The format is unknown, the folder cannot be made, or something that is read would be replaced.
    """
    check_format(suffix)
    folder = checked_folder(output)
    names = picture_names([entry.path for entry in dataset.images])
    pictures = [folder / FOLDER / name for name in names.values()]
    check_drawn(dataset.images, [*(folder / f"{name}.{suffix}" for name in CHARTS), *pictures], output, [*inputs, *dataset.files])


def save_truth_beside(evaluation: Evaluation, dataset: DetectionDataset, names: Sequence[str], output: Path) -> list[Path]:
    """Write the first evaluated images: labelled objects on the left, boxes from a score of 0.25 on the right.

    Args:
        evaluation: Evaluation of the data set.
        dataset: Data set whose images are drawn.
        names: Class names.
        output: Folder; the pictures stand in `pictures` in it, in the same sub-folders as the images.

    Returns:
        The files.
    """
    evaluated = set(evaluation.matches.objects.images.tolist())
    own_names = picture_names([entry.path for entry in dataset.images])
    paths: list[Path] = []
    for entry in [entry for entry in dataset.images if entry.image_id in evaluated][:PICTURES]:
        try:
            image = read_image(entry.path)
        except DataError:
            # It was there while it was evaluated.
            continue
        truth = draw_marks(image, _objects(evaluation, entry, names))
        found = draw_detections(image, _detections(evaluation, entry), names)
        path = output / FOLDER / own_names[entry.path]
        save_picture(path, side_by_side([("labelled", truth), ("predicted", found)]))
        paths.append(path)
    return paths


def _objects(evaluation: Evaluation, entry: ImageEntry, names: Sequence[str]) -> list[Mark]:
    objects = evaluation.matches.objects
    own = np.flatnonzero(objects.image_ids == entry.image_id)
    return [Mark(objects.boxes[i], names[objects.classes[i]], class_color(int(objects.classes[i]))) for i in own]


def _detections(evaluation: Evaluation, entry: ImageEntry) -> Detections:
    table = evaluation.detections
    own = np.flatnonzero((table.image_ids == entry.image_id) & (table.scores >= CONFIDENCE))
    return Detections(corners(table.boxes[own]).astype(np.float32), table.scores[own], table.classes[own].astype(np.int64))
