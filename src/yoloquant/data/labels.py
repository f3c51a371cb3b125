"""YOLO label files: a line `class cx cy w h` for each box, normalised, in `labels/` beside `images/`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yoloquant.errors import DataError
from yoloquant.files.reading import MOST_CLASSES, read_text

# Rows whose values leave 0..1 by no more than this were rounded by their writer; ultralytics accepts as much.
TOLERANCE = 0.01

# Bytes of a label file; a line has some 40.
_LARGEST_FILE = 64 << 20

Problems = dict[str, list[str]]
Row = tuple[float, ...]

# Kinds of problems that cost rows.
UNUSABLE_ROWS = ("malformed label", "class out of range", "box outside the image", "unreadable labels")


def label_path(image: Path) -> Path:
    """The label file of an image: the last folder `images` of its absolute path becomes `labels`."""
    path = image.absolute().with_suffix(".txt")
    folders = list(path.parts[:-1])
    if "images" in folders:
        folders[len(folders) - 1 - folders[::-1].index("images")] = "labels"
    return Path(*folders, path.name)


def read_labels(image: Path, class_count: int, problems: Problems, keypoint_columns: int = 0) -> np.ndarray | None:
    """Boxes of an image, clipped to it.

    Polygon lines (class and at least three points) become their bounding box, and of lines with keypoints the box is read. Lines
    that cannot be used and repeated lines are left out and counted in `problems`.

    Args:
        image: Path of the image.
        class_count: Classes from this number on are left out; 0 if unknown, and `MOST_CLASSES` counts.
        problems: Kind -> sentences; added to.
        keypoint_columns: Columns after the box in lines with keypoints; 0 in sets without.

    Returns:
        `(n, 5)` float64: class, centre x, centre y, width, height in 0..1; None if there is no label file.
    """
    path = label_path(image)
    try:
        there = path.exists()
    except (OSError, ValueError):
        # A name that the system refuses.
        there = False
    if not there:
        problems.setdefault("image without labels", []).append(f"{image} has no label file: it counts as background")
        return None
    try:
        lines = read_text(path, DataError, _LARGEST_FILE).splitlines()
    except DataError as error:
        problems.setdefault("unreadable labels", []).append(f"{error}: the image counts as background")
        return None
    rows: dict[Row, Row] = {}
    for number, line in enumerate(lines, start=1):
        if line.strip():
            values = _values(line, keypoint_columns)
            row = "malformed label" if values is None else _row(values, class_count)
            # Different polygons can have one bounding box, so that what is written is compared.
            kind = row if isinstance(row, str) else "duplicate label" if values in rows else None
            if kind is not None:
                problems.setdefault(kind, []).append(f"{path}, line {number}: {kind}, left out")
            elif values is not None and not isinstance(row, str):
                rows[values] = row
    return np.array(list(rows.values()), dtype=np.float64).reshape(-1, 5)


def _values(line: str, keypoint_columns: int) -> Row | None:
    """The numbers of a line without keypoints; None if it holds neither a box nor a polygon."""
    try:
        values = tuple(float(part) for part in line.split())
    except ValueError:
        return None
    if keypoint_columns and len(values) == 5 + keypoint_columns:
        values = values[:5]
    is_polygon = len(values) >= 7 and len(values) % 2 == 1
    return values if (len(values) == 5 or is_polygon) and bool(np.all(np.isfinite(values))) else None


def _row(values: Row, class_count: int) -> Row | str:
    """Class and box, or the kind of what is wrong."""
    category = values[0]
    if category != int(category):
        return "malformed label"
    if category < 0 or category >= (class_count or MOST_CLASSES):
        return "class out of range"
    if min(values[1:]) < -TOLERANCE or max(values[1:]) > 1.0 + TOLERANCE:
        return "box outside the image"
    x1, y1, x2, y2 = _corners(values[1:])
    if len(values) == 5 and min(x1, y1) >= 0.0 and max(x2, y2) <= 1.0:
        box = values[1:]
    else:
        x1, y1, x2, y2 = (min(max(value, 0.0), 1.0) for value in (x1, y1, x2, y2))
        box = ((x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1)
    return (category, *box) if box[2] > 0.0 and box[3] > 0.0 else "box outside the image"


def _corners(values: Row) -> tuple[float, float, float, float]:
    """x1, y1, x2, y2 of a box (centre and size) or of a polygon's points."""
    if len(values) == 4:
        x, y, width, height = values
        return x - width / 2, y - height / 2, x + width / 2, y + height / 2
    xs, ys = values[0::2], values[1::2]
    return min(xs), min(ys), max(xs), max(ys)
