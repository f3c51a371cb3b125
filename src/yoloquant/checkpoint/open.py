"""Whatever a user names as a float detector -> `Detector`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from yoloquant.checkpoint.from_module import detector_from_live
from yoloquant.checkpoint.read import read_detector
from yoloquant.models.branches import choose_branch
from yoloquant.models.detector import Detector
from yoloquant.models.preprocessing import Preprocessing


def to_detector(model: Any, preprocessing: Preprocessing | None = None, branch: str | None = None) -> Detector:
    """The detector in a file, in an object of an original repository, or as it is; with the branch that is asked for."""
    if isinstance(model, Detector):
        return choose_branch(model, branch)
    detector = read_detector(model, preprocessing) if isinstance(model, str | Path) else detector_from_live(model)
    return choose_branch(detector, branch)
