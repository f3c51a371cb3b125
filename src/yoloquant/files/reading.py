"""What users give: files of every format, YAML and `--set`; whatever is wrong with it becomes one sentence.

Every reader of a file works inside of `parsed`: a damaged or hostile file can make a parser raise nearly anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from yoloquant.errors import RecipeError, YoloquantError, first_line

# Bytes of a text file that a user writes, as a recipe or a data.yaml.
LARGEST_TEXT = 4 << 20
# Classes that a data set or a model can have; a larger number is a mistake, and would cost a name each.
MOST_CLASSES = 100_000
_DEEPEST_YAML, _MOST_YAML = 50, 500_000
# The same language in C where it is there; the checks before it follow events one by one and never go deep.
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def is_file(path: Path) -> bool:
    """Whether a file is there that can be opened without waiting: no pipe, no device, and no name that the system refuses."""
    return _told(path.is_file)


def exists(path: Path) -> bool:
    """Whether anything is there; a name that the system refuses, for which `Path.exists` alone raises, leads nowhere."""
    return _told(path.exists)


def _told(question: Callable[[], bool]) -> bool:
    """Result of a test of a name; False for names that the system refuses."""
    try:
        return question()
    except (OSError, ValueError):
        return False


def check_file(path: Path, error: type[YoloquantError] = YoloquantError) -> None:
    """Make sure that a file is there.

    Raises:
        YoloquantError: There is none, or it is a folder, a pipe or a device.
    """
    if is_file(path):
        return
    if _told(path.is_dir):
        raise error(f"{path} is a folder: give a file")
    if exists(path):
        raise error(f"{path} is a pipe or a device, and not a file: copy what it gives into a file first")
    raise error(f"there is no file {path}")


@contextmanager
def parsed(path: Path | str, error: type[YoloquantError], remedy: str = "check that it is the right file") -> Iterator[None]:
    """The boundary between a file and whatever reads it: what goes wrong inside becomes the project's own error.

    Args:
        path: Path of the file, which must be there; or what a message calls something in memory.
        error: Error class to raise.
        remedy: Advice for a damaged file.

    Raises:
        YoloquantError: The file is not there, cannot be read, or is damaged.
    """
    if isinstance(path, Path):
        check_file(path, error)
    try:
        yield
    except YoloquantError:
        raise
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror or cause}") from cause
    except Exception as cause:
        # Among them RecursionError and MemoryError, which a file can ask for.
        raise error(f"{path} is damaged ({type(cause).__name__}): {remedy}") from cause


def read_text(path: Path, error: type[YoloquantError] = YoloquantError, largest: int = LARGEST_TEXT) -> str:
    """The content of a text file in UTF-8, without a byte order mark.

    Args:
        path: Path of the file.
        error: Error class to raise.
        largest: Bytes that such a file may have.

    Raises:
        YoloquantError: The file cannot be read, is too large, or holds something else than text.
    """
    with parsed(path, error):
        size = path.stat().st_size
        if size > largest:
            raise error(f"{path} has {size >> 20} MiB, far more than such a file can hold: check that it is the right file")
        try:
            return path.read_bytes().decode("utf-8-sig")
        except UnicodeDecodeError as cause:
            raise error(f"{path} is not a text file in UTF-8: check that it is the right file") from cause


def parse_json(text: str | bytes, name: str, error: type[YoloquantError] = YoloquantError) -> Any:
    """The value that a JSON text holds.

    Args:
        text: Text to parse.
        name: Name of its source, for the message.
        error: Error class to raise.

    Raises:
        YoloquantError: It is not valid JSON, or nests too deeply.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as cause:
        raise error(f"{name} is not valid JSON: {cause}") from cause
    except (ValueError, RecursionError) as cause:
        # Numbers of thousands of digits, bytes that are no text, thousands of brackets.
        raise error(f"{name} is not valid JSON: it is damaged ({type(cause).__name__})") from cause


def parse_yaml(text: str, name: str, error: type[YoloquantError] = YoloquantError) -> Any:
    """The value that a YAML text holds.

    Args:
        text: Text to parse.
        name: Name of its source, for the message.
        error: Error class to raise.

    Raises:
        YoloquantError: It is not valid YAML.
    """
    try:
        _check_events(text)
        return yaml.load(text, Loader=_LOADER)
    except _TooMuch as cause:
        raise error(f"{name} {cause}: check that it is the right file") from cause
    except Exception as cause:
        # Beside YAML's own errors whatever its tags for dates, numbers and keys raise.
        reason = first_line(cause) if isinstance(cause, yaml.YAMLError) else f"a value cannot be read ({cause})"
        raise error(f"{name} is not valid YAML: {reason}") from cause


class _TooMuch(Exception):
    """A YAML text that becomes far more than it is."""


def _check_events(text: str) -> None:
    """Refuse deep nesting, and aliases of aliases that stand for millions of values, before anything is made of them."""
    sizes: dict[str, int] = {}
    # Values so far in each open collection, and its anchor.
    open_sizes: list[int] = [0]
    anchors: list[str | None] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.AliasEvent):
            open_sizes[-1] += sizes.get(str(event.anchor), 1)
        elif isinstance(event, yaml.CollectionStartEvent):
            open_sizes.append(1)
            anchors.append(event.anchor)
        elif isinstance(event, yaml.CollectionEndEvent):
            size, anchor = open_sizes.pop(), anchors.pop()
            open_sizes[-1] += size
            if anchor is not None:
                sizes[anchor] = size
        elif isinstance(event, yaml.ScalarEvent):
            open_sizes[-1] += 1
        if len(open_sizes) > _DEEPEST_YAML:
            raise _TooMuch(f"nests values more than {_DEEPEST_YAML} deep")
        if open_sizes[-1] > _MOST_YAML:
            raise _TooMuch(f"stands for more than {_MOST_YAML} values")


def parse_setting(setting: str, example: str) -> tuple[str, Any]:
    """Key and value of one `key=value` of `--set`, the value in YAML.

    Raises:
        RecipeError: It has another form; the message shows `example`.
    """
    name, separator, text = setting.partition("=")
    if not separator or not name.strip():
        raise RecipeError(f"--set takes key=value, for example {example}, not {setting!r}")
    try:
        return name.strip(), parse_yaml(text, text, RecipeError)
    except RecipeError as cause:
        raise RecipeError(f"--set {setting}: {text!r} is not a YAML value") from cause


def shortened(value: Any, longest: int = 80) -> str:
    """A value as it was written, for a message: cut where it is long."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return "a value that is too long to write down"
    return text if len(text) <= longest else f"{text[:longest]} ..."


def reason_of(error: ErrorDetails) -> str:
    """What is wrong with a value, in the words of who wrote it instead of those of its validation."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "tuple_type":
        return f"this is a list, as [{error['input']}]"
    return error["msg"]
