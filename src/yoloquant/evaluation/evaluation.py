"""`Evaluation`: what was measured of a model on images with known boxes."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yoloquant.data.ground_truth import CocoIds
from yoloquant.errors import YoloquantError
from yoloquant.evaluation.detection_table import DetectionTable, joined
from yoloquant.evaluation.matching import Matches, no_matches
from yoloquant.evaluation.precision_recall import ClassCurves, ClassFigures, PrecisionRecall, class_curves
from yoloquant.evaluation.uncertainty import left_out_precision
from yoloquant.files.reading import parse_json, parsed, read_text
from yoloquant.files.writing import write_text
from yoloquant.table import TextTable

# Bytes of a file of figures: some for each of many classes.
LARGEST_FIGURES = 64 << 20


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What was measured.

    Attributes:
        figures: COCO's twelve, percent, by name.
        classification: Precision, recall, F1 and mAP by YOLOv5's formulas.
        per_class: Mapping class name -> (mAP50-95, mAP50), percent.
        classes: Each class that occurs: objects, precision, recall and mAP by YOLOv5's formulas.
        image_count: Images that counted.
        seconds: "total" is wall time; "before" (decoding, scaling), "run" (the network) and "after" (suppression) overlap in it.
        skipped: Sentences about images left out.
        detections: All detections.
        matches: The detections with what they hit, and the objects.
        file_names: Image id -> file name.
        coco_ids: Ids of the data set's annotations, for results that are written.
    """

    figures: dict[str, float]
    classification: PrecisionRecall
    per_class: dict[str, tuple[float, float]]
    image_count: int
    seconds: dict[str, float]
    classes: tuple[ClassFigures, ...] = ()
    skipped: tuple[str, ...] = ()
    detections: DetectionTable = field(default_factory=lambda: joined([]), repr=False)
    matches: Matches = field(default_factory=no_matches, repr=False)
    file_names: dict[int, str] = field(default_factory=dict, repr=False)
    coco_ids: CocoIds = field(default_factory=CocoIds, repr=False)

    @cached_property
    def curves(self) -> ClassCurves:
        """Precision and recall of each class that occurs, over confidence."""
        return class_curves(self.matches)

    @cached_property
    def left_out(self) -> np.ndarray:
        """`(G, k)`, average precision of the k classes that occur without each of G groups of images, percent."""
        return left_out_precision(self.matches)

    @property
    def map50_95(self) -> float:
        """mAP at IoU 0.50 to 0.95, percent."""
        return self.figures["mAP50-95"]

    @property
    def map50(self) -> float:
        """mAP at IoU 0.50, percent."""
        return self.figures["mAP50"]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The detections as COCO results, with the data set's image ids and class indices, made anew."""
        return list(self.detections.rows())

    def to_dict(self) -> dict[str, Any]:
        """All figures as JSON values, without the detections; figures over no objects are null."""
        values = asdict(replace(self, detections=joined([]), matches=no_matches(), file_names={}, coco_ids=CocoIds()))
        for name in ("detections", "matches", "file_names", "coco_ids"):
            del values[name]
        plain: dict[str, Any] = json.loads(json.dumps(values), parse_constant=lambda _: None)
        return plain

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of `to_dict`, without the detections."""
        return cls(
            figures=_with_nan(values["figures"]),
            classification=PrecisionRecall(**_with_nan(values["classification"])),
            per_class={name: tuple(_with_nan(pair)) for name, pair in values["per_class"].items()},
            image_count=int(values["image_count"]),
            seconds=dict(values["seconds"]),
            classes=tuple(ClassFigures(**_with_nan(entry)) for entry in values["classes"]),
            skipped=tuple(values["skipped"]),
        )

    @classmethod
    def load(cls, path: str | Path) -> Evaluation:
        """Read the figures that `yoloquant evaluate --figures` wrote.

        Raises:
            YoloquantError: The file is missing or damaged, or holds no such figures.
        """
        with parsed(Path(path), YoloquantError, "name a file that `yoloquant evaluate --figures` wrote"):
            return cls.from_dict(parse_json(read_text(Path(path), largest=LARGEST_FIGURES), str(path)))

    def table(self, *, per_class: bool = False) -> TextTable:
        """The table of ultralytics' validation, percent: all classes, then on request each one that has objects."""
        found = self.classification
        figures = (found.precision, found.recall, found.map50, found.map50_95)
        rows = [("all", self.image_count, sum(entry.objects for entry in self.classes), figures)]
        for entry in self.classes if per_class else ():
            figures = (entry.precision, entry.recall, entry.map50, entry.map50_95)
            rows.append((entry.name, entry.images, entry.objects, figures))
        return TextTable(
            ("Class", "Images", "Instances", "P", "R", "mAP50", "mAP50-95"),
            tuple((name, str(images), str(objects), *(f"{value:.1f}" for value in own)) for name, images, objects, own in rows),
            f"percent by YOLOv5's and ultralytics' formulas, P and R at confidence {found.confidence:.3f}",
        )

    def coco_table(self) -> TextTable:
        """COCO's twelve figures, percent."""
        rows = tuple((name, f"{value:.2f}") for name, value in self.figures.items())
        return TextTable(("figure", "%"), rows, f"percent by COCO's formula, {self.image_count} images")

    def speed(self) -> str:
        """Milliseconds for an image before, in and after the network, and the whole wall time, as a sentence."""
        before, run, after = (1000.0 * self.seconds[name] / self.image_count for name in ("before", "run", "after"))
        return (
            f"speed: for an image {before:.1f} ms before the network (decoding, scaling), {run:.1f} ms in it, "
            f"{after:.1f} ms after it (suppression); {self.seconds['total']:.1f} s in all"
        )

    def __str__(self) -> str:
        return "\n".join((str(self.table()), str(self.coco_table()), self.speed()))

    def write_coco_json(self, path: Path) -> None:
        """Write the detections as COCO results, with the image and category ids of the annotations where there are any.

        Without annotations the category is the class index, and the image id the number that is the file's name, or the position
        in the set where names are no numbers.
        """
        images, categories = self.coco_ids.images, self.coco_ids.categories
        rows = [
            {
                **row,
                "image_id": images.get(row["image_id"], row["image_id"]),
                "category_id": categories.get(row["category_id"], row["category_id"]),
                "file_name": self.file_names[row["image_id"]],
            }
            for row in self.detections.rows()
        ]
        write_text(path, json.dumps(rows))


def _with_nan(values: Any) -> Any:
    """Figures read from JSON, where those over no objects are null."""
    if isinstance(values, dict):
        return {name: _with_nan(value) for name, value in values.items()}
    if isinstance(values, list):
        return [_with_nan(value) for value in values]
    return float("nan") if values is None else values
