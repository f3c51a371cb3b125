"""`Source`: the files that images and boxes are read from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Source:
    """Where images to calibrate on and to evaluate on come from.

    Attributes:
        data: `data.yaml` or COCO JSON; its train split calibrates, its val split evaluates.
        calibration: Images to calibrate on instead of the train split: a list, a folder or a data set.
        annotations: COCO JSON with the ground truth of the val split, instead of label files.
    """

    data: str | Path | None = None
    calibration: str | Path | None = None
    annotations: str | Path | None = None

    @classmethod
    def of(cls, given: str | Path | Source | None) -> Source:
        """A source as it is, or the one of a data set alone."""
        return given if isinstance(given, Source) else cls(given)

    @property
    def files(self) -> tuple[str | Path | None, ...]:
        """All that is read."""
        return (self.data, self.calibration, self.annotations)
