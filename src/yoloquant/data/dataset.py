"""Data sets: YOLO `data.yaml`, COCO JSON, image lists and folders, all as one `DetectionDataset`."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yoloquant.data.images import IMAGE_SUFFIXES
from yoloquant.data.labels import label_path, read_labels
from yoloquant.errors import DataError
from yoloquant.reading import parse_yaml, read_text


@dataclass(frozen=True)
class ImageEntry:
    """An image of a data set.

    Attributes:
        path: of the file.
        image_id: its number in COCO JSON.
    """

    path: Path
    image_id: int


@dataclass(frozen=True)
class DetectionDataset:
    """Images, and the boxes in them where these are known.

    Attributes:
        names: class names; empty if not known.
        images: in the order of the source.
        annotations: COCO JSON with the ground truth; label files beside the images are read where there is none.
        problems: what was wrong and skipped, kind -> sentences.
    """

    names: tuple[str, ...]
    images: tuple[ImageEntry, ...]
    annotations: Path | None = None
    problems: dict[str, list[str]] = field(default_factory=dict, hash=False, compare=False)

    def problem_counts(self) -> Counter[str]:
        """How many problems of each kind."""
        return Counter({kind: len(sentences) for kind, sentences in self.problems.items()})

    @cached_property
    def ground_truth(self) -> dict[str, Any]:
        """The boxes as a COCO dictionary restricted to this set's images; category ids are class indices.

        Boxes are x, y, width, height in pixels of the image.

        Raises:
            DataError: there are neither annotations nor any label file.
        """
        if self.annotations is not None:
            return _from_coco(self)
        return _from_labels(self)


def load_dataset(source: str | Path, split: str = "val", *, annotations: str | Path | None = None) -> DetectionDataset:
    """Load a data set.

    Args:
        source: a `data.yaml` (keys path, train, val, test, names, nc, annotations), a COCO JSON, a text file with an image
            path in each line, or a folder of images.
        split: of a `data.yaml`.
        annotations: COCO JSON with the ground truth; overrides what the source names.

    Raises:
        DataError: the source or a file it names is missing or malformed, or there are no images.
    """
    source = Path(source)
    truth = Path(annotations) if annotations else None
    if truth is not None and not truth.is_file():
        raise DataError(f"there is no annotation file {truth}")
    if source.is_dir():
        return _finish((), _images_in(source), truth, {}, source)
    if not source.is_file():
        raise DataError(f"there is no data set {source}: give a data.yaml, a COCO JSON, an image list or a folder")
    if source.suffix in (".yaml", ".yml"):
        return _from_yaml(source, split, truth)
    if source.suffix == ".json":
        return _from_json(source)
    if source.suffix == ".txt":
        problems: dict[str, list[str]] = {}
        return _finish((), _images_in_list(source, problems), truth, problems, source)
    raise DataError(f"{source} is no data set: give a data.yaml, a COCO JSON, an image list (.txt) or a folder")


def _finish(
    names: tuple[str, ...], paths: list[Path], truth: Path | None, problems: dict[str, list[str]], source: Path
) -> DetectionDataset:
    unique = list(dict.fromkeys(paths))
    if len(unique) < len(paths):
        problems["duplicate image"] = [f"{path} is listed twice" for path, count in Counter(paths).items() if count > 1]
    if not unique:
        raise DataError(f"{source} holds no images: check its paths")
    stems = [path.stem for path in unique]
    numeric = all(stem.isdigit() for stem in stems) and len({int(stem) for stem in stems}) == len(stems)
    ids = [int(stem) for stem in stems] if numeric else range(len(unique))
    return DetectionDataset(names, tuple(map(ImageEntry, unique, ids)), truth, problems)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _images_in_list(path: Path, problems: dict[str, list[str]]) -> list[Path]:
    """Paths in a list file; those that begin with ./ or are relative stand relative to the file."""
    found = []
    for line in read_text(path, DataError).splitlines():
        if not line.strip():
            continue
        image = Path(line.strip())
        image = image if image.is_absolute() else path.parent / image
        if image.is_file():
            found.append(image)
        else:
            problems.setdefault("missing image", []).append(f"{image}, listed in {path}, does not exist")
    return found


def _from_yaml(path: Path, split: str, truth: Path | None) -> DetectionDataset:
    values = _read_yaml(path)
    if split not in values or values[split] is None:
        splits = ", ".join(key for key in ("train", "val", "test") if values.get(key)) or "none"
        raise DataError(f"{path} has no split {split!r}: it has {splits}")
    root = Path(str(values.get("path") or "."))
    root = root if root.is_absolute() else path.parent / root
    names = _names(values, path)
    problems: dict[str, list[str]] = {}
    paths: list[Path] = []
    parts = values[split] if isinstance(values[split], list) else [values[split]]
    for part in parts:
        place = root / str(part)
        if place.is_dir():
            paths += _images_in(place)
        elif place.suffix.lower() in IMAGE_SUFFIXES and place.is_file():
            raise DataError(f"{path} names one image, {place}, as its {split} images: name its folder, or a list of images")
        elif place.is_file():
            paths += _images_in_list(place, problems)
        else:
            raise DataError(f"{path} names {place} as its {split} images, which does not exist: correct `path` or `{split}`")
    if truth is None:
        truth = _annotations(values.get("annotations"), split, root, path)
    return _finish(names, paths, truth, problems, path)


def _annotations(value: Any, split: str, root: Path, source: Path) -> Path | None:
    """The COCO JSON that a data.yaml names for a split; a single one is that of `val`."""
    if isinstance(value, dict):
        value = value.get(split)
    elif split != "val":
        value = None
    if value is None:
        return None
    place = root / str(value)
    if not place.is_file():
        raise DataError(f"{source} names {place} as its annotations, which does not exist")
    return place


def _read_yaml(path: Path) -> dict[str, Any]:
    values = parse_yaml(read_text(path, DataError), str(path), DataError)
    if not isinstance(values, dict):
        raise DataError(f"{path} is no data.yaml: it must hold keys such as train, val and names")
    return values


def _names(values: dict[str, Any], path: Path) -> tuple[str, ...]:
    names = values.get("names")
    if isinstance(names, dict):
        if set(names) != set(range(len(names))):
            raise DataError(f"{path}: the keys of `names` must be the class numbers 0 to {len(names) - 1}")
        names = [names[index] for index in range(len(names))]
    count = values.get("nc")
    if count is not None and not isinstance(count, int):
        raise DataError(f"{path}: nc is {count!r}: give the number of classes, or leave it out")
    if names is None:
        names = [f"class {index}" for index in range(count or 0)]
    if not isinstance(names, list):
        raise DataError(f"{path}: `names` must be a list, or a mapping from class numbers to names")
    if count is not None and count != len(names):
        raise DataError(f"{path}: nc is {count} but there are {len(names)} names")
    return tuple(str(name) for name in names)


# What the entries of a COCO JSON must hold here.
_COCO_KEYS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}
_COCO_WORDS = {int: "a whole number", str: "a text", list: "a list of four numbers"}


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO JSON's content.

    Raises:
        DataError: it is malformed.
    """
    try:
        content = json.loads(read_text(path, DataError))
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in _COCO_KEYS):
        raise DataError(f"{path} is no COCO annotation file: it must hold images, annotations and categories")
    for kind, keys in _COCO_KEYS.items():
        for number, entry in enumerate(content[kind]):
            for key, expected in keys.items():
                if not isinstance(entry, dict) or not isinstance(entry.get(key), expected):
                    raise DataError(f"{path}: entry {number} of {kind} needs {key!r}, {_COCO_WORDS[expected]}: correct the file")
    return content


