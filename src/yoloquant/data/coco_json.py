"""COCO annotation files: what they hold, and which of their images and categories are which of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from yoloquant.data.labels import Problems
from yoloquant.errors import DataError
from yoloquant.files.reading import parse_json, parsed, read_text, shortened

# What the entries of a COCO JSON must hold here.
_KEYS: dict[str, dict[str, type]] = {
    "images": {"id": int, "file_name": str},
    "annotations": {"image_id": int, "category_id": int, "bbox": list},
    "categories": {"id": int, "name": str},
}
_WORDS = {int: "a whole number", str: "a text", list: "a list of four numbers"}

# Bytes of a file; those of COCO's train split are 450 million.
_LARGEST_FILE = 4 << 30
# Numbers that coordinates and ids are compared by; longer ones are mistakes.
_LARGEST_NUMBER = 1 << 53

# Kinds of problems that cost annotations.
UNUSABLE_ANNOTATIONS = ("box without area", "unknown category", "unknown image")


def read_coco(path: Path) -> dict[str, Any]:
    """A COCO JSON's content.

    Raises:
        DataError: It is malformed, or two of its images or categories have one id.
    """
    with parsed(path, DataError):
        content = parse_json(read_text(path, DataError, _LARGEST_FILE), str(path), DataError)
        return _checked(content, path)


def _checked(content: Any, path: Path) -> dict[str, Any]:
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in _KEYS):
        raise DataError(f"{path} is no COCO annotation file: it must hold images, annotations and categories")
    for kind, keys in _KEYS.items():
        for number, entry in enumerate(content[kind]):
            for key, expected in keys.items():
                if not isinstance(entry, dict) or not _is_usable(entry.get(key), expected):
                    raise DataError(f"{path}: entry {number} of {kind} needs {key!r}, {_WORDS[expected]}: correct the file")
    for kind in ("images", "categories"):
        number, count = Counter(entry["id"] for entry in content[kind]).most_common(1)[0] if content[kind] else (0, 1)
        if count > 1:
            raise DataError(f"{path}: {count} {kind} have the id {number}: give each its own")
    return content


def _is_usable(value: Any, expected: type) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and abs(value) <= _LARGEST_NUMBER if expected is int else isinstance(value, expected)


def category_indices(content: dict[str, Any], names: Iterable[str], path: Path) -> dict[int, int]:
    """COCO category id -> class index: by name where the names agree, else by order if there are as many.

    Raises:
        DataError: Neither is possible.
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


def usable_annotations(content: dict[str, Any], path: Path, problems: Problems) -> list[dict[str, Any]]:
    """Annotations with a box that has an area, of known images and categories; the others are left out and counted in `problems`.

    Boxes of the result are lists of four floats.

    Raises:
        DataError: A box is not four numbers.
    """
    images, categories = ({entry["id"] for entry in content[kind]} for kind in ("images", "categories"))
    usable = []
    for number, annotation in enumerate(content["annotations"]):
        box = _box(annotation, path)
        kind = None
        if annotation["category_id"] not in categories:
            kind, value = "unknown category", annotation["category_id"]
        elif annotation["image_id"] not in images:
            kind, value = "unknown image", annotation["image_id"]
        elif box[2] <= 0.0 or box[3] <= 0.0:
            kind, value = "box without area", annotation["bbox"]
        if kind is None:
            usable.append({**annotation, "bbox": box})
        else:
            name = shortened(annotation.get("id", number))
            problems.setdefault(kind, []).append(f"{path}, annotation {name}: {kind} {shortened(value)}, left out")
    return usable


def _box(annotation: dict[str, Any], path: Path) -> list[float]:
    """x, y, width and height of an annotation."""
    try:
        x, y, width, height = map(float, annotation["bbox"])
    except (TypeError, ValueError, OverflowError) as error:
        raise DataError(_no_box(annotation, path)) from error
    if not all(abs(value) <= _LARGEST_NUMBER for value in (x, y, width, height)):
        raise DataError(_no_box(annotation, path))
    return [x, y, width, height]


