"""The flow behind `yoloquant deliver`: from a quantized folder to the file that a runtime takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from yoloquant.data.sample import readable_sample, source_images
from yoloquant.errors import ExportError
from yoloquant.evaluation.parity import Reference
from yoloquant.exporting.folder import load_quantized
from yoloquant.exporting.formats.format import Format
from yoloquant.exporting.formats.registry import get_format
from yoloquant.files.outputs import put_in_place, refuse_inputs, reserved, working_folder
from yoloquant.files.writing import checked_file, checked_replaceable_folder, replaced_whole
from yoloquant.flows.measure import PARITY_IMAGES, drawn_images, parity_images
from yoloquant.flows.write_formats import write_and_prove
from yoloquant.models.branches import check_branch
from yoloquant.progress import Reporter, Silent
from yoloquant.quant.quantized_detector import QuantizedDetector
from yoloquant.recipe.recipe import recipe_of
from yoloquant.results.delivered import Delivered


def deliver(
    folder: str | Path,
    format: str,
    output: str | Path | None = None,
    *,
    images: str | Path | None = None,
    branch: str | None = None,
    reporter: Reporter | None = None,
) -> Delivered:
    """Write a quantized folder as the file that a runtime takes, and hold the file against torch in that runtime.

    Args:
        folder: Folder that `quantize` wrote.
        format: Name of the format, a key of `yoloquant.exporting.formats.registry.FORMATS`.
        output: File or, for formats of several files, folder to write; by default the folder's name with the format's ending,
            beside the folder.
        images: Data set, list or folder of real images to compare on; drawn ones by default.
        branch: `one-to-one` or `one-to-many`, which the folder must have.
        reporter: Reporter of progress.

    Raises:
        YoloquantError: Something given cannot be used, a package is missing, or the file does not compute what torch does; then
            nothing is written.
    """
    tell, kind, source = reporter or Silent(), get_format(format), Path(folder)
    place = source.absolute().with_name(f"{source.absolute().name}{kind.ending}") if output is None else Path(output)
    checked = checked_place(kind, place)
    refuse_inputs([checked], [folder, images])
    if not source.is_dir():
        raise ExportError(f"{folder} is no folder: name one that `yoloquant quantize` wrote")
    kind.check_installed()
    target = recipe_of(source).target
    kind.check_target(target)
    detector = load_quantized(source)
    check_branch(detector.head.branch, branch)
    reference = Reference.of(detector, _images(detector, images))
    with reserved(checked):
        if not kind.files:
            with replaced_whole(checked) as partial:
                done = write_and_prove(kind, detector, target, partial, reference, tell)
        else:
            with working_folder(checked) as scratch:
                made = scratch / checked.name
                made.mkdir()
                done = write_and_prove(kind, detector, target, made, reference, tell)
                left = put_in_place(made, checked)
            if left is not None:
                tell.note(left)
    return Delivered(format=done.format, path=place, size=done.size, parity=done.parity, executed=done.executed)


def checked_place(kind: Format, place: Path) -> Path:
    """The absolute path to write a format to.

    Raises:
        YoloquantError: The format cannot be written there, or what is there is not an earlier file of it.
    """
    if kind.files:
        return checked_replaceable_folder(place, kind.files[0], kind.files, "an earlier output to replace")
    if place.suffix != kind.ending:
        raise ExportError(f"{place}: names of {kind.name} files end in {kind.ending}")
    return checked_file(place)


def _images(detector: QuantizedDetector, source: str | Path | None) -> np.ndarray:
    """Images to compare on, `(N, 3, H, W)` float32, 0..1."""
    if source is not None:
        entries, _ = readable_sample(source_images(source).images, PARITY_IMAGES, seed=0)
        return parity_images(detector, entries)
    return drawn_images(detector.input_size)
