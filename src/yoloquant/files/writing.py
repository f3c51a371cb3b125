"""Files and folders that a command writes: checked before anything long begins, written whole or not at all; tables as CSV."""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from yoloquant.errors import YoloquantError
from yoloquant.files.outputs import PREFIX, beside, followed, storage_errors_told

# What begins a formula in spreadsheets.
_FORMULAS = ("=", "+", "-", "@", "\t", "\r")


def checked_file(path: str | Path) -> Path:
    """The absolute path of a file to write; of a symbolic link, what it leads to.

    Raises:
        YoloquantError: Something else than a file is there, or the folder to write it into is missing or may not be written to.
    """
    place = followed(path)
    if place.is_dir():
        raise YoloquantError(f"the output {path} is a folder: name a file")
    if place.exists() and not place.is_file():
        raise YoloquantError(f"the output {path} is a device or a pipe, and not a file: name a file")
    folder = place.parent if Path(path).is_symlink() else Path(path).parent
    if not folder.is_dir():
        raise YoloquantError(f"the output {path} cannot be written: there is no folder {folder}; make it, or name another")
    if not os.access(folder, os.W_OK):
        raise YoloquantError(f"the output {path} cannot be written: the folder {folder} is write-protected; name another")
    return place


def checked_folder(path: str | Path) -> Path:
    """The absolute path of a folder to write, which need not exist yet, nor those that it is in; what a symbolic link leads to.

    Raises:
        YoloquantError: Something else than a folder is there, or the folder cannot be made.
    """
    folder = followed(path)
    if folder.exists() and not folder.is_dir():
        raise YoloquantError(f"the output {folder} is a file: name a folder")
    nearest = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not nearest.is_dir() or not os.access(nearest, os.W_OK):
        reason = "is write-protected" if nearest.is_dir() else "is a file"
        raise YoloquantError(f"the output folder {folder} cannot be made: {nearest} {reason}; name another")
    return folder


def checked_own_folder(path: str | Path, mark: str, earlier: str) -> Path:
    """The same for a folder that must be empty or hold the file `mark`, as an earlier run left it.

    Raises:
        YoloquantError: The folder cannot be made, or holds other files; the message offers what `earlier` says, too.
    """
    folder = checked_folder(path)
    if _entries(folder) and not (folder / mark).is_file():
        raise YoloquantError(f"the output folder {folder} holds other files: name a new folder, or {earlier}")
    return folder


def checked_replaceable_folder(path: str | Path, mark: str, own: Collection[str], earlier: str) -> Path:
    """The same for a folder that is replaced whole, so that it must hold nothing but `own` files and can be renamed.

    Raises:
        YoloquantError: It is not so.
    """
    folder = checked_own_folder(path, mark, earlier)
    if os.path.ismount(folder):
        raise YoloquantError(f"the output folder {folder} is a mount point, which cannot be replaced: name a folder in it")
    others = sorted(_entries(folder) - set(own))
    if others:
        raise YoloquantError(
            f"the output folder {folder} holds {others[0]}, which yoloquant did not write and would delete: move it away, or "
            "name another folder"
        )
    return folder


def _entries(folder: Path) -> set[str]:
    """Names in a folder, without what a killed run left unfinished; none where there is no folder."""
    return {entry.name for entry in folder.iterdir() if not entry.name.startswith(PREFIX)} if folder.is_dir() else set()


@contextmanager
def replaced_whole(path: Path) -> Iterator[Path]:
    """A file beside `path` to write, which takes its place when all went well and is removed otherwise.

    Raises:
        YoloquantError: There can be no such file, or the disk is full; what was there before is as it was.
    """
    place = checked_file(path)
    partial = beside(place, "part")
    with storage_errors_told(path):
        try:
            # A new file's mode follows the user's umask, which some writers do not ask.
            partial.unlink(missing_ok=True)
            partial.touch()
            mode = partial.stat().st_mode & 0o777
            yield partial
            partial.chmod(mode)
            partial.replace(place)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all.

    Raises:
        YoloquantError: As `replaced_whole`.
    """
    with replaced_whole(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Dictionaries with the same keys as CSV; lists in a cell are joined by x, and text is no formula to spreadsheets.

    Raises:
        YoloquantError: As `replaced_whole`.
    """
    with replaced_whole(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _cell(value) for key, value in row.items()})


def _cell(value: Any) -> Any:
    """A value as a cell; text that a spreadsheet would compute is quoted."""
    text = "x".join(map(str, value)) if isinstance(value, list) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(_FORMULAS) else text


def named_path(path: str | Path) -> str:
    """A path as files that leave the machine may name it: relative to the current folder, or the name alone of one elsewhere."""
    place = Path(path)
    if not place.is_absolute():
        return str(path)
    here = Path.cwd()
    return str(place.relative_to(here)) if place.is_relative_to(here) else place.name
