"""How far a quantized detector's boxes and scores are from the float detector's, without labels.

Errors of the raw maps say little: nearly all of their values belong to empty background. Here every box counts by the score
that the float detector gives it, as it does in mAP.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import starmap

import torch
from torch import Tensor

from yoloquant.algorithms.calibrate import to_input
from yoloquant.models.layouts import Candidates
from yoloquant.models.losses.overlap import generalized_iou
from yoloquant.processes import sum_over_processes
from yoloquant.quant.module import passing
from yoloquant.quant.network import QuantizedDetector

# Boxes that the float detector gives less are never among the detections of an image.
LEAST_SCORE = 0.01
_SMALLEST = 1e-6


def detection_error(expected: Candidates, found: Candidates, share: bool = False) -> tuple[Tensor, Tensor]:
    """Error of boxes and error of scores, each an average over objects.

    Args:
        expected: of the float detector.
        found: of the quantized detector, for the same images.
        share: the images are this process's share of a batch; the errors of all processes add up to those of the batch.

    Returns:
        Box error, 1 - GIoU averaged with the float scores as weights, 0..2 (Rezatofighi et al. 2019); score error, the sum of all
        scores' Kullback-Leibler divergences, in nats, over the sum of the weights.
    """
    weights, boxes = _weighted_box_errors(expected, found)
    total = (sum_over_processes(weights.sum()) if share else weights.sum()).clamp(min=_SMALLEST)
    return boxes.sum() / total, _divergences(expected.scores, found.scores).sum() / total


def ranking_error(expected: Sequence[Candidates], found: Sequence[Candidates]) -> float:
    """What orders networks as mAP does: each box's error and its scores' divergence, both weighted by its float score.

    `detection_error` counts all divergences alike, as learning needs it: scores of the background must not rise. Tens of
    thousands of boxes that no detection comes from then outweigh those that mAP counts; and images with few objects, whose sum
    of weights is small, outweigh the others, where averages of images are averaged. Here sums are over all images first.
    """
    sums = list(starmap(ranking_sums, zip(expected, found, strict=True)))
    error, weight = torch.stack(sums).sum(0).tolist()
    return error / max(weight, _SMALLEST)


def ranking_sums(expected: Candidates, found: Candidates) -> Tensor:
    """Of one batch for `ranking_error`: the sum of weighted errors and the sum of weights, `(2,)`."""
    weights, boxes = _weighted_box_errors(expected, found)
    divergence = weights * _divergences(expected.scores, found.scores).sum(-1)
    return torch.stack([boxes.sum() + divergence.sum(), weights.sum()])


def _weighted_box_errors(expected: Candidates, found: Candidates) -> tuple[Tensor, Tensor]:
    """Each box's float score, and its 1 - GIoU times that, of boxes above the least score alone."""
    weights = expected.scores.amax(-1)
    kept = weights > LEAST_SCORE
    overlap = generalized_iou(expected.boxes[kept], found.boxes[kept])
    return weights, (1.0 - overlap) * weights[kept]


def _divergences(expected: Tensor, found: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each score, nats."""
    p, q = (scores.clamp(_SMALLEST, 1.0 - _SMALLEST) for scores in (expected, found))
    return p * (p.log() - q.log()) + (1.0 - p) * ((1.0 - p).log() - (1.0 - q).log())


class DetectionCost:
    """What a detector's quantizers, in whatever state they are at that moment, cost on a few images."""

    def __init__(self, detector: QuantizedDetector, images: Tensor) -> None:
        """Keep what the detector answers with all quantizers passing.

        Args:
            detector: calibrated; its quantizers, or modules in their place, may change between measurements.
            images: uint8 `(N, 3, H, W)`, RGB.
        """
        # One image at a time: its maps stay in the processor's cache, and the allocator need not ask for fresh pages.
        self._detector, self._batches = detector, [to_input(image[None]) for image in images]
        with passing([quantizer for _, quantizer in detector.quantizers()]):
            self._expected = self._candidates(range(len(self._batches)))

    def __call__(self, images: Sequence[int] | None = None) -> float:
        """The error that ranks, on some of the images, by their numbers, or on all."""
        numbers = range(len(self._batches)) if images is None else images
        return ranking_error([self._expected[number] for number in numbers], self._candidates(numbers))

    def _candidates(self, numbers: Sequence[int]) -> list[Candidates]:
        with torch.inference_mode():
            return [self._detector.head.candidates(list(self._detector.network(self._batches[number]))) for number in numbers]
