"""Files and folders that a command writes: checked before anything long begins, written whole or not at all; tables as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError


def checked_file(path: str | Path) -> Path:
    """The path of a file to write.

    Raises:
        YoloquantError: a folder is there, or the folder to write it into is missing or may not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise YoloquantError(f"the output {path} is a folder: name a file")
    if not path.parent.is_dir():
        raise YoloquantError(f"the output {path} cannot be written: there is no folder {path.parent}; make it, or name another")
    if not os.access(path.parent, os.W_OK):
        raise YoloquantError(f"the output {path} cannot be written: the folder {path.parent} is write-protected; name another")
    return path


def checked_folder(path: str | Path) -> Path:
    """The absolute path of a folder to write, which need not exist yet, nor those that it is in.

    Raises:
        YoloquantError: a file is there, or the folder cannot be made.
    """
    folder = Path(path).absolute()
    if folder.is_file():
        raise YoloquantError(f"the output {folder} is a file: name a folder")
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "is write-protected" if nearest.is_dir() else "is a file"
        raise YoloquantError(f"the output folder {folder} cannot be made: {nearest} {reason}; name another")
    return folder


def checked_own_folder(path: str | Path, mark: str, earlier: str) -> Path:
    """The same for a folder that must be empty or hold the file `mark`, as an earlier run left it.

    Raises:
        YoloquantError: the folder cannot be made, or holds other files; the message offers what `earlier` says, too.
    """
    folder = checked_folder(path)
    if folder.is_dir() and any(folder.iterdir()) and not (folder / mark).is_file():
        raise YoloquantError(f"the output folder {folder} holds other files: name a new folder, or {earlier}")
    return folder


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when all went well and is removed otherwise.

    Raises:
        YoloquantError: there can be no such file.
    """
    partial = checked_file(path).with_name(f"{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Dictionaries with the same keys as CSV; lists in a cell are joined by x."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: "x".join(map(str, value)) if isinstance(value, list) else value for key, value in row.items()})
