"""Whatever a user names as a float detector -> `Detector`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.from_module import detector_from_live
from yoloquant.checkpoint.read import read_detector
from yoloquant.errors import CheckpointError
from yoloquant.models.branches import choose_branch
from yoloquant.models.detector import Detector, Origin, at_size
from yoloquant.models.preprocessing import Preprocessing


def to_detector(
    model: str | Path | Detector | Any,
    *,
    preprocessing: Preprocessing | None = None,
    branch: str | None = None,
    input_size: int | tuple[int, int] | None = None,
) -> Detector:
    """The float detector in a file, in an object of an original repository, or as it is.

    Args:
        model: Checkpoint or ONNX file, a `Detector`, or an object such as `ultralytics.YOLO("x.pt")`.
        preprocessing: How an ONNX file wants its images; by default as its exporter is known for.
        branch: `one-to-one` or `one-to-many`, where a network holds both; see `yoloquant.models.branches`.
        input_size: `(height, width)` or one side, pixels; by default the detector's own.

    Raises:
        YoloquantError: It is no float detector, cannot be read, or does not hold the branch or take the size.
    """
    detector = choose_branch(_read(model, preprocessing), branch)
    sides = (input_size, input_size) if isinstance(input_size, int) else input_size
    if sides is not None:
        detector = at_size(detector, sides)
    if detector.origin is None:
        return detector
    words = {
        "image-size": str(max(sides)) if sides else None,
        "images": preprocessing.words() if preprocessing else None,
        "branch": branch,
    }
    chosen = {**detector.origin.options, **{option: value for option, value in words.items() if value is not None}}
    return replace(detector, origin=Origin(detector.origin.file, chosen))


def _read(model: Any, preprocessing: Preprocessing | None) -> Detector:
    if isinstance(model, Detector):
        return model
    if hasattr(model, "placement"):
        raise CheckpointError("this detector is already quantized: give the float detector that it was made from")
    if isinstance(model, str | Path):
        return replace(read_detector(model, preprocessing), origin=Origin(Path(model)))
    return detector_from_live(model)


def file_of_model(model: Any) -> str | Path | None:
    """The file that a detector is read from, or was; none of objects made in memory."""
    if isinstance(model, Detector):
        return model.origin.file if model.origin else None
    return model if isinstance(model, str | Path) else None