def _no_box(annotation: dict[str, Any], path: Path) -> str:
    return f"{path}: the bbox {shortened(annotation['bbox'])} is not {_WORDS[list]}: correct the file"


def match_images(paths: Sequence[Path], images: Sequence[dict[str, Any]], source: Path) -> dict[Path, dict[str, Any]]:
    """Which image of a COCO JSON each file of a data set is.

    A file is the image whose `file_name` is the end of its path (the longest such name); else the one of the same base name;
    else, as ultralytics takes COCO's ids, the one whose id is the number in the file's name, unless its own `file_name` ends with
    another number. Files that are none are left out.

    Args:
        paths: Files of the data set.
        images: `images` of the JSON.
        source: The JSON, for messages.

    Raises:
        DataError: Several images could be one file, or several files one image.
    """
    matched = _matched(paths, images, _ends, _relative, source)
    # Where the JSON tells files of one base name apart by their folders, a further such file is not in it.
    told_apart = {path.name for path in matched}
    for keys_of_path, key_of_image in ((_base_name, _base), (_number, _own_number)):
        taken = {image["id"] for image in matched.values()}
        rest = [path for path in paths if path not in matched and path.name not in told_apart]
        matched |= _matched(rest, [image for image in images if image["id"] not in taken], keys_of_path, key_of_image, source)
    return matched


def _matched(
    paths: Sequence[Path],
    images: Sequence[dict[str, Any]],
    keys_of_path: Callable[[Path], Sequence[Any]],
    key_of_image: Callable[[dict[str, Any]], Any],
    source: Path,
) -> dict[Path, dict[str, Any]]:
    """Files and images that share a key, of several the last of the file's."""
    by_key: dict[Any, list[dict[str, Any]]] = {}
    for image in images:
        by_key.setdefault(key_of_image(image), []).append(image)
    files: dict[Any, Path] = {}
    for path in paths:
        key = next((key for key in reversed(keys_of_path(path)) if key in by_key), None)
        if key is not None:
            _check_unambiguous(path, by_key[key], files.get(key), source)
            files[key] = path
    return {path: by_key[key][0] for key, path in files.items()}


def _check_unambiguous(path: Path, images: list[dict[str, Any]], other: Path | None, source: Path) -> None:
    remedy = f"in {source}: name each image there once, by its path below the images folder"
    if len(images) > 1:
        names = " or ".join(f"{image['file_name']!r} (id {image['id']})" for image in images[:2])
        raise DataError(f"{path} can be {names} {remedy}")
    if other is not None:
        raise DataError(f"{other} and {path} can both be {images[0]['file_name']!r} {remedy}")


def _relative(image: dict[str, Any]) -> tuple[str, ...] | None:
    """Parts of the `file_name`; paths of Windows are read, too."""
    parts = PurePosixPath(image["file_name"].replace("\\", "/")).parts
    return tuple(part for part in parts if part != "..") or None


def _ends(path: Path) -> list[tuple[str, ...]]:
    """Ends of a path, the shortest first."""
    return [path.parts[start:] for start in range(len(path.parts) - 1, -1, -1)]


def _base(image: dict[str, Any]) -> str | None:
    parts = _relative(image)
    return parts[-1] if parts else None


def _base_name(path: Path) -> list[str]:
    return [path.name]


def _number(path: Path) -> list[int]:
    return [int(path.stem)] if path.stem.isdecimal() and len(path.stem) <= 15 else []


def _own_number(image: dict[str, Any]) -> int | None:
    """The id; None if the `file_name` ends with another number."""
    stem = PurePosixPath(image["file_name"]).stem
    digits = stem[len(stem.rstrip("0123456789")) :]
    return image["id"] if not digits or digits.lstrip("0") == str(image["id"]).lstrip("0") else None
