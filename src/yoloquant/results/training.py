"""What `train` leaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yoloquant.models.detector import Detector


@dataclass(frozen=True)
class TrainingResult:
    """What `train` did.

    Attributes:
        detector: the best one.
        map50_95: it scored on the val split, percent.
        epoch: that was best, from 0.
        epochs: that ran.
        path: of its file; none in processes that do not write.
    """

    detector: Detector
    map50_95: float
    epoch: int
    epochs: int
    path: Path | None