def _from_json(path: Path) -> DetectionDataset:
    content = read_coco(path)
    folders = _image_folders(path)
    problems: dict[str, list[str]] = {}
    entries = []
    for image in content["images"]:
        name = image["file_name"]
        place = next((folder / name for folder in folders if (folder / name).is_file()), None)
        if place is None:
            problems.setdefault("missing image", []).append(f"{name}, listed in {path}, does not exist")
        else:
            entries.append(ImageEntry(place, image["id"]))
    if not entries:
        raise DataError(f"none of the images of {path} was found in {', '.join(str(folder) for folder in folders)}")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    return DetectionDataset(tuple(c["name"] for c in categories), tuple(entries), path, problems)


def _image_folders(annotations: Path) -> list[Path]:
    """Where images of a COCO JSON may be: beside it, in images/, and in images/<split> as COCO itself has them."""
    root = annotations.parent
    split = annotations.stem.split("_")[-1]
    return [
        root,
        root / "images",
        root / "images" / split,
        root.parent,
        root.parent / "images",
        root.parent / "images" / split,
        root.parent / split,
    ]


def category_indices(content: dict[str, Any], names: Iterable[str], path: Path) -> dict[int, int]:
    """COCO category id -> class index: by name where the names agree, else by order if there are as many.

    Raises:
        DataError: neither is possible.
    """
    categories = sorted(content["categories"], key=lambda category: category["id"])
    by_name = {name: index for index, name in enumerate(names)}
    if not by_name:
        return {category["id"]: index for index, category in enumerate(categories)}
    if all(category["name"] in by_name for category in categories):
        return {category["id"]: by_name[category["name"]] for category in categories}
    if len(categories) == len(by_name):
        return {category["id"]: index for index, category in enumerate(categories)}
    raise DataError(f"{path} has {len(categories)} categories that are not the data set's {len(by_name)} names: correct `names`")


