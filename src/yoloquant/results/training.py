"""`Training`: the best detector of a float training."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yoloquant.checkpoint.read import read_detector
from yoloquant.errors import CheckpointError
from yoloquant.files.reading import parsed
from yoloquant.models.detector import Detector
from yoloquant.table import TextTable
from yoloquant.training.float.log import LOG_NAME

# The best detector in the folder of a run.
BEST = "best.safetensors"


@dataclass(frozen=True, kw_only=True)
class Training:
    """What `train` did.

    Attributes:
        detector: Best detector of the run.
        map50_95: mAP50-95 on the val split, percent.
        epoch: Epoch that was best, from 0.
        epochs: Number of epochs that ran.
        path: Path of its file; None in processes that do not write.
    """

    detector: Detector
    map50_95: float
    epoch: int
    epochs: int
    path: Path | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "family": self.detector.family,
            "classes": list(self.detector.names),
            "map50_95": round(self.map50_95, 4),
            "epoch": self.epoch,
            "epochs": self.epochs,
            "file": self.path.name if self.path else None,
        }

    @classmethod
    def load(cls, folder: str | Path) -> Training:
        """Read the best detector of a run, and how far the run has come.

        Args:
            folder: Folder that `yoloquant train` wrote.

        Raises:
            CheckpointError: It holds no run, or a file of it is damaged.
        """
        best, log = Path(folder) / BEST, Path(folder) / LOG_NAME
        detector = read_detector(best)
        with parsed(log, CheckpointError, "train again"):
            with log.open(newline="", encoding="utf-8") as file:
                epochs = max(int(row["epoch"]) for row in csv.DictReader(file)) + 1
            facts = detector.source
            return cls(detector=detector, map50_95=float(facts["mAP50-95"]), epoch=int(facts["epoch"]), epochs=epochs, path=best)

    def table(self) -> TextTable:
        """The figures of the best epoch."""
        cells = (self.detector.family, f"{self.epoch + 1}", f"{self.epochs}", f"{self.map50_95:.2f}")
        return TextTable(("family", "best epoch", "epochs", "mAP50-95"), (cells,))

    def __str__(self) -> str:
        return str(self.table())
