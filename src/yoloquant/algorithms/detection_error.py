"""How far a quantized detector's boxes and scores are from the float detector's, without labels.

Errors of the raw maps say little: nearly all of their values belong to empty background. Here every box counts by the score
that the float detector gives it, as it does in mAP.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from yoloquant.models.layouts import Candidates
from yoloquant.models.losses.overlap import generalized_iou

# Boxes that the float detector gives less are never among the detections of an image.
LEAST_SCORE = 0.01
_SMALLEST = 1e-6


def detection_error(expected: Candidates, found: Candidates) -> tuple[Tensor, Tensor]:
    """Error of boxes and error of scores, each an average over objects.

    Args:
        expected: of the float detector.
        found: of the quantized detector, for the same images.

    Returns:
        Box error, 1 - GIoU averaged with the float scores as weights, 0..2 (Rezatofighi et al. 2019); score error, the sum of all
        scores' Kullback-Leibler divergences, in nats, over the sum of the weights.
    """
    weights = expected.scores.amax(-1)
    total = weights.sum().clamp(min=_SMALLEST)
    kept = weights > LEAST_SCORE
    overlap = generalized_iou(expected.boxes[kept], found.boxes[kept])
    boxes = ((1.0 - overlap) * weights[kept]).sum() / total
    p, q = (scores.clamp(_SMALLEST, 1.0 - _SMALLEST) for scores in (expected.scores, found.scores))
    divergence = p * (p.log() - q.log()) + (1.0 - p) * ((1.0 - p).log() - (1.0 - q).log())
    return boxes, divergence.sum() / total


def total_error(expected: Sequence[Candidates], found: Sequence[Candidates]) -> float:
    """Box and score error together, averaged over batches."""
    errors = [sum(detection_error(*pair)).item() for pair in zip(expected, found, strict=True)]  # type: ignore[union-attr]
    return sum(errors) / len(errors)
