"""What each layer's quantization costs: one at a time, all but one, or block by block; weights and activations apart."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from yoloquant.analysis.sensitive_layers import layer_quantizers
from yoloquant.distributed import gathered, process_count, process_number
from yoloquant.files.outputs import storage_errors_told
from yoloquant.graph.capture import block_name
from yoloquant.quant.fake_quantize import FakeQuantize, passing
from yoloquant.quant.quantized_detector import QuantizedDetector

Mode = Literal["one", "all-but-one", "block"]
Part = Literal["both", "weights", "activations"]
# A quantized detector, in whatever state its quantizers are -> its cost: a detection error, or mAP lost.
Measure = Callable[[QuantizedDetector], float]


@dataclass(frozen=True)
class Sensitivity:
    """What one unit costs.

    Attributes:
        name: Name of a layer, or of a block.
        mode: "one": only it is quantized; "all-but-one": all but it are; "block": only this top-level module is.
        part: Quantizers that were switched: "weights", "activations" or "both".
        cost: Cost by the measure; for "all-but-one" the gain from leaving it in float.
    """

    name: str
    mode: Mode
    part: Part
    cost: float


class Record:
    """Measurements in a file of one JSON object a line, so that a killed run goes on without repeating any.

    Several processes may add to one file: a line is written at once.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        """Read what an earlier run with the same key measured; without a path nothing is kept."""
        self._path, self._key = path, key
        self._known: dict[tuple[str, str, str], float] = {}
        self._is_cut = path is not None and path.is_file() and not path.read_bytes().endswith(b"\n") and path.stat().st_size > 0
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path is not None and path.is_file() else []
        for line in lines:
            entry = _parsed(line)
            if entry is not None and entry[0] == key:
                self._known[entry[1:4]] = entry[4]

    def get(self, name: str, mode: str, part: str) -> float | None:
        """A cost that was measured before."""
        return self._known.get((name, mode, part))

    def add(self, result: Sensitivity) -> None:
        """Keep a measurement.

        Raises:
            YoloquantError: The disk is full.
        """
        self._known[result.name, result.mode, result.part] = result.cost
        if self._path is not None:
            # After a line that a kill cut off, this one begins anew; empty lines are passed over.
            line = "\n" * self._is_cut + json.dumps({"key": self._key, **asdict(result)}) + "\n"
            self._is_cut = False
            with storage_errors_told(self._path), self._path.open("a", encoding="utf-8") as file:
                file.write(line)


def _parsed(line: str) -> tuple[str, str, str, str, float] | None:
    """Key, name, mode, part and cost of a line; none for another line, as the last of a run that was killed while it wrote."""
    try:
        entry = json.loads(line)
        key, name, mode, part = (str(entry[field]) for field in ("key", "name", "mode", "part"))
        return key, name, mode, part, float(entry["cost"])
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        return None


def sensitivities(
    detector: QuantizedDetector,
    measure: Measure,
    mode: Mode = "one",
    parts: Sequence[Part] = ("both",),
    record: Record | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sensitivity]:
    """Measure every unit; several processes share them.

    Args:
        detector: Calibrated detector.
        measure: Function that returns the detector's cost at that moment.
        mode: Set of quantizers that are on; see `Sensitivity`.
        parts: Parts of each unit, measured one after the other.
        record: Record of earlier measurements; new ones are added.
        progress: Callback, called with (measurements done, all).

    Returns:
        The costliest first.
    """
    record = record or Record(None, "")
    units = block_quantizers(detector) if mode == "block" else layer_quantizers(detector)
    everything = [quantizer for _, quantizer in detector.quantizers()]
    wanted = [(name, part) for name in units for part in parts if select(units[name], part)]
    whole: float | None = None
    own_share = wanted[process_number() :: process_count()]
    found = []
    for number, (name, part) in enumerate(own_share, start=1):
        cost = record.get(name, mode, part)
        if cost is None:
            own = select(units[name], part)
            if mode == "all-but-one":
                whole = measure(detector) if whole is None else whole
                with passing(own):
                    cost = whole - measure(detector)
            else:
                with passing([quantizer for quantizer in everything if quantizer not in own]):
                    cost = measure(detector)
            record.add(Sensitivity(name, mode, part, cost))
        found.append(Sensitivity(name, mode, part, cost))
        if progress:
            progress(number, len(own_share))
    return sorted(gathered(found), key=lambda result: -result.cost)


def select(quantizers: Sequence[FakeQuantize], part: Part) -> list[FakeQuantize]:
    """Those of weights, those of activations, or all."""
    if part == "both":
        return list(quantizers)
    return [quantizer for quantizer in quantizers if quantizer.of_weight == (part == "weights")]


def block_quantizers(detector: QuantizedDetector) -> dict[str, list[FakeQuantize]]:
    """Top-level module (`model.4`) -> all quantizers named after it."""
    blocks: dict[str, list[FakeQuantize]] = {}
    for name, quantizer in detector.quantizers():
        blocks.setdefault(block_name(name), []).append(quantizer)
    return blocks


def ranked_layers(results: Sequence[Sensitivity], part: Part = "both") -> Iterator[str]:
    """Names in the order of their cost."""
    return (result.name for result in sorted(results, key=lambda result: -result.cost) if result.part == part)
