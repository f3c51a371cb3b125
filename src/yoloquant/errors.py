"""The one exception that is meant for users, and what its sentences are made of.

Everything a user can cause (a bad file, an unknown option, an empty data set) raises `YoloquantError`, whose message is one
clear sentence that says what is wrong and what to do. The command line prints that sentence and exits with code 2; any
other exception is a defect of this project and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class YoloquantError(Exception):
    """Something the user gave cannot be used; the message says what and what to do about it."""


class CheckpointError(YoloquantError):
    """A model file cannot be read, or is refused because it names something that is not on the allow-list."""


class DataError(YoloquantError):
    """A data set, an image list or an annotation file cannot be used."""


class RecipeError(YoloquantError):
    """A recipe or an override of it is not valid."""


class ExportError(YoloquantError):
    """A network cannot be written to the asked format, or the written file does not compute what the network computes."""


def nearest(name: str, known: Iterable[str], likeness: float = 0.4) -> str | None:
    """The known name that is most like a mistyped one, if any is as like as `likeness`, 0..1."""
    return next(iter(difflib.get_close_matches(name, list(known), 1, likeness)), None)


def first_line(error: BaseException) -> str:
    """What an error of another library says, in its first line; its class's name where it says nothing."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
