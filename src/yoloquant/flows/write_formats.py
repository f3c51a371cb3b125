"""Files in the formats that runtimes take: written, run there, and held against torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from yoloquant.evaluation.parity import Reference, check_parity, require_parity
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.formats.registry import get_format
from yoloquant.progress import Reporter
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.results.delivered import Delivered
from yoloquant.runtime.executed_layers import executed_where_installed
from yoloquant.runtime.native import NATIVE, executed_native, native_file, open_native


def write_and_prove(
    kind: Format, detector: QuantizedDetector, target: str, path: Path, reference: Reference, tell: Reporter
) -> Delivered:
    """Write a file (or the files of a folder), run it where its runtime is installed, and refuse it if it differs from torch.

    Raises:
        ExportError: The file does not compute what torch does.
    """
    kind.check_network(detector)
    with tell.step(f"Write {kind.name}") as update:
        kind.write(detector, target, path)
        update(1, 1)
    size = sum(entry.stat().st_size for entry in (path.iterdir() if path.is_dir() else [path]))
    done = Delivered(format=kind.name, path=path, size=size)
    file = native_file(path) or path
    known = NATIVE.get(file.suffix)
    if known is not None and not known.is_installed():
        return done
    with tell.step(f"Compare with torch in {kind.runtime}") as update:
        own = reference.check(open_native(file)) if known else check_parity(detector, file, reference.images, [kind.runtime])[0]
        update(1, 1)
    require_parity([own])
    executed = executed_native(file) if known else executed_where_installed(file, target)
    return Delivered(format=kind.name, path=path, size=size, parity=own, executed=executed)


def add_formats(
    folder: Path,
    formats: Sequence[str],
    detector: QuantizedDetector,
    target: str,
    images: Callable[[], np.ndarray],
    tell: Reporter,
) -> list[Delivered]:
    """Write formats into a quantized folder, each under its name in folders.

    Args:
        folder: Folder to write into.
        formats: Names of the formats.
        detector: Calibrated detector.
        target: Target whose rules placed its quantizers.
        images: `(N, 3, H, W)` float32, 0..1, made when they are needed.
        tell: Reporter of progress.

    Raises:
        ExportError: A file does not compute what torch does.
    """
    if not formats:
        return []
    reference = Reference.of(detector, images())
    done = []
    for kind in map(get_format, formats):
        place = folder / kind.in_folder
        if kind.files:
            place.mkdir()
        done.append(write_and_prove(kind, detector, target, place, reference, tell))
    return done


def check_formats(formats: Sequence[str], target: str) -> None:
    """Refuse what cannot be written, before anything long begins.

    Raises:
        ExportError: A format is unknown, not for the target, or needs a package that is missing.
    """
    for kind in map(get_format, formats):
        kind.check_target(target)
        kind.check_installed()
