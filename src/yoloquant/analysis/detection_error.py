"""How far a quantized detector's boxes and scores are from the float detector's, without labels.

Errors of the raw maps say little: nearly all of their values belong to empty background. Here every box counts by the score
that the float detector gives it, as it does in mAP.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import starmap

import torch
from torch import Tensor
from torch.fx import GraphModule

from yoloquant.data.images import to_input
from yoloquant.distributed import sum_over_processes
from yoloquant.models.losses.overlap import generalized_iou
from yoloquant.models.output_formats import Candidates
from yoloquant.quant.fake_quantize import passing
from yoloquant.quant.quantized_detector import QuantizedDetector

# Boxes that the float detector gives less are never among the detections of an image.
LEAST_SCORE = 0.01
# What the scores of any other box count at least, so that the background's do not rise unseen. Tens of thousands of boxes that no
# detection comes from would outweigh those that mAP counts if they counted alike.
LEAST_WEIGHT = 0.05
_SMALLEST = 1e-6


def detection_error(expected: Candidates, found: Candidates, *, share: bool = False) -> tuple[Tensor, Tensor]:
    """Error of boxes and error of scores, each an average over objects.

    Args:
        expected: Candidates of the float detector.
        found: Candidates of the quantized detector for the same images.
        share: Whether the images are this process's share of a batch; the errors of all processes add up to those of the batch.

    Returns:
        Box error, 1 - GIoU, 0..2 (Rezatofighi et al. 2019), and score error, the sum of the Kullback-Leibler divergences of a
        box's scores, in nats; both averaged with each box's best float score as its weight.
    """
    boxes, scores, weight = detection_sums(expected, found)
    total = (sum_over_processes(weight) if share else weight).clamp(min=_SMALLEST)
    return boxes / total, scores / total


def total_error(expected: Sequence[Candidates], found: Sequence[Candidates]) -> float:
    """Box and score error together over batches of images: what orders networks as mAP does.

    Sums are over all images first: where errors of images are averaged, those with hardly an object outweigh the others.
    """
    return _total(starmap(detection_sums, zip(expected, found, strict=True)))


def _total(sums: Iterable[Tensor]) -> float:
    boxes, scores, weight = torch.stack(list(sums)).sum(0).tolist()
    error: float = (boxes + scores) / max(weight, _SMALLEST)
    return error


def detection_sums(expected: Candidates, found: Candidates) -> Tensor:
    """Of one batch: the weighted sums of box errors and of score errors, and the sum of weights, `(3,)`."""
    weights = expected.scores.amax(-1)
    kept = weights > LEAST_SCORE
    overlap = generalized_iou(expected.boxes[kept], found.boxes[kept])
    boxes = (1.0 - overlap) * weights[kept]
    p, q = (scores.clamp(_SMALLEST, 1.0 - _SMALLEST) for scores in (expected.scores, found.scores))
    divergence = (p * (p.log() - q.log()) + (1.0 - p) * ((1.0 - p).log() - (1.0 - q).log())).sum(-1)
    return torch.stack([boxes.sum(), (weights.clamp(min=LEAST_WEIGHT) * divergence).sum(), weights.sum()])


class DetectionCost:
    """What a detector's quantizers, in whatever state they are at that moment, cost on a few images."""

    def __init__(self, detector: QuantizedDetector, images: Tensor, reference: GraphModule | None = None) -> None:
        """Keep the float network's output.

        Args:
            detector: Calibrated detector; its quantizers, or modules in their place, may change between measurements.
            images: Images, uint8 `(N, 3, H, W)`, RGB.
            reference: The float network, captured; without it the detector with all quantizers passing, which is the same as long
                as nothing was learned.
        """
        self._detector, self._images = detector, images
        everything = range(len(images))
        if reference is not None:
            self._expected = list(self._candidates(reference, everything))
            return
        with passing([quantizer for _, quantizer in detector.quantizers()]):
            self._expected = list(self._candidates(detector.network, everything))

    def __call__(self, images: Sequence[int] | None = None) -> float:
        """Box and score error together, on some of the images, by their numbers, or on all."""
        numbers = range(len(self._images)) if images is None else images
        found = self._candidates(self._detector.network, numbers)
        return _total(detection_sums(self._expected[number], each) for number, each in zip(numbers, found, strict=True))

    def _candidates(self, network: GraphModule, numbers: Sequence[int]) -> Iterator[Candidates]:
        # One image at a time: its maps stay in the processor's cache, and the allocator need not ask for fresh pages.
        for number in numbers:
            with torch.inference_mode():
                found = self._detector.head.candidates(list(network(to_input(self._images[number][None]))))
            yield found
