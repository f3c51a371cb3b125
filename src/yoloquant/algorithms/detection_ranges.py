"""Activation ranges by the error of boxes and scores, not by the error of the tensor.

What a tensor's error costs depends on what is done with it: large negative logits of the last layers may saturate without any box
changing, while the same error elsewhere moves boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field
from torch import Tensor
from torch.fx import GraphModule

from yoloquant.algorithms.step import Step, step
from yoloquant.analysis.detection_error import DetectionCost
from yoloquant.progress import Progress
from yoloquant.quant.fake_quantize import FakeQuantize
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.spec import Count

if TYPE_CHECKING:
    from yoloquant.algorithms.job import Job

# Power-of-two scales can only be halved or doubled.
_POWER_OF_TWO = (0.5, 2.0)


def choose_ranges_by_detections(
    detector: QuantizedDetector,
    images: Tensor,
    factors: Sequence[float] = (0.7, 0.85, 1.2, 1.4),
    progress: Progress | None = None,
    reference: GraphModule | None = None,
) -> dict[str, float]:
    """Scale each activation's range by the factor of minimum detection error, one after the other in the graph's order, in place.

    Every candidate is measured in the whole quantized detector, beside what was chosen before; zero stays where it is.

    Args:
        detector: Calibrated detector.
        images: Images, uint8 `(N, 3, H, W)`, RGB.
        factors: Factors to try besides 1; power-of-two scales are halved and doubled instead.
        progress: Callback, called with (quantizers done, all).
        reference: The float network, captured; needed where weights were learned before.

    Returns:
        Quantizer name -> factor, of those that changed.
    """
    error = DetectionCost(detector, images, reference)
    least = error()
    changed: dict[str, float] = {}
    activations = [(name, quantizer) for name, quantizer in detector.quantizers() if not quantizer.of_weight]
    for number, (name, quantizer) in enumerate(activations, start=1):
        factor, least = _best_factor(quantizer, _POWER_OF_TWO if quantizer.spec.power_of_two else factors, least, error)
        if factor != 1.0:
            changed[name] = factor
        if progress:
            progress(number, len(activations))
    return changed


def _best_factor(
    quantizer: FakeQuantize, factors: Sequence[float], least: float, error: Callable[[], float]
) -> tuple[float, float]:
    """The factor of minimum error, and that error; the quantizer is left with it."""
    scale, zero_point = quantizer.scale.clone(), quantizer.zero_point.clone()
    best = 1.0
    for factor in factors:
        quantizer.set_parameters(scale * factor, zero_point)
        found = error()
        if found < least:
            best, least = factor, found
    quantizer.set_parameters(scale * best, zero_point)
    return best, least


@step
class DetectionRanges(Step):
    """Scale each activation's range for a minimum change of boxes and scores; powers of two are halved or doubled.

    Attributes:
        factors: Factors to try on each range besides 1.
        images: Number of calibration images that the error is measured on.
    """

    name: Literal["detection_ranges"] = "detection_ranges"
    factors: tuple[Annotated[float, Field(gt=0.0)], ...] = (0.7, 0.85, 1.2, 1.4)
    images: Count = 8

    def compares_boxes(self) -> bool:
        """Always."""
        return True

    def apply(self, job: Job) -> None:
        """Choose the range of every quantized activation."""
        images = job.spread_images(self.images)
        with job.reporter.step("Choose ranges by detections") as update:
            changed = choose_ranges_by_detections(job.quantized, images, self.factors, update, job.reference)
        job.reporter.note(f"{len(changed)} activation ranges changed")
