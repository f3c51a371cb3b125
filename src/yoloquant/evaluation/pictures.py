"""Pictures as files: their names, what they must not replace, and how they are written."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from yoloquant.data.dataset import ImageEntry
from yoloquant.errors import DataError, YoloquantError
from yoloquant.files.outputs import refuse_images, refuse_inputs, storage_errors_told
from yoloquant.files.writing import checked_folder, replaced_whole


def save_picture(path: Path, image: np.ndarray) -> None:
    """Write an RGB picture.

    Raises:
        DataError: It cannot be written there.
    """
    with storage_errors_told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    written, data = cv2.imencode(path.suffix, image[..., ::-1])
    if not written:
        raise DataError(f"the picture {path} cannot be encoded: choose another format")
    with replaced_whole(path) as partial:
        partial.write_bytes(data.tobytes())


def picture_names(paths: Sequence[Path], suffixes: Sequence[str] = (".jpg",)) -> dict[Path, Path]:
    """What is read -> name of what is drawn: its own with another suffix, in the folders below the one that holds all.

    Args:
        paths: Paths of images and videos.
        suffixes: Suffixes of what is drawn: one for each path, or one for all.
    """
    # Without `..`, which would lead out of the folder of pictures; `Path.resolve` would follow links, too, and rename pictures.
    whole = {path: Path(os.path.abspath(path)) for path in paths}  # noqa: PTH100
    top = os.path.commonpath([path.parent for path in whole.values()]) if whole else ""
    owns = {path: absolute.relative_to(top) for path, absolute in whole.items()}
    wanted = dict(zip(paths, suffixes if len(suffixes) == len(paths) else [suffixes[0]] * len(paths), strict=True))
    names: dict[Path, Path] = {}
    taken = {parent for own in owns.values() for parent in own.parents}
    for path, own in owns.items():
        name = own.with_suffix(wanted[path])
        # a.png and a.jpg of one folder, and a file beside a folder that is called as its picture would be.
        while name in taken:
            own = own.with_name(f"{own.name}{wanted[path]}")
            name = own
        taken.add(name)
        names[path] = name
    return names


def check_drawn(entries: Sequence[ImageEntry], written: Iterable[Path], output: Path, models: Sequence[Path | None] = ()) -> None:
    """Make sure that files can be written below a folder, and that they replace nothing which is read.

    Args:
        entries: Images that are read.
        written: Files to write.
        output: The folder.
        models: Other files and folders that are read.

    Raises:
        YoloquantError: The folder cannot be made, or a file would replace an image or a model, or stand beside an image.
    """
    checked_folder(output)
    files = list(written)
    read = {os.path.realpath(entry.path.parent) for entry in entries}
    if any(os.path.realpath(file.parent) in read for file in files):
        raise YoloquantError(f"the pictures in {output} would stand among the images that are read: name another output")
    refuse_images(files, entries)
    refuse_inputs([file for file in files if file.exists()], models)
