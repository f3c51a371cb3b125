"""How much of a difference in mAP is chance, because the number of evaluated images is limited: the delete-a-group jackknife.

The images are dealt to 20 groups, each group is left out once, and both models are measured on the same rest. With d_g the
difference without group g, the squared standard error is (G - 1) / G times the sum of (d_g - mean d)^2 (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 11). Both models see the same images, so that what makes an image hard for both
of them cancels: the error of a difference is far smaller than that of either mAP.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from yoloquant.evaluation.matching import Matches, indices_by
from yoloquant.evaluation.precision_recall import average_precision

if TYPE_CHECKING:
    from yoloquant.evaluation.evaluation import Evaluation

GROUPS = 20


@dataclass(frozen=True)
class Loss:
    """What a model scores less than another one on the same images.

    Attributes:
        value: Points of mAP50-95, by COCO's figures; negative for a gain.
        error: One standard error, points; NaN where it is not known.
    """

    value: float
    error: float

    def __str__(self) -> str:
        """As in `0.31 ± 0.18`."""
        return f"{self.value:.2f}" if np.isnan(self.error) else f"{self.value:.2f} ± {self.error:.2f}"

    def to_dict(self) -> dict[str, float | None]:
        """As JSON values; what is not known is null."""
        return {name: None if np.isnan(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Loss:
        """The inverse of `to_dict`."""
        return cls(**{name: float("nan") if values[name] is None else float(values[name]) for name in ("value", "error")})


@dataclass(frozen=True)
class ClassLoss:
    """What a class loses.

    Attributes:
        name: Name of the class.
        objects: Number of objects of it; images: Number of images that hold them.
        before: mAP50-95 of the first model, percent; after: mAP50-95 of the second.
        loss: Difference of the two.
    """

    name: str
    objects: int
    images: int
    before: float
    after: float
    loss: Loss

    @property
    def certainty(self) -> float:
        """The loss in standard errors: 2 and more is hardly chance; minus infinity where the error is not known."""
        if np.isnan(self.loss.error):
            return float("-inf")
        return 0.0 if self.loss.value == 0.0 else self.loss.value / max(self.loss.error, 1e-9)


def groups_of(image_ids: np.ndarray, groups: int = GROUPS) -> np.ndarray:
    """The group of each image id: neighbours stay together, since frames of a film that follow each other are alike.

    Args:
        image_ids: `(i,)`, ascending.
        groups: Number of groups; as many as images where these are fewer.

    Returns:
        `(i,)` int, 0..groups - 1.
    """
    count = max(1, min(groups, len(image_ids)))
    return np.arange(len(image_ids)) * count // max(1, len(image_ids))


def left_out_precision(matches: Matches) -> np.ndarray:
    """Average precision without each group of images.

    Returns:
        `(G, k)` for the k classes with objects, in ascending order: percent, mean of IoU 0.50 to 0.95 by YOLOv5's formula; NaN
        where all objects of the class are in the group.
    """
    objects = matches.objects
    groups = groups_of(objects.images)
    count = int(groups.max(initial=-1)) + 1
    of_object = groups[np.searchsorted(objects.images, objects.image_ids)]
    of_detection = groups[np.searchsorted(objects.images, matches.image_ids)]
    classes = np.unique(objects.classes)
    own_detections = indices_by(matches.classes)
    found = np.full((count, len(classes)), np.nan)
    for column, index in enumerate(classes):
        own = own_detections.get(int(index), np.zeros(0, int))
        own = own[np.argsort(-matches.scores[own], kind="stable")]
        scores, hits, home = matches.scores[own], matches.hits[own], of_detection[own]
        in_group = np.bincount(of_object[objects.classes == index], minlength=count)
        left = in_group.sum() - in_group
        # Groups that hold nothing of the class change nothing.
        present = np.bincount(home, minlength=count) + in_group > 0
        whole = float(average_precision(scores, hits, int(in_group.sum())).mean()) if not present.all() else 0.0
        for group in range(count):
            if not present[group]:
                found[group, column] = whole
            elif left[group]:
                kept = home != group
                found[group, column] = average_precision(scores[kept], hits[kept], int(left[group])).mean()
    return found * 100.0


def standard_error(differences: np.ndarray) -> float:
    """Standard error of a difference, from its values without each of at least two groups; NaN where one of these is."""
    count = len(differences)
    if count < 2:
        return float("nan")
    return float(np.sqrt((count - 1) / count * np.square(differences - differences.mean()).sum()))


def map_loss(before: Evaluation, after: Evaluation) -> Loss:
    """What the second of two models scores less, both evaluated on the same images."""
    value = before.map50_95 - after.map50_95
    if not _comparable(before, after):
        return Loss(value, float("nan"))
    return Loss(value, standard_error(class_means(before.left_out) - class_means(after.left_out)))


def class_losses(before: Evaluation, after: Evaluation) -> list[ClassLoss]:
    """What each class that occurs loses, the most certain loss first."""
    differences = before.left_out - after.left_out if _comparable(before, after) else None
    losses = []
    for column, figures in enumerate(before.classes):
        first, second = (found.per_class.get(figures.name, (float("nan"),))[0] for found in (before, after))
        error = float("nan") if differences is None else standard_error(differences[:, column])
        losses.append(ClassLoss(figures.name, figures.objects, figures.images, first, second, Loss(first - second, error)))
    return sorted(losses, key=lambda entry: -entry.certainty)


def class_means(left_out: np.ndarray) -> np.ndarray:
    """`(G,)` mAP of the classes that have objects outside of each group, from `left_out_precision`; NaN where none has."""
    known = ~np.isnan(left_out)
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = np.where(known, left_out, 0.0).sum(axis=1) / known.sum(axis=1)
    return mean


def _comparable(before: Evaluation, after: Evaluation) -> bool:
    """Whether two evaluations are of the same images and objects, of which there are some."""
    first, second = before.matches.objects, after.matches.objects
    pairs = ((first.images, second.images), (first.classes, second.classes))
    return len(first) > 0 and all(np.array_equal(*pair) for pair in pairs)
