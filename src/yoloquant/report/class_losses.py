"""What each class loses, the most certain loss first, and which classes are taken for each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloquant.evaluation.confusion import confusion_matrix
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.uncertainty import ClassLoss, class_losses
from yoloquant.report import charts
from yoloquant.report.accuracy_charts import BACKGROUND
from yoloquant.report.page import Column, PageTable, TableRow, number

if TYPE_CHECKING:
    from yoloquant.results.quantization import Row


def losses(pair: tuple[Row, Row] | None) -> list[ClassLoss]:
    """What each class that occurs loses, the most certain loss first."""
    if pair is None or pair[0].evaluation is None or pair[1].evaluation is None:
        return []
    return class_losses(pair[0].evaluation, pair[1].evaluation)


def class_table(classes: Sequence[ClassLoss], label: str) -> PageTable:
    """A row for each class."""
    columns = (
        Column("class", is_text=True),
        Column("objects"),
        Column("images", meaning="that hold objects of the class"),
        Column("float mAP50-95"),
        Column(f"{label} mAP50-95"),
        Column("lost"),
        Column("±", meaning="one standard error of the loss over images"),
        Column("lost / ±", meaning="2 and more is hardly chance"),
    )
    rows = tuple(TableRow((entry.name, *_figures(entry))) for entry in classes)
    return PageTable("classes-table", "Classes", columns, rows, "person" if len(rows) > 12 else "")


def _figures(entry: ClassLoss) -> tuple[str, ...]:
    known = entry.loss.error == entry.loss.error and entry.loss.error > 0.0
    values = (entry.before, entry.after, entry.loss.value, entry.loss.error)
    certainty = number(entry.certainty, 1) if known else ""
    return (str(entry.objects), str(entry.images), *(number(value) for value in values), certainty)


def class_rows(classes: Sequence[ClassLoss], label: str) -> list[dict[str, Any]]:
    """The table as rows of a CSV file."""
    return [
        {
            "class": entry.name,
            "objects": entry.objects,
            "images": entry.images,
            "float": entry.before,
            label: entry.after,
            "drop": entry.loss.value,
            "standard_error": None if entry.loss.error != entry.loss.error else entry.loss.error,
        }
        for entry in classes
    ]


def class_chart(classes: Sequence[ClassLoss], count: int = 20) -> charts.Bars:
    """What the classes lose, the most certain losses first, then the most certain gains; some of both if there are many."""
    shown = list(classes) if len(classes) <= count else [*classes[: count - count // 4], *_gains(classes)[-(count // 4) :]]
    title = "mAP50-95 lost by class" if len(classes) <= count else "mAP50-95 lost: the most certain losses and gains of classes"
    errors = {entry.name: entry.loss.error for entry in shown if entry.loss.error == entry.loss.error}
    return charts.Bars("classes", title, "mAP50-95 lost", {entry.name: entry.loss.value for entry in shown}, errors=errors)


def _gains(classes: Sequence[ClassLoss]) -> list[ClassLoss]:
    """Classes whose error is known, the most certain gain last."""
    return [entry for entry in classes if entry.certainty > float("-inf")]


def changed_confusions(before: Evaluation, after: Evaluation, names: Sequence[str], label: str, count: int = 12) -> PageTable:
    """The cells of the confusion matrix that change most."""
    first, second = (confusion_matrix(found.matches.objects, found.detections, len(names)) for found in (before, after))
    difference = second - first
    order = np.argsort(-np.abs(difference), axis=None, kind="stable")[:count]
    labels = [*names, BACKGROUND]
    columns = (Column("predicted", is_text=True), Column("true", is_text=True), Column("float"), Column(label), Column("change"))
    rows = tuple(
        TableRow((labels[row], labels[column], str(first[row, column]), str(second[row, column]), f"{change:+d}"))
        for row, column in zip(*np.unravel_index(order, difference.shape), strict=True)
        if (change := difference[row, column])
    )
    return PageTable("confusions-table", "What changes most in the confusion matrix", columns, rows)
