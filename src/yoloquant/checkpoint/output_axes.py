"""Which axis of a decoded output counts the boxes, and how many values each box has."""

from __future__ import annotations

from typing import NamedTuple

from yoloquant.errors import CheckpointError

# Strides of the levels that detectors have, the usual ones first: three, with a finer or a coarser one, or fewer.
_LEVELS = ((8, 16, 32), (8, 16, 32, 64), (4, 8, 16, 32), (16, 32), (8, 16), (4, 8, 16), (8,), (16,), (32,))
# Heads with suppression end in at most so many rows; others of one class have more.
_MOST_FINAL_ROWS = 1000


class Axes(NamedTuple):
    """How an output `(N, p, q)` is read.

    Attributes:
        layout: Layout of the decoded output, a key of `yoloquant.models.output_formats.LAYOUTS`.
        class_count: C; 0 where the output does not depend on it.
        strides: Strides of the levels that have as many boxes, or None if none have.
    """

    layout: str
    class_count: int
    strides: tuple[int, ...] | None


def strides_of(box_count: int, size: tuple[int, int]) -> tuple[int, ...] | None:
    """Strides of the levels that have this many boxes together, one or three in each cell; none if none have."""
    for strides in _LEVELS:
        cells = sum(-(-size[0] // stride) * -(-size[1] // stride) for stride in strides)
        if box_count in (cells, 3 * cells):
            return strides
    return None


def read_axes(shape: tuple[int, ...], class_count: int | None, size: tuple[int, int], *, selects: bool) -> Axes:
    """Recognise the axes of a decoded output, by its classes, by the boxes that its image has, and only then by length.

    Args:
        shape: `(N, p, q)`.
        class_count: Number of class names in the file's metadata; None if it names none.
        size: `(height, width)` of the images, pixels.
        selects: Whether the graph holds an operator that selects boxes (TopK, NonMaxSuppression).

    Raises:
        CheckpointError: No layout has these axes.
    """
    _, p, q = shape
    if q == 6 and (selects or (class_count != 1 and p <= _MOST_FINAL_ROWS)):
        return Axes("rows_final", 0, None)
    if selects:
        raise CheckpointError(
            f"its final detections {shape} have {q} values each, not 6 (corners, score, class): it is a network for another task "
            "than detection, or from an exporter that is not known"
        )
    found = [axes for axes in (_columns(p, q, size), _rows(p, q, size)) if axes.class_count == (class_count or axes.class_count)]
    found = [axes for axes in found if axes.class_count > 0]
    if not found:
        classes = f"{class_count} classes that its metadata names" if class_count else "boxes and classes"
        raise CheckpointError(
            f"its output {shape} is neither (N, 4+C, A) nor (N, A, 5+C) of the {classes}: it is a network for another task than "
            "detection, or its names are not its own"
        )
    usual = min(found, key=_rank)
    alike = [axes for axes in found if _rank(axes) == _rank(usual)]
    # There are nearly always more boxes than values for each.
    return alike[0] if p < q else alike[-1]


def _rank(axes: Axes) -> int:
    """How usual it is that a detector has as many boxes."""
    return len(_LEVELS) if axes.strides is None else _LEVELS.index(axes.strides)


def _columns(p: int, q: int, size: tuple[int, int]) -> Axes:
    return Axes("columns_classes", p - 4, strides_of(q, size))


def _rows(p: int, q: int, size: tuple[int, int]) -> Axes:
    return Axes("rows_objectness", q - 5, strides_of(p, size))
