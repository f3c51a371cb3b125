"""`Comparison`: several quantized folders side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError
from yoloquant.exporting.folder import LARGEST_METRICS, METRICS
from yoloquant.files.reading import parse_json, read_text
from yoloquant.table import TextTable


@dataclass(frozen=True)
class Entry:
    """One model of one folder in one runtime.

    Attributes:
        folder: Name of the folder.
        model: "float", "int8", ...
        runtime: Runtime that ran it.
        target: Deployment target of the model.
        images: Number of evaluated images; None if not known.
        map50_95: mAP50-95, percent; drop: Difference to the float model in the same runtime and folder.
        drop_error: One standard error of the drop; None if not known.
        latency: Median milliseconds; ratio: Ratio to the float model in the same runtime and folder.
        megabytes: Size in MB of the file.
    """

    folder: str
    model: str
    runtime: str
    target: str
    images: int | None
    map50_95: float | None
    drop: float | None
    drop_error: float | None
    latency: float | None
    ratio: float | None
    megabytes: float | None


def read_entries(folders: Sequence[str | Path]) -> list[Entry]:
    """All quantized rows of several folders, behind the float rows of the first folder that has them.

    Raises:
        YoloquantError: A folder has no readable metrics, or they were evaluated on different numbers of images.
    """
    entries = []
    for folder in map(Path, folders):
        try:
            entries += _entries(folder)
        except _Unmeasured as error:
            raise YoloquantError(
                f"{folder} was quantized without measuring: run `yoloquant quantize` without --no-evaluate"
            ) from error
        except Exception as error:
            # Whatever the file holds instead of metrics.
            raise YoloquantError(f"{folder} has no readable {METRICS}: name folders that `yoloquant quantize` wrote") from error
    counts = {entry.images: entry.folder for entry in entries if entry.images is not None}
    if len(counts) > 1:
        told = " and ".join(f"{folder} on {count}" for count, folder in sorted(counts.items()))
        raise YoloquantError(f"their figures are of different images, {told}: evaluate all of them on the same ones")
    # Float is the same network in each folder that was made of it; its name and accuracy say which.
    floats: dict[tuple[str, float | None], Entry] = {}
    for entry in entries:
        if entry.model == "float":
            floats.setdefault((entry.runtime, entry.map50_95), entry)
    return [*floats.values(), *(entry for entry in entries if entry.model != "float")]


class _Unmeasured(Exception):
    """There are no figures."""


def _entries(folder: Path) -> list[Entry]:
    content = parse_json(read_text(folder / METRICS, largest=LARGEST_METRICS), METRICS)
    rows, target = content["rows"], str(content["recipe"].get("target", ""))
    if not rows:
        raise _Unmeasured
    floats = {row["runtime"]: row for row in rows if row["model"] == "float"}
    return [_entry(folder.name, target, row, floats.get(row["runtime"])) for row in rows]


def _entry(folder: str, target: str, row: dict[str, Any], plain: dict[str, Any] | None) -> Entry:
    accuracy, latency = _accuracy(row), _median(row)
    before, float_latency = (_accuracy(plain), _median(plain)) if plain else (None, None)
    return Entry(
        folder,
        row["model"],
        row["runtime"],
        target,
        row["evaluation"].get("image_count") if row.get("evaluation") else None,
        accuracy,
        before - accuracy if before is not None and accuracy is not None else None,
        (row.get("drop") or {}).get("error"),
        latency,
        latency / float_latency if latency and float_latency else None,
        row["file_size"] / 1e6 if row.get("file_size") else None,
    )


def _accuracy(row: dict[str, Any]) -> float | None:
    evaluation = row.get("evaluation")
    return evaluation["figures"]["mAP50-95"] if evaluation else None


def _median(row: dict[str, Any]) -> float | None:
    return row["latency_ms"]["median"] if row.get("latency_ms") else None


HEADERS = ("folder", "model", "target", "runtime", "mAP50-95", "drop", "latency ms", "against float", "file MB")


def cells(entry: Entry) -> tuple[str, ...]:
    """The entry's row of the table."""
    numbers = (entry.map50_95, entry.drop, entry.latency, entry.ratio, entry.megabytes)
    map50_95, drop, *others = ("" if value is None else f"{value:.2f}" for value in numbers)
    error = "" if entry.drop_error is None else f" ± {entry.drop_error:.2f}"
    return (entry.folder, entry.model, entry.target, entry.runtime, map50_95, f"{drop}{error}", *others)


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """What was compared.

    Attributes:
        entries: Each model of each folder in each runtime, float first.
    """

    entries: tuple[Entry, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {"entries": [asdict(entry) for entry in self.entries]}

    def table(self) -> TextTable:
        """A row for each entry."""
        return TextTable(HEADERS, tuple(map(cells, self.entries)))

    def __str__(self) -> str:
        return str(self.table())
