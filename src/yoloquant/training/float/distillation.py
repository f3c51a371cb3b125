"""A detector as the teacher of another one: boxes and scores are compared, each box weighted by the teacher's score."""

from __future__ import annotations

import torch
from torch import Tensor

from yoloquant.analysis.detection_error import detection_error
from yoloquant.distributed import process_count
from yoloquant.models.detector import Detector


class Teacher:
    """Distillation loss between a student's and the teacher's maps."""

    def __init__(self, detector: Detector, device: str, gain: float = 1.0) -> None:
        """Move the teacher to its place.

        Args:
            detector: Detector of the student's head and classes; stays as it is.
            device: Device that trains.
            gain: Weight of the cost of an image.
        """
        self._network = detector.network.eval().requires_grad_(requires_grad=False).to(device)
        self._head, self._gain = detector.head, gain

    def __call__(self, images: Tensor, raw_maps: list[Tensor]) -> Tensor:
        """Cost of a batch, this process's share.

        Args:
            images: `(N, 3, H, W)`, 0..1.
            raw_maps: Raw head maps of the student; those that only training reads stand last.
        """
        with torch.no_grad():
            wanted = list(self._network(images))
            expected = self._head.candidates(wanted)
        boxes, scores = detection_error(expected, self._head.candidates(raw_maps[: len(wanted)]), share=True)
        return (boxes + scores) * self._gain * len(images) * process_count()
