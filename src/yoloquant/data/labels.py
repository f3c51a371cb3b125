"""YOLO label files: a line `class cx cy w h` for each box, normalised, in `labels/` beside `images/`."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np


def label_path(image: Path) -> Path:
    """The label file of an image: the last `images` folder of its path becomes `labels`."""
    text = str(image.with_suffix(".txt"))
    needle, replacement = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return Path(replacement.join(text.rsplit(needle, 1)))


def read_labels(image: Path, class_count: int, problems: dict[str, list[str]]) -> np.ndarray | None:
    """Boxes of an image.

    Polygon lines (class and at least three points) become their bounding box. Lines that cannot be used are left out and
    told in `problems`.

    Args:
        image: its path.
        class_count: classes from this on are left out; 0 if not known.
        problems: kind -> sentences, added to.

    Returns:
        `(n, 5)` float64: class, centre x, centre y, width, height in 0..1; none if there is no label file.
    """
    path = label_path(image)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        problems.setdefault("image without labels", []).append(f"{image} has no label file: it counts as background")
        return None
    except (OSError, UnicodeDecodeError):
        problems.setdefault("unreadable labels", []).append(f"{path} cannot be read: the image counts as background")
        return None
    rows = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            row = _parse(line, class_count)
            if isinstance(row, str):
                problems.setdefault(row, []).append(f"{path}, line {number}: {row}, left out")
            else:
                rows.append(row)
    return np.array(rows, dtype=np.float64).reshape(-1, 5)


def _parse(line: str, class_count: int) -> list[float] | str:
    """A row, or what is wrong with it."""
    try:
        values = [float(part) for part in line.split()]
    except ValueError:
        return "malformed label"
    is_polygon = len(values) >= 7 and len(values) % 2 == 1
    if (len(values) != 5 and not is_polygon) or not np.all(np.isfinite(values)) or values[0] != int(values[0]):
        return "malformed label"
    if values[0] < 0 or (class_count and values[0] >= class_count):
        return "class out of range"
    if is_polygon:
        x, y = values[1::2], values[2::2]
        values = [values[0], (min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
    if min(values[1:]) < 0 or max(values[1:]) > 1.0 + 1e-6 or values[3] == 0 or values[4] == 0:
        return "box outside the image"
    return values
