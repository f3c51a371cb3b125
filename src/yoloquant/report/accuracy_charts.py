"""Charts of an evaluation, as users of YOLOv5 and ultralytics know them: curves over confidence, and the confusion matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from yoloquant.evaluation.confusion import CONFIDENCE, IOU, confusion_matrix
from yoloquant.evaluation.evaluation import Evaluation
from yoloquant.evaluation.precision_recall import GRID, ClassCurves, smooth
from yoloquant.report.charts import Curves, Line, Matrix

# Classes whose curves are named; more of them are drawn in the background.
NAMED_CLASSES = 20
# Points of a curve in a page: enough for a line of 600 pixels.
_PAGE_POINTS = 200
BACKGROUND = "background"
# Names of the charts of an evaluation.
CHARTS = ("PR_curve", "P_curve", "R_curve", "F1_curve", "confusion_matrix")


def evaluation_charts(evaluation: Evaluation, names: Sequence[str]) -> list[Curves | Matrix]:
    """Precision over recall; F1, precision and recall over confidence; the confusion matrix. None of them without objects.

    Args:
        evaluation: Evaluation of one model.
        names: Names of its classes.
    """
    curves = evaluation.curves
    if not len(curves.classes):
        return []
    mean = f"all classes {curves.average_precision[:, 0].mean():.3f} mAP50"
    own = [names[index] for index in curves.classes] if len(curves.classes) <= NAMED_CLASSES else []
    return [
        _curves("PR_curve", "Precision over recall", "recall", curves.precision_at_recall, own, mean),
        *(
            _curves(f"{letter}_curve", f"{word} over confidence", "confidence", values, own, _best(values))
            for letter, word, values in _over_confidence(curves)
        ),
        matrix(evaluation, names, "confusion_matrix", "Confusion matrix"),
    ]


def compared_charts(evaluations: Mapping[str, Evaluation]) -> list[Curves]:
    """Precision over recall and F1 over confidence of two models in the same axes, means over classes.

    Args:
        evaluations: Mapping label -> evaluation, the model that is compared with first.
    """
    if not all(len(found.curves.classes) for found in evaluations.values()):
        return []

    def lines(values: Mapping[str, np.ndarray]) -> tuple[Line, ...]:
        return tuple(Line(label, _thinned(mean), second=number > 0) for number, (label, mean) in enumerate(values.items()))

    recall = {
        f"{label}: {found.curves.average_precision[:, 0].mean():.3f} mAP50": found.curves.precision_at_recall.mean(axis=0)
        for label, found in evaluations.items()
    }
    f1 = {
        f"{label}: {_best(found.curves.f1, '')}": smooth(found.curves.f1.mean(axis=0), 0.1)
        for label, found in evaluations.items()
    }
    xs = _thinned(GRID)
    return [
        Curves("precision-recall", "Precision over recall", "recall", "precision", xs, lines(recall)),
        Curves("f1-confidence", "F1 over confidence", "confidence", "F1", xs, lines(f1)),
    ]


def matrix(evaluation: Evaluation, names: Sequence[str], name: str, title: str) -> Matrix:
    """The confusion matrix of an evaluation, without classes that neither occur nor are detected."""
    counts = confusion_matrix(evaluation.matches.objects, evaluation.detections, len(names))
    kept = np.flatnonzero((counts.sum(axis=0) + counts.sum(axis=1) > 0) | (np.arange(len(counts)) == len(names)))
    labels = [*names, BACKGROUND]
    return Matrix(
        name,
        f"{title}, at confidence {CONFIDENCE} and IoU {IOU}",
        "predicted",
        "true",
        tuple(labels[index] for index in kept),
        tuple(tuple(map(int, row)) for row in counts[np.ix_(kept, kept)]),
    )


def _over_confidence(curves: ClassCurves) -> list[tuple[str, str, np.ndarray]]:
    return [("P", "Precision", curves.precision), ("R", "Recall", curves.recall), ("F1", "F1", curves.f1)]


def _curves(name: str, title: str, x_label: str, values: np.ndarray, names: Sequence[str], label: str) -> Curves:
    """Every class, and their mean on top; over confidence the mean is smoothed, as the best one is chosen."""
    mean = values.mean(axis=0)
    labels = names or [""] * len(values)
    lines = [Line(label, tuple(row.tolist())) for label, row in zip(labels, values, strict=True)]
    top = Line(label, tuple((mean if x_label == "recall" else smooth(mean, 0.1)).tolist()), second=True)
    y_label = title.partition(" ")[0]
    return Curves(name, title, x_label, y_label, tuple(GRID.tolist()), (*lines, top))


def _best(values: np.ndarray, prefix: str = "all classes ") -> str:
    """The highest mean, and the confidence that has it."""
    mean = smooth(values.mean(axis=0), 0.1)
    return f"{prefix}{mean.max():.2f} at {GRID[mean.argmax()]:.3f}"


def _thinned(values: np.ndarray) -> tuple[float, ...]:
    return tuple(values[np.linspace(0, len(values) - 1, _PAGE_POINTS).round().astype(int)].tolist())
