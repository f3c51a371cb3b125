"""The log of a run: `results.csv`, a table on the screen, and TensorBoard where it is asked for."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError
from yoloquant.files.writing import replaced_whole
from yoloquant.progress import Reporter
from yoloquant.training.float.protocols import EpochResult

LOG_NAME = "results.csv"


class RunLog:
    """One row for each epoch; a run that is resumed goes on in the same file."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        """Open the log.

        Args:
            folder: Folder of the run; made if it does not exist.
            tensorboard: Whether TensorBoard's event files are written, too.

        Raises:
            YoloquantError: TensorBoard is asked for and not installed.
        """
        self._path = folder / LOG_NAME
        self._writer = _tensorboard_writer(folder) if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)

    def write(self, row: Mapping[str, float]) -> None:
        """Add an epoch; rows of this and later epochs, which an interruption left, are replaced.

        Args:
            row: `epoch` and the figures; NaN where one was not measured.
        """
        earlier: list[Mapping[str, Any]] = []
        if self._path.is_file():
            with self._path.open(newline="", encoding="utf-8") as file:
                earlier = [old for old in csv.DictReader(file) if int(old["epoch"]) < row["epoch"]]
        rows = [*earlier, row]
        # Written anew each time: a figure that is first measured in a later epoch adds a column.
        columns = list(dict.fromkeys(name for values in (row, *earlier) for name in values))
        with replaced_whole(self._path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        if self._writer is not None:
            for name, value in row.items():
                if name != "epoch":
                    self._writer.add_scalar(name, value, int(row["epoch"]))
            self._writer.flush()


class EpochTable:
    """Report each epoch in columns."""

    def __init__(self, tell: Reporter, epochs: int) -> None:
        """Begin a table for a number of epochs."""
        self._tell, self._epochs = tell, epochs
        self._columns: tuple[str, ...] = ()

    def tell(self, result: EpochResult) -> None:
        """One line: losses, then figures where the epoch was evaluated."""
        values = {**result.losses, **result.figures}
        if tuple(values) != self._columns:
            self._columns = tuple(values)
            self._tell.note(f"{'epoch':>9}" + "".join(f"{name:>10}" for name in values))
        place = f"{result.epoch + 1}/{self._epochs}"
        self._tell.note(f"{place:>9}" + "".join(f"{value:>10.4g}" for value in values.values()))


def _tensorboard_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise YoloquantError("TensorBoard is not installed: `pip install tensorboard`, or leave --tensorboard out") from error
    return SummaryWriter(str(folder))
