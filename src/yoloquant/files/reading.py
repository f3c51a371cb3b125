"""Text that users write: files, YAML and `--set`; whatever is wrong with it becomes one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic_core import ErrorDetails

from yoloquant.errors import RecipeError, YoloquantError


def read_text(path: Path, error: type[YoloquantError] = YoloquantError) -> str:
    """The content of a text file in UTF-8.

    Args:
        path: of the file.
        error: class to raise.

    Raises:
        YoloquantError: the file cannot be read, or holds something else than text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as cause:
        raise error(f"{path} is not a text file in UTF-8: check that it is the right file") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read: {cause.strerror}") from cause


def parse_yaml(text: str, name: str, error: type[YoloquantError] = YoloquantError) -> Any:
    """The value that a YAML text holds.

    Args:
        text: to parse.
        name: of its source, for the message.
        error: class to raise.

    Raises:
        YoloquantError: it is not valid YAML.
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as cause:
        # Dates that do not exist are told by a ValueError.
        raise error(f"{name} is not valid YAML: {str(cause).splitlines()[0]}") from cause


def parse_setting(setting: str, example: str) -> tuple[str, Any]:
    """Key and value of one `key=value` of `--set`, the value in YAML.

    Raises:
        RecipeError: it has another form; the message shows `example`.
    """
    name, separator, text = setting.partition("=")
    if not separator or not name.strip():
        raise RecipeError(f"--set takes key=value, for example {example}, not {setting!r}")
    try:
        return name.strip(), yaml.safe_load(text)
    except (yaml.YAMLError, ValueError) as cause:
        raise RecipeError(f"--set {setting}: {text!r} is not a YAML value") from cause


def reason_of(error: ErrorDetails) -> str:
    """What is wrong with a value, in the words of who wrote it instead of those of its validation."""
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    if error["type"] == "tuple_type":
        return f"this is a list, as [{error['input']}]"
    return error["msg"]
