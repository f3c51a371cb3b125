"""Data sets: YOLO `data.yaml`, COCO JSON, image lists and folders, all as one `DetectionDataset`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from yoloquant.data.coco_json import read_coco
from yoloquant.data.ground_truth import CocoIds, from_coco, from_labels
from yoloquant.data.images import IMAGE_SUFFIXES
from yoloquant.data.labels import Problems
from yoloquant.errors import DataError
from yoloquant.files.reading import MOST_CLASSES, check_file, exists, is_file, parse_yaml, parsed, read_text, shortened

# Bytes of a list of images; that of COCO's train split has 7 million.
_LARGEST_LIST = 256 << 20


@dataclass(frozen=True)
class ImageEntry:
    """An image of a data set.

    Attributes:
        path: Absolute path of the file.
        image_id: Number of the image in the data set.
        keypoint_columns: Columns after the box in rows of its label file with keypoints; 0 in sets without.
    """

    path: Path
    image_id: int
    keypoint_columns: int = 0


@dataclass(frozen=True)
class DetectionDataset:
    """Images, and the boxes in them where these are known.

    Attributes:
        names: Class names; empty if unknown.
        images: Images in the order of the source.
        annotations: COCO JSON with the ground truth; label files beside the images are read where there is none.
        problems: What was wrong and left out, kind -> sentences.
        files: Files that it was read from, beside images and labels.
    """

    names: tuple[str, ...]
    images: tuple[ImageEntry, ...]
    annotations: Path | None = None
    problems: Problems = field(default_factory=dict, hash=False, compare=False)
    files: tuple[Path, ...] = ()

    def problem_counts(self) -> Counter[str]:
        """How many problems of each kind."""
        return Counter({kind: len(sentences) for kind, sentences in self.problems.items()})

    def problem_sentences(self) -> list[str]:
        """For each kind of problem, how often it occurs and where first."""
        return [f"{kind}: {len(sentences)}; the first: {sentences[0]}" for kind, sentences in self.problems.items()]

    @property
    def ground_truth(self) -> dict[str, Any]:
        """The boxes as a COCO dictionary restricted to this set's images; category ids are class indices.

        Boxes are x, y, width, height in pixels of the image.

        Raises:
            DataError: There are neither annotations nor any label file, or nothing in them can be used.
        """
        return self._truth[0]

    @property
    def coco_ids(self) -> CocoIds:
        """What the annotations call this set's images and classes.

        Raises:
            DataError: As `ground_truth`.
        """
        return self._truth[1]

    @cached_property
    def _truth(self) -> tuple[dict[str, Any], CocoIds]:
        return from_coco(self) if self.annotations is not None else (from_labels(self), CocoIds())


def load_dataset(source: str | Path, split: str = "val", *, annotations: str | Path | None = None) -> DetectionDataset:
    """Load a data set.

    Args:
        source: A `data.yaml` (keys path, train, val, test, names, nc, annotations), a COCO JSON, a text file with an image
            path in each line, or a folder of images.
        split: Split of a `data.yaml`.
        annotations: COCO JSON with the ground truth; overrides what the source names.

    Raises:
        DataError: The source or a file it names is missing or malformed, or there are no images.
    """
    source = Path(source)
    truth = Path(annotations) if annotations else None
    if truth is not None and not exists(truth):
        raise DataError(f"there is no annotation file {truth}")
    if truth is not None:
        check_file(truth, DataError)
    if not exists(source):
        raise DataError(f"there is no data set {source}: give a data.yaml, a COCO JSON, an image list or a folder")
    # Everything that is read of a set goes through here, so that its errors name it.
    with parsed(str(source), DataError):
        if source.is_dir():
            return _finish((), _images_in(source), truth, {}, source)
        check_file(source, DataError)
        if source.suffix in (".yaml", ".yml"):
            return _from_yaml(source, split, truth)
        if source.suffix == ".json":
            return _from_json(source, truth)
        if source.suffix == ".txt":
            problems: Problems = {}
            return _finish((), _images_in_list(source, problems), truth, problems, source)
        raise DataError(f"{source} is no data set: give a data.yaml, a COCO JSON, an image list (.txt) or a folder")


def _finish(
    names: tuple[str, ...],
    paths: list[Path],
    truth: Path | None,
    problems: Problems,
    source: Path,
    keypoint_columns: int = 0,
    lists: Sequence[Path] = (),
) -> DetectionDataset:
    # Label files are found by the folders above an image, which a relative path may not show.
    absolute = Counter(path.absolute() for path in paths)
    unique = list(absolute)
    if len(unique) < len(paths):
        problems["duplicate image"] = [f"{path} is listed twice" for path, count in absolute.items() if count > 1]
    if not unique:
        raise DataError(f"{source} holds no images: check its paths")
    stems = [path.stem for path in unique]
    # Numbers that an array of ids holds.
    numeric = all(stem.isdecimal() and len(stem) <= 15 for stem in stems) and len({int(stem) for stem in stems}) == len(stems)
    ids = [int(stem) for stem in stems] if numeric else range(len(unique))
    entries = (ImageEntry(path, number, keypoint_columns) for path, number in zip(unique, ids, strict=True))
    files = tuple(path for path in (source, truth, *lists) if path is not None and path.is_file())
    return DetectionDataset(names, tuple(entries), truth, problems, files)


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES and is_file(path))


def _images_in_list(path: Path, problems: Problems) -> list[Path]:
    """Paths in a list file; those that begin with ./ or are relative stand relative to the file."""
    found = []
    for line in read_text(path, DataError, _LARGEST_LIST).splitlines():
        if not line.strip():
            continue
        image = Path(line.strip())
        image = image if image.is_absolute() else path.parent / image
        if is_file(image):
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
    problems: Problems = {}
    paths: list[Path] = []
    lists: list[Path] = []
    parts = values[split] if isinstance(values[split], list) else [values[split]]
    for part in parts:
        place = _place(root, str(part))
        if place.is_dir():
            paths += _images_in(place)
        elif place.suffix.lower() in IMAGE_SUFFIXES and is_file(place):
            raise DataError(f"{path} names one image, {place}, as its {split} images: name its folder, or a list of images")
        elif is_file(place):
            paths += _images_in_list(place, problems)
            lists.append(place)
        else:
            raise DataError(f"{path} names {place} as its {split} images, which does not exist: correct `path` or `{split}`")
    if truth is None:
        truth = _annotations(values.get("annotations"), split, root, path)
    return _finish(names, paths, truth, problems, path, _keypoint_columns(values, path), lists)


def _place(root: Path, part: str) -> Path:
    """Where a split lies; exporters write `../valid/images` for a folder beside the YAML, where ultralytics looks, too."""
    place = root / part
    return root / part[3:] if not place.exists() and part.startswith("../") else place


def _keypoint_columns(values: dict[str, Any], path: Path) -> int:
    """Columns that `kpt_shape` (points, values of each) adds to rows of label files."""
    shape = values.get("kpt_shape")
    if shape is None:
        return 0
    if not (isinstance(shape, list) and len(shape) == 2 and all(type(size) is int and 0 < size < 1000 for size in shape)):
        raise DataError(
            f"{path}: kpt_shape is {shortened(shape)}: give the number of keypoints and of values of each, as [17, 3]"
        )
    columns: int = shape[0] * shape[1]
    return columns


def _annotations(value: Any, split: str, root: Path, source: Path) -> Path | None:
    """The COCO JSON that a data.yaml names for a split; a single one is that of `val`."""
    if isinstance(value, dict):
        value = value.get(split)
    elif split != "val":
        value = None
    if value is None:
        return None
    place = root / str(value)
    if not is_file(place):
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
        if not all(type(key) is int for key in names) or set(names) != set(range(len(names))):
            raise DataError(f"{path}: the keys of `names` must be the class numbers 0 to {len(names) - 1}")
        names = [names[index] for index in range(len(names))]
    count = values.get("nc")
    if count is not None and not (type(count) is int and 0 <= count <= MOST_CLASSES):
        raise DataError(f"{path}: nc is {shortened(count)}: give the number of classes, or leave it out")
    if names is None:
        names = [f"class {index}" for index in range(count or 0)]
    if not isinstance(names, list):
        raise DataError(f"{path}: `names` must be a list, or a mapping from class numbers to names")
    if len(names) > MOST_CLASSES:
        raise DataError(f"{path}: there are {len(names)} names, more than {MOST_CLASSES}: correct the file")
    if count is not None and count != len(names):
        raise DataError(f"{path}: nc is {count} but there are {len(names)} names")
    return tuple(str(name) for name in names)


def _from_json(path: Path, truth: Path | None) -> DetectionDataset:
    content = read_coco(path)
    folders = _image_folders(path)
    problems: Problems = {}
    entries = []
    for image in content["images"]:
        name = image["file_name"].replace("\\", "/")
        place = next((folder / name for folder in folders if is_file(folder / name)), None)
        if place is None:
            problems.setdefault("missing image", []).append(f"{name}, listed in {path}, does not exist")
        else:
            entries.append(ImageEntry(place.absolute(), image["id"]))
    if not entries:
        raise DataError(f"none of the images of {path} was found in {', '.join(str(folder) for folder in folders)}")
    categories = sorted(content["categories"], key=lambda category: category["id"])
    files = (path,) if truth is None else (path, truth)
    return DetectionDataset(tuple(c["name"] for c in categories), tuple(entries), truth or path, problems, files)


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