def _from_coco(dataset: DetectionDataset) -> dict[str, Any]:
    assert dataset.annotations is not None
    content = read_coco(dataset.annotations)
    indices = category_indices(content, dataset.names, dataset.annotations)
    by_name = {Path(image["file_name"]).name: image for image in content["images"]}
    known = {image["id"]: image for image in content["images"]}
    images: list[dict[str, Any]] = []
    wanted: dict[int, int] = {}
    for entry in dataset.images:
        image = by_name.get(entry.path.name) or known.get(entry.image_id)
        if image is None:
            dataset.problems.setdefault("image without annotations", []).append(
                f"{entry.path} is not in {dataset.annotations}: it is left out of the metrics"
            )
            continue
        wanted[image["id"]] = entry.image_id
        images.append({**image, "id": entry.image_id})
    annotations: list[dict[str, Any]] = []
    for annotation in content["annotations"]:
        if annotation["image_id"] in wanted and annotation["category_id"] in indices:
            box = _box(annotation, dataset.annotations)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": wanted[annotation["image_id"]],
                    "category_id": indices[annotation["category_id"]],
                    "bbox": box,
                    "area": float(annotation.get("area", box[2] * box[3])),
                    "iscrowd": int(annotation.get("iscrowd", 0)),
                }
            )
    return _coco(dataset, images, annotations)


def _box(annotation: dict[str, Any], path: Path) -> list[float]:
    """x, y, width and height of an annotation."""
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: the bbox {annotation['bbox']} is not {_COCO_WORDS[list]}: correct the file") from error
    return [x, y, width, height]


def _from_labels(dataset: DetectionDataset) -> dict[str, Any]:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    labelled = 0
    for entry in dataset.images:
        height, width = image_size(entry.path)
        images.append({"id": entry.image_id, "file_name": entry.path.name, "height": height, "width": width})
        labels = read_labels(entry.path, len(dataset.names), dataset.problems)
        labelled += labels is not None
        for class_index, x, y, w, h in [] if labels is None else labels:
            box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": entry.image_id,
                    "category_id": int(class_index),
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                }
            )
    if not labelled:
        raise DataError(
            f"no label file was found for any of the {len(images)} images (looked for {label_example(dataset)}): "
            "add labels, or name a COCO JSON as `annotations` of a data.yaml, or with --annotations where a command takes it"
        )
    return _coco(dataset, images, annotations)


def label_example(dataset: DetectionDataset) -> Path:
    """Where the first image's label file would be."""
    return label_path(dataset.images[0].path)


def image_size(path: Path) -> tuple[int, int]:
    """`(height, width)` of an image; (0, 0) if it cannot be decoded."""
    image = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if path.stat().st_size else None
    return (0, 0) if image is None else (image.shape[0], image.shape[1])


def _coco(dataset: DetectionDataset, images: list[dict[str, Any]], annotations: list[dict[str, Any]]) -> dict[str, Any]:
    count = max(len(dataset.names), max((a["category_id"] for a in annotations), default=-1) + 1)
    names = [*dataset.names, *(f"class {index}" for index in range(len(dataset.names), count))]
    return {
        "info": {},
        "images": images,
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in enumerate(names)],
    }
