"""The boxes of a data set as a COCO dictionary, from a COCO JSON or from label files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from yoloquant.data.coco_json import UNUSABLE_ANNOTATIONS, category_indices, match_images, read_coco, usable_annotations
from yoloquant.data.image_size import image_size
from yoloquant.data.labels import UNUSABLE_ROWS, Problems, label_path, read_labels
from yoloquant.errors import DataError

if TYPE_CHECKING:
    from yoloquant.data.dataset import DetectionDataset, ImageEntry


# Pixels of an object; files of other tools hold null, text and infinity.
_LARGEST_AREA = 1 << 53


@dataclass(frozen=True)
class CocoIds:
    """Ids by which a COCO JSON knows what a data set numbers itself.

    Attributes:
        images: Image id of the data set -> id in the JSON; empty where there is no JSON.
        categories: Class index -> category id in the JSON; empty where there is no JSON.
    """

    images: dict[int, int] = field(default_factory=dict)
    categories: dict[int, int] = field(default_factory=dict)


def from_coco(dataset: DetectionDataset) -> tuple[dict[str, Any], CocoIds]:
    """The ground truth of a set with annotations, and what the JSON calls its images and classes.

    Raises:
        DataError: The JSON is malformed or ambiguous, of other classes, or none of its annotations can be used.
    """
    path = dataset.annotations
    assert path is not None
    content = read_coco(path)
    indices = category_indices(content, dataset.names, path)
    usable = usable_annotations(content, path, dataset.problems)
    _check_any(len(usable), UNUSABLE_ANNOTATIONS, dataset.problems, f"annotation of {path}")
    matched = match_images([entry.path for entry in dataset.images], content["images"], path)
    images: list[dict[str, Any]] = []
    ids: dict[int, int] = {}
    for entry in dataset.images:
        if entry.path in matched:
            image = matched[entry.path]
            ids[image["id"]] = entry.image_id
            images.append({**image, "id": entry.image_id})
        else:
            dataset.problems.setdefault("image without annotations", []).append(
                f"{entry.path} is not in {path}: it is left out of the metrics"
            )
    annotations = [
        _annotation(number, ids[found["image_id"]], indices[found["category_id"]], found["bbox"], found)
        for number, found in enumerate((found for found in usable if found["image_id"] in ids), start=1)
    ]
    own_ids = CocoIds({own: theirs for theirs, own in ids.items()}, {index: number for number, index in indices.items()})
    return _coco(dataset, images, annotations), own_ids


def from_labels(dataset: DetectionDataset) -> dict[str, Any]:
    """The ground truth of a set with label files.

    Raises:
        DataError: There is no label file, or none of their rows can be used.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labelled = 0
    for entry in dataset.images:
        height, width = image_size(entry.path)
        images.append({"id": entry.image_id, "file_name": entry.path.name, "height": height, "width": width})
        labels = read_labels(entry.path, len(dataset.names), dataset.problems, entry.keypoint_columns)
        labelled += labels is not None
        for class_index, x, y, w, h in [] if labels is None else labels:
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(_annotation(len(annotations) + 1, entry.image_id, int(class_index), box, {}))
    if not labelled and "unreadable labels" not in dataset.problems:
        raise DataError(
            f"no label file was found for any of the {len(images)} images (looked for {label_path(dataset.images[0].path)}): "
            "add labels, or name a COCO JSON as `annotations` of a data.yaml, or with --annotations where a command takes it"
        )
    _check_any(len(annotations), UNUSABLE_ROWS, dataset.problems, "label row")
    return _coco(dataset, images, annotations)


def has_label_files(entries: Sequence[ImageEntry], class_count: int) -> bool:
    """Whether images have label files; these are read as far as the first row that can be used.

    Raises:
        DataError: There are rows, and none can be used.
    """
    problems: Problems = {}
    found = False
    for entry in entries:
        labels = read_labels(entry.path, class_count, problems, entry.keypoint_columns)
        if labels is not None and len(labels):
            return True
        found |= labels is not None
    _check_any(0, UNUSABLE_ROWS, problems, "label row")
    return found


def _check_any(usable: int, kinds: tuple[str, ...], problems: Problems, what: str) -> None:
    """Refuse a set in which everything is wrong; one without any object is fine."""
    bad = [sentences for kind, sentences in problems.items() if kind in kinds]
    if bad and not usable:
        count = sum(map(len, bad))
        raise DataError(f"no {what} can be used, {count} cannot; the first: {bad[0][0]}; correct the file")


def _annotation(number: int, image_id: int, category: int, box: list[float], source: dict[str, Any]) -> dict[str, Any]:
    area = source.get("area")
    return {
        "id": number,
        "image_id": image_id,
        "category_id": category,
        "bbox": box,
        "area": float(area) if isinstance(area, int | float) and 0.0 <= area <= _LARGEST_AREA else box[2] * box[3],
        "iscrowd": int(source.get("iscrowd") == 1),
    }


def _coco(dataset: DetectionDataset, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    count = max(len(dataset.names), max((a["category_id"] for a in annotations), default=-1) + 1)
    names = [*dataset.names, *(f"class {index}" for index in range(len(dataset.names), count))]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
